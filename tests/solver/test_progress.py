"""Progress of a solve: the number of leading exact blocks, and the number of sweeps that can pay."""

import jax.numpy as jnp
import pytest

from parsample import DEER, Zero
from parsample.solver.grid import Grid
from parsample.solver.progress import DeviceSummary, advance, max_sweeps, no_progress, stall_limit


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
    assert (progress.defects[1:] == -1).all()
    assert not bool(progress.hopeless)


@pytest.mark.parametrize(
    ("method", "num_tangents", "limit", "most"),
    [
        (DEER(10, Zero()), 0, 25, 25),  # a quarter of the blocks
        (DEER(10), 3, 16, 16),  # tangents cost as much as states, but the limit is at least 16
        (DEER(10, stall_after=5), 3, 5, 5),
        (DEER(10, Zero(), max_iters=7), 0, 25, 7),
        (DEER(100, Zero()), 0, 16, 10),  # as many sweeps as blocks always suffice
    ],
    ids=str,
)
def test_there_are_no_more_sweeps_than_can_pay(method, num_tangents, limit, most):
    grid = Grid(1000, method.block_size)
    assert stall_limit(method, grid, num_tangents) == limit
    assert max_sweeps(method, grid, num_tangents) == most
