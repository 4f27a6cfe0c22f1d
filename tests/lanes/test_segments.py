"""Segments: how chains are cut into blocks, what sweeps find, and how a run continues after a segment."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import Status
from parsample.lanes.dynamics import LaneDynamics
from parsample.lanes.program import LaneProgram
from parsample.lanes.segments import BlockLayout, Run, Segment, evaluate_segment

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


@dataclass(frozen=True)
class Forgetting(LaneDynamics):
    """Half of the state plus noise that depends on chain and step, rounded to multiples of `grid` if that is not 0.

    With a grid, two paths with common noise become equal after a few steps.
    """

    grid: float

    def step(self, parameters: Any, inputs: Any, state: jax.Array, row: jax.Array, needs_evaluation: Any) -> tuple:
        chain, first_step = inputs
        moved = state / 2 + jnp.sin(1.7 * chain + 12.9898 * (first_step + row).astype(state.dtype))
        moved = self.grid * jnp.round(moved / self.grid) if self.grid else moved
        return moved, moved, ()

    def met(self, parameters: Any, atol: Any, new: tuple, old: tuple) -> tuple:
        distance = abs(new[0] - old[0]).max(-1)
        return distance, distance <= atol

    def joined(self, parameters: Any, atol: float, one: np.ndarray, other: np.ndarray) -> tuple:
        distance = np.abs(one - other).max(-1)
        return distance, distance <= atol

    def with_estimated_scale(self, parameters: Any, path: Any) -> Any:
        return parameters


STARTS = np.array([[3.0], [-5.0]])


def setup(grid: float, num_threads: int = 1) -> tuple[LaneProgram, Run, np.ndarray]:
    """A program of eight lanes, two chains before their first step, and 128 steps of these, one by one."""
    dynamics = Forgetting(grid)
    records = (jax.ShapeDtypeStruct((1,), float), ())
    program = LaneProgram(dynamics, 8, None, records, num_threads=num_threads)
    chains = Run((), lambda chains, steps: (chains.astype(float), steps.astype(np.int32)), STARTS)
    states, path = jnp.asarray(STARTS), []
    for step in range(128):
        states, *_ = jax.vmap(lambda *lane, t=step: dynamics.step((), lane[:2], lane[2], jnp.int32(t), False))(
            jnp.arange(2.0), jnp.zeros(2, np.int32), states
        )
        path.append(states)
    return program, chains, np.moveaxis(np.array(path), 0, 1)


def evaluated(
    grid: float, atol: float, num_threads: int = 1, max_rows: float = np.inf
) -> tuple[list[Segment], np.ndarray]:
    """Two segments of two chains in four blocks of sixteen steps each, and the chains step by step."""
    program, chains, expected = setup(grid, num_threads)
    segments, guesses = [], np.linspace(-1e6, 1e6, 8)[:, None]  # paths from there take longer to meet than a block
    for _ in range(2):
        segment, guesses = evaluate_segment(program, chains, guesses, 16, atol, max_rows)
        segments, chains = [*segments, segment], chains.after(segment)
    return segments, expected


@pytest.mark.parametrize("num_threads", [1, 2])
def test_blocks_are_the_chains_step_by_step(num_threads):
    segments, expected = evaluated(1 / 64, 0.0, num_threads)
    np.testing.assert_array_equal(np.concatenate([segment.path for segment in segments], axis=1), expected)
    for number, segment in enumerate(segments):
        assert (segment.status, segment.defect, segment.first) == (Status.CONVERGED, 0, 64 * number)
        np.testing.assert_array_equal(segment.final, expected[:, 64 * number + 63])
        assert segment.num_sweeps == (3 if number == 0 else 2)
        assert 1 < segment.evals_per_step < 4


def largest_jump(segment: Segment) -> float:
    """Largest difference between a state and the step from the state before it."""
    before = np.concatenate([STARTS[:, None], segment.path[:, :-1]], axis=1)
    noise = np.sin(1.7 * np.arange(2)[:, None] + 12.9898 * np.arange(64))[..., None]
    return float(np.abs(segment.path - before / 2 - noise).max())


@pytest.mark.parametrize("jitter", [1e6, 1e-4])
def test_the_defect_covers_jumps_inside_and_between_blocks(jitter):
    # From near the truth the first sweep is enough, and all jumps are between blocks; from far away, inside them.
    program, chains, expected = setup(0.0)
    starts = np.concatenate([STARTS[:, None], expected[:, 15:63:16]], axis=1).reshape(8, 1)
    segment, _ = evaluate_segment(program, chains, starts + jitter * np.linspace(-1, 1, 8)[:, None], 16, 1e-3, np.inf)
    assert (segment.num_sweeps == 1) == (jitter < 1)
    assert 1e-8 < largest_jump(segment) <= segment.defect <= 1e-3


def test_a_segment_without_time_to_meet_keeps_its_exact_part():
    segments, expected = evaluated(1 / 64, 0.0, max_rows=0.0)
    assert segments[0].status is Status.STALLED
    assert segments[0].num_steps == 16  # blocks start from guesses, the first of each chain from its state
    np.testing.assert_array_equal(segments[0].path, expected[:, :16])
    np.testing.assert_array_equal(segments[0].final, expected[:, 15])
