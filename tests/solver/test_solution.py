"""Solutions: the merit of a solve, and the certificate of a rollout."""

import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, fade, noise

from parsample import Status, deer
from parsample.chain.transition import as_inputs, from_step
from parsample.solver.solution import rolled_out


@pytest.mark.parametrize("block_size", [1, 5])
def test_the_first_merit_is_half_the_sum_of_squared_defects(block_size):
    chain = Recursion(fade, jnp.array(0.0), noise(20))
    solution = deer(*chain, block_size=block_size, scale=jnp.array(1.0))
    assert Status(int(solution.status)) is Status.CONVERGED
    np.testing.assert_allclose(
        float(solution.merit_history[0]), float(jnp.square(solution.block_defects[0]).sum() / 2), rtol=1e-12
    )


def test_a_rollout_is_certified_by_definition():
    transition, start = from_step(lambda s, u: 0.5 * s + u, jnp.zeros(2))
    found = rolled_out(transition, start, as_inputs(jnp.ones((10, 2))))
    assert Status(int(found.status)) is Status.SEQUENTIAL
    # 2 (1 - 2^-10), without rounding.
    np.testing.assert_array_equal(found.final, [1.998046875, 1.998046875])
    np.testing.assert_array_equal(found.block_ends, found.final[None])
    assert (float(found.defect), float(found.evals_per_step)) == (0, 1)
    assert (int(found.num_iters), int(found.exact_prefix)) == (0, 10)
    assert (found.states, found.outputs) == (None, None)


def test_a_rollout_that_was_not_finite_on_its_way_is_not_certified():
    # Only the third state is infinite.
    transition, start = from_step(lambda _, u: jnp.where(u == 2, jnp.inf, u), jnp.zeros(()))
    found = rolled_out(transition, start, as_inputs(jnp.arange(6.0)))
    assert Status(int(found.status)) is Status.NON_FINITE
    assert float(found.final) == 5
