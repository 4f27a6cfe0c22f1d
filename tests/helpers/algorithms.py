"""BlackJAX algorithms on test targets, and a comparison of their runs."""

from collections.abc import Callable
from typing import Any

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(11)

# Target: log density, start, step size of mala, step size of the other kernels.
TARGETS: dict[str, tuple[Callable, Callable, float, float]] = {
    "gaussian": (chains.gaussian, chains.gaussian_start, 0.08, 0.4),
    "logistic": (chains.logistic_regression, chains.logistic_regression_start, 0.06, 0.3),
    "schools": (chains.eight_schools, chains.eight_schools_start, 0.4, 0.5),
}
_built: dict[tuple[str, str], Any] = {}


def build(kernel: str, target: str) -> tuple[Any, Any]:
    """The algorithm, built once so that compiled code is reused, and its start."""
    logdensity, start, small, large = TARGETS[target]
    if (kernel, target) not in _built:
        ones = jnp.ones(sum(leaf.size for leaf in jax.tree.leaves(start())))
        _built[kernel, target] = {
            "mala": lambda: blackjax.mala(logdensity, small),
            "hmc": lambda: blackjax.hmc(logdensity, large, ones, 3),
            "dhmc": lambda: blackjax.dhmc(logdensity, large, ones),
            "nuts": lambda: blackjax.nuts(logdensity, large, ones),
        }[kernel]()
    return _built[kernel, target], start()


def first_and_acceptance(state: Any, info: Any) -> dict:
    return {"x0": state.position["x"][0], "rate": info.acceptance_rate}


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert equal structure, shapes, dtypes, keys, integers and booleans, and floats equal to 1e-8."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
        elif jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
        else:
            np.testing.assert_array_equal(a, b)
