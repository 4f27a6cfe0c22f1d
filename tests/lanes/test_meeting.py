"""Meeting times of pairs of lanes, and the predicted time of the slowest lane."""

import math

import numpy as np
import pytest

from parsample.lanes.meeting import MAX_TOLERANCE, NOISE_MARGIN, MeetingTimes


def meeting(times: np.ndarray, num_steps: int = 500) -> MeetingTimes:
    return MeetingTimes(np.asarray(times, float), np.ones((num_steps, len(times))))


def test_a_pair_has_met_from_the_step_on_after_which_it_stays_together():
    distances = np.array([[1.0, 0.5, 0.0], [0.0, 0.4, 0.0], [0.2, 0.3, 0.0], [0.0, 0.2, 0.0]])
    found = MeetingTimes(np.ones(3), distances).within(0.0)
    np.testing.assert_array_equal(found.times, [4, np.inf, 1])
    assert (found.num_unmet, found.num_steps) == (1, 4)
    np.testing.assert_array_equal(found.within(0.45).times, [2, 2, 1])
    assert np.isinf(MeetingTimes(np.ones(1), np.full((3, 1), np.nan)).within(1.0).times).all()


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


@pytest.mark.parametrize(("share", "is_tolerated"), [(0.01, True), (0.99, True), (1.01, False), (20.0, False)])
def test_rounding_is_tolerated_up_to_a_small_part_of_a_standard_deviation(share, is_tolerated):
    distance = share * MAX_TOLERANCE / NOISE_MARGIN
    found = MeetingTimes(np.full(4, np.inf), np.full((40, 4), distance))
    assert found.tolerance(1e-5) == (NOISE_MARGIN * distance if is_tolerated else 1e-5)


def test_pairs_that_still_approach_are_not_kept_apart_by_rounding():
    distances = np.exp(-0.25 * np.arange(40))[:, None] * np.ones((1, 4))
    assert MeetingTimes(np.full(4, np.inf), distances).tolerance(1e-10) == 1e-10


def test_contraction_is_the_slope_of_the_log_distance():
    distances = np.exp(-0.25 * np.arange(40))[:, None] * np.ones((1, 4))
    assert MeetingTimes(np.full(4, np.inf), distances).contraction_rate == pytest.approx(-0.25)
    assert math.isnan(MeetingTimes(np.ones(4), np.zeros((3, 4))).contraction_rate)
