"""Step sizes and proposal scales, tuned on acceptance rates from a known formula."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from parsample.kernels.tuning import StepSize


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
