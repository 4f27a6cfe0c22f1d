"""What a solve keeps of its way: the merit and the front."""

import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, fade, noise

from parsample import Status, deer
from parsample.solver.grid import Grid
from parsample.solver.progress import DeviceSummary, advance, no_progress


@pytest.mark.parametrize("block_size", [1, 5])
def test_the_first_merit_is_half_the_sum_of_squared_defects(block_size):
    chain = Recursion(fade, jnp.array(0.0), noise(20))
    solution = deer(*chain, block_size=block_size, scale=jnp.array(1.0))
    assert Status(int(solution.status)) is Status.CONVERGED
    np.testing.assert_allclose(
        float(solution.merit_history[0]), float(jnp.square(solution.block_defects[0]).sum() / 2), rtol=1e-12
    )


@pytest.mark.parametrize(("num_met", "front"), [([2, 1], 3), ([1, 2], 1), ([2, 2], 4), ([0, 2], 0)])
def test_the_front_ends_where_the_first_device_has_not_met(num_met, front):
    counts, grid = jnp.array(num_met), Grid(40, 10, 2)
    summaries = DeviceSummary(
        counts, jnp.array([False, False]), 2 - counts, counts, jnp.array([0.5, 2.0]), jnp.array([1.0, 3.0])
    )
    progress = advance(no_progress(4, jnp.float64), summaries, grid)
    assert (int(progress.num_iters), int(progress.front), int(progress.met_prefixes[0])) == (1, front, front)
    assert int(progress.unmet[0]) == 4 - sum(num_met)
    assert (float(progress.defects[0]), float(progress.merits[0])) == (2.0, 2.0)
    assert np.isnan(progress.defects[1:]).all()
    assert not bool(progress.hopeless)
