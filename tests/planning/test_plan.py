"""Plans: blocks if lanes meet soon enough for blocks to pay, else step by step."""

import math

import numpy as np
import pytest

from parsample.lanes.meeting import MeetingTimes
from parsample.planning.plan import Measured, block_size_of, depends_on_single_steps, late_meeting_cause, make_plan


def meeting(times: np.ndarray, num_steps: int = 500) -> MeetingTimes:
    return MeetingTimes(np.asarray(times, float), np.ones((num_steps, len(times))))


@pytest.mark.parametrize(
    ("num_steps", "num_blocks", "num_rows", "expected"),
    [(1000, 16, 1024, 64), (100_000, 16, 1024, 896), (16, 16, 1024, 16), (20_000, 64, 1024, 320), (1, 1, 64, 16)],
)
def test_equal_segments_hold_all_steps(num_steps, num_blocks, num_rows, expected):
    size = block_size_of(num_steps, num_blocks, num_rows, 16)
    assert size == expected <= num_rows
    segments = math.ceil(num_steps / (num_blocks * size))
    assert segments * num_blocks * size >= num_steps
    assert (segments * num_blocks - 1) * size < num_steps + num_blocks * size * 0.1 + 16 * num_blocks * segments


def test_blocks_are_planned_where_lanes_meet_soon():
    plan = make_plan(meeting(np.full(64, 20.0)), 64, 4, 10_000, 640, Measured(1e-3, 2.0))
    assert plan.is_parallel
    assert (plan.num_blocks, plan.block_size) == (16, 640)
    assert 1.02 < plan.evals_per_step < 1.2
    assert plan.seconds == pytest.approx(plan.evals_per_step * 10_000 * 4 / 64 * 1e-3)
    assert "16 blocks of 640 steps" in str(plan)


def test_step_by_step_is_planned_where_most_pairs_never_meet():
    times = np.where(np.arange(64) % 3 == 0, 50.0, np.inf)
    plan = make_plan(meeting(times), 64, 4, 10_000, 640, Measured(1e-3, 2.0))
    assert not plan.is_parallel
    assert late_meeting_cause(meeting(times), 64) == "42 of 64 pairs did not meet within 500 steps"
    assert plan.seconds == pytest.approx(2 + 10_000 * 0.25 * 1e-3)


def test_a_short_run_is_not_worth_another_compilation():
    slow = meeting(np.full(64, 400.0))
    assert make_plan(slow, 64, 4, 1000, 64, Measured(1e-3, 2.0)).is_parallel
    assert not make_plan(slow, 64, 4, 1000, 64, Measured(1e-1, 2.0)).is_parallel


def test_blocks_do_not_pay_where_lanes_cost_as_much_as_as_many_single_ones():
    soon = meeting(np.full(64, 100.0))
    linear = Measured(1.0, 2.0, single_step_cost=4 / 64)
    assert not make_plan(soon, 64, 4, 10_000, 640, linear).is_parallel
    assert make_plan(soon, 64, 4, 10_000, 640, Measured(1.0, 2.0)).is_parallel


def test_single_steps_are_timed_where_the_plan_depends_on_them_and_finding_out_is_cheap():
    late, soon = meeting(np.full(64, 600.0)), meeting(np.full(64, 20.0))
    costs = Measured(1e-3, 0.5)
    close, clear = (make_plan(times, 64, 4, 100_000, 640, costs) for times in (late, soon))
    assert close.is_parallel
    assert clear.is_parallel
    assert depends_on_single_steps(close, costs, 64)
    assert not depends_on_single_steps(clear, costs, 64)
    assert not depends_on_single_steps(close, Measured(1e-3, 5.0), 64)
    assert not make_plan(late, 64, 4, 100_000, 640, Measured(1e-3, 0.0, single_step_cost=0.08)).is_parallel
