"""Meeting times: what pairs of lanes show, the law of the slowest, and the plan that follows."""

import math

import numpy as np
import pytest

from parsample.meeting import MeetingTimes
from parsample.meeting import _times as times_of
from parsample.sampler_report import Measured, block_size_of, make_plan


def meeting(times: np.ndarray, num_steps: int = 500) -> MeetingTimes:
    return MeetingTimes(np.asarray(times, float), np.ones((num_steps, len(times))))


def test_a_pair_has_met_from_the_step_on_after_which_it_stays_together():
    distances = np.array([[1.0, 0.5, 0.0], [0.0, 0.4, 0.0], [0.2, 0.3, 0.0], [0.0, 0.2, 0.0]])
    found = times_of(distances, 0.0)
    np.testing.assert_array_equal(found.times, [4, np.inf, 1])
    assert (found.num_unmet, found.num_steps) == (1, 4)
    np.testing.assert_array_equal(times_of(distances, 0.45).times, [2, 2, 1])
    assert np.isinf(times_of(np.full((3, 1), np.nan), 1.0).times).all()


@pytest.mark.parametrize(("rate", "num_lanes"), [(0.05, 64), (0.01, 1024)])
def test_the_slowest_of_exponential_times_is_foretold(rate, num_lanes):
    rng = np.random.default_rng(0)
    slowest = rng.exponential(1 / rate, (2000, num_lanes)).max(1).mean()
    found = meeting(rng.exponential(1 / rate, 256), 10_000).slowest(num_lanes)
    assert found == pytest.approx(slowest, rel=0.3)


def test_pairs_that_were_not_watched_long_enough_are_not_taken_for_met():
    rng = np.random.default_rng(0)
    times = rng.exponential(200.0, 256)
    censored = np.where(times > 300, np.inf, times)
    assert meeting(censored, 300).slowest(64) == pytest.approx(meeting(times, 5000).slowest(64), rel=0.3)
    assert math.isinf(meeting(np.where(times > 100, np.inf, times), 100).slowest(64))


def test_contraction_is_the_slope_of_the_log_distance():
    distances = np.exp(-0.25 * np.arange(40))[:, None] * np.ones((1, 4))
    assert MeetingTimes(np.full(4, np.inf), distances).contraction_rate == pytest.approx(-0.25)
    assert math.isnan(MeetingTimes(np.ones(4), np.zeros((3, 4))).contraction_rate)


@pytest.mark.parametrize(
    ("num_samples", "num_blocks", "num_rows", "expected"),
    [(1000, 16, 1024, 64), (100_000, 16, 1024, 896), (16, 16, 1024, 16), (20_000, 64, 1024, 320), (1, 1, 64, 16)],
)
def test_equal_segments_hold_all_steps(num_samples, num_blocks, num_rows, expected):
    size = block_size_of(num_samples, num_blocks, num_rows, 16)
    assert size == expected <= num_rows
    segments = math.ceil(num_samples / (num_blocks * size))
    assert segments * num_blocks * size >= num_samples
    assert (segments * num_blocks - 1) * size < num_samples + num_blocks * size * 0.1 + 16 * num_blocks * segments


def test_blocks_are_planned_where_lanes_meet_soon():
    plan, cause, remedy = make_plan(meeting(np.full(64, 20.0)), 64, 4, 10_000, 640, Measured(1e-3, 2.0))
    assert plan.is_parallel
    assert (plan.num_blocks, plan.block_size) == (16, 640)
    assert 1.02 < plan.evals_per_step < 1.2
    assert plan.seconds == pytest.approx(plan.evals_per_step * 10_000 * 4 / 64 * 1e-3)
    assert cause == remedy == ""
    assert "16 blocks of 640 steps" in str(plan)


def test_step_by_step_is_planned_where_most_pairs_never_meet():
    times = np.where(np.arange(64) % 3 == 0, 50.0, np.inf)
    plan, cause, remedy = make_plan(meeting(times), 64, 4, 10_000, 640, Measured(1e-3, 2.0))
    assert not plan.is_parallel
    assert cause == "42 of 64 pairs of lanes did not meet within 500 steps"
    assert "metropolis" in remedy
    assert plan.seconds == pytest.approx(2 + 10_000 * 0.25 * 1e-3)


def test_a_short_run_is_not_worth_another_compilation():
    slow = meeting(np.full(64, 400.0))
    assert make_plan(slow, 64, 4, 1000, 64, Measured(1e-3, 2.0))[0].is_parallel
    assert not make_plan(slow, 64, 4, 1000, 64, Measured(1e-1, 2.0))[0].is_parallel


def test_blocks_do_not_pay_where_lanes_cost_as_much_as_as_many_single_ones():
    soon = meeting(np.full(64, 100.0))
    linear = Measured(1.0, 2.0, share_of_chains=4 / 64)
    assert not make_plan(soon, 64, 4, 10_000, 640, linear)[0].is_parallel
    assert make_plan(soon, 64, 4, 10_000, 640, Measured(1.0, 2.0))[0].is_parallel
