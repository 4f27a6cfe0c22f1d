"""R-hat between lanes, which shows whether a warm-up has settled."""

import numpy as np
import pytest

from parsample.warmup.adaptation import r_hat_of_lanes


def test_lanes_that_agree_have_a_ratio_of_one():
    rng = np.random.default_rng(0)
    agreeing = rng.normal(size=(64, 32, 2))
    assert r_hat_of_lanes(agreeing) == pytest.approx(1, abs=0.03)
    apart = agreeing + np.array([0, 5])[None, None] * (np.arange(32) % 2)[None, :, None]
    assert r_hat_of_lanes(apart) > 2
