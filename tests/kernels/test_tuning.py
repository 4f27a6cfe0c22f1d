"""Step sizes and proposal scales, tuned on acceptance rates from a known formula."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from parsample.kernels.tuning import StepSize, are_walls, lane_rates


def test_step_sizes_follow_the_law_of_acceptance():
    # Acceptance 2 Phi(-c s^2): one measurement of all lanes suffices.
    c = 0.8
    tuning = StepSize(0.8, np.asarray(0.1), uses_gradient=True)
    for _ in range(6):
        rate = 2 * ndtr(-c * float(tuning.current) ** 2)
        tuning.update(np.full(64, rate))
    assert float(tuning.current) == pytest.approx(np.sqrt(ndtri(0.6) / c), rel=0.05)


def test_the_worst_lanes_bound_the_step_size():
    rates = np.full(64, 0.9)
    alone, with_stuck = (StepSize(0.8, np.asarray(0.5), uses_gradient=True) for _ in range(2))
    alone.update(rates)
    rates[:4] = 0.05
    with_stuck.update(rates)
    assert float(with_stuck.current) < 0.5 < float(alone.current)


def test_proposal_scales_follow_the_law_of_random_walks():
    tuning = StepSize(0.44, np.array([0.3, 20.0]), uses_gradient=False)
    for _ in range(8):
        tuning.update(2 / np.pi * np.arctan(2 / tuning.current))
    np.testing.assert_allclose(tuning.current, 2 / np.tan(0.44 * np.pi / 2), rtol=0.05)


def test_step_sizes_stay_below_their_maximum():
    tuning = StepSize(0.8, np.asarray(0.1), uses_gradient=True, maximum=0.7)
    for _ in range(20):
        tuning.update(np.ones(64))
    assert float(tuning.current) == 0.7


def test_at_walls_the_transitions_inside_count():
    acceptance = np.array([[0.0, 0.9, 0.0], [0.8, 0.7, np.nan]])
    diverging = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_allclose(lane_rates(acceptance, diverging, at_walls=False), [0.4, 0.8, 0.0])
    np.testing.assert_allclose(lane_rates(acceptance, diverging, at_walls=True), [0.8, 0.8, 0.8])
    assert not lane_rates(acceptance, np.ones_like(diverging), at_walls=True).any()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1000], False),
        ([1147, 1130], True),  # as many as before
        ([900, 630], False),  # in proportion to the step size
        ([900, 440], False),  # faster
        ([6, 3], False),  # too few to tell
        ([6, 6], False),
        ([6, 6, 5, 7, 6], True),
        ([0, 0, 0], False),
    ],
)
def test_walls_are_met_as_often_at_every_step_size(counts, expected):
    step_sizes = 0.4 * 0.7 ** np.arange(len(counts))
    assert are_walls(list(zip(step_sizes, counts, strict=True))) is expected
