"""Corrections of block starts against their definitions, and solves with them against the rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, noise
from matrices import FORMS, random_operators

from parsample import Newton, Status, deer, rollout
from parsample.solver import affine
from parsample.solver.operators import Operator

C = 4
DEFECTS = np.random.default_rng(5).normal(size=(C, 6))
SCALE = np.array([0.01, 1.0, 3.0, 0.5, 20.0, 0.2])


def corrected(correction, operators: Operator) -> np.ndarray:
    return np.asarray(jax.jit(correction)(operators, jnp.array(DEFECTS), jnp.array(SCALE)))


# The rules


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damping", [0.0, 0.3, 1.0])
def test_damping_scales_the_operators(damping, form):
    operators = random_operators(form, C)
    expected = affine.solve((1 - damping) * operators, jnp.array(DEFECTS))
    np.testing.assert_allclose(corrected(Newton(damping), operators), expected, rtol=1e-12)
    if damping == 1:
        np.testing.assert_array_equal(expected, DEFECTS)


@pytest.mark.slow
def test_damped_corrections_find_the_rollout():
    weights = np.random.default_rng(2).normal(size=(4, 4)) / 3
    chain = Recursion(lambda s, u: jnp.tanh(jnp.asarray(weights) @ s) + u, jnp.ones(4), noise(40, 4))
    solution = deer(*chain, correction=Newton(0.2), block_size=7, stall_after=10_000)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) <= 6
    np.testing.assert_allclose(solution.states, rollout(*chain), atol=1e-8)


@pytest.mark.parametrize("damping", [-0.1, 1.5, float("nan")])
def test_damping_out_of_range(damping):
    with pytest.raises(ValueError, match=f"damping must lie between 0 and 1; got {damping}"):
        Newton(damping)
