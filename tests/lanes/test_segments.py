"""Segments: how chains are cut into blocks, and how a run continues after a segment."""

import numpy as np
import pytest

from parsample import Status
from parsample.lanes.segments import BlockLayout, Run, Segment

# Two chains of three blocks of four steps.
LAYOUT = BlockLayout(2, 3, 4, None)


def run(first: int = 100) -> Run:
    return Run(None, lambda chains, first_steps: (chains, first_steps), {"x": np.array([10.0, 20.0])}, first)


def segment() -> Segment:
    """Ten steps of two chains, which took thirty evaluations."""
    path, final = np.zeros((2, 10, 3)), {"x": np.array([11.0, 21.0])}
    return Segment(100, 10, path, {"lp": path[..., 0]}, final, Status.CONVERGED, 0.0, 2, 30, np.zeros((2, 2)), 5)


def test_every_block_of_every_chain_has_its_lane():
    layout = BlockLayout.of(run(), 6, 4)
    assert layout[:3] == (2, 3, 4)
    chains, first_steps = layout.inputs
    assert chains.tolist() == [0, 0, 0, 1, 1, 1]
    assert first_steps.tolist() == [100, 104, 108, 100, 104, 108]


def test_rows_of_lanes_are_the_steps_of_chains_in_order():
    values = np.array([[100 * (lane // 3) + 4 * (lane % 3) + row for lane in range(6)] for row in range(4)])
    assert LAYOUT.in_chain_order(values).tolist() == [list(range(12)), list(range(100, 112))]
    pairs = LAYOUT.in_chain_order(np.stack([values, -values], axis=-1))
    assert pairs.shape == (2, 12, 2)
    np.testing.assert_array_equal(pairs[..., 1], -LAYOUT.in_chain_order(values))


def test_a_block_is_reached_from_the_end_of_the_one_before_it_or_from_the_state_of_its_chain():
    ends = {"x": np.arange(6.0)}
    assert LAYOUT.incoming_states(run(), ends)["x"].tolist() == [10, 0, 1, 20, 3, 4]


@pytest.mark.parametrize(
    ("met", "num_exact"),
    [([1, 1, 1, 1, 1, 1], 3), ([1, 1, 0, 1, 1, 1], 2), ([1, 1, 1, 1, 0, 1], 1), ([0, 1, 1, 1, 1, 1], 0)],
)
def test_what_is_exact_ends_at_the_first_block_of_any_chain_that_has_not_met(met, num_exact):
    assert LAYOUT.num_exact(np.array(met, bool)) == num_exact


def test_a_run_goes_on_from_the_end_of_a_segment():
    after = run().after(segment())
    assert (after.num_steps_done, after.num_chains) == (110, 2)
    assert after.states["x"].tolist() == [11, 21]


def test_a_record_without_draws_keeps_the_figures():
    record = segment().without_draws()
    assert (record.path.shape, record.outputs, record.final) == ((2, 0, 3), None, None)
    assert record.evals_per_step == segment().evals_per_step == 1.5
