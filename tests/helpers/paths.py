"""Paths of recursions, compared with each other and with their own steps: shared by the tests of the solver."""

import jax
import jax.numpy as jnp
import numpy as np
from chains import Recursion

T = 50
PATIENT = {"stall_after": 10_000}


def assert_same_path(states, expected, atol=1e-8):
    for ours, theirs in zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def residuals(chain: Recursion, states) -> np.ndarray:
    """Largest difference between each state and the step of the state before it, shape (T,).

    The solver's certificate bounds it; here it is computed without the solver.
    """
    before = jax.tree.map(
        lambda s, path: jnp.concatenate([jnp.asarray(s)[None], path[:-1]]), chain.initial_state, states
    )
    steps = jax.vmap(chain.step)(before, chain.inputs)
    jumps = jax.tree.map(lambda a, b: jnp.abs(a - b).reshape(a.shape[0], -1).max(1), steps, states)
    return np.max(jax.tree.leaves(jumps), axis=0)
