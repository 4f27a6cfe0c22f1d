"""What shows whether a warm-up has settled: R-hat between lanes, divergences and acceptance."""

from typing import Any

import numpy as np
import pytest

from parsample.kernels.base import Statistics
from parsample.kernels.whitening import identity
from parsample.lanes.meeting import Stretch
from parsample.warmup.adaptation import Reference, r_hat_of_lanes


def test_lanes_that_agree_have_a_ratio_of_one():
    rng = np.random.default_rng(0)
    agreeing = rng.normal(size=(64, 32, 2))
    assert r_hat_of_lanes(agreeing) == pytest.approx(1, abs=0.03)
    apart = agreeing + np.array([0, 5])[None, None] * (np.arange(32) % 2)[None, :, None]
    assert r_hat_of_lanes(apart) > 2


def judged(*, diverging: np.ndarray, path: np.ndarray, **kwargs: Any) -> Reference:
    """A round of which every transition that does not diverge is accepted."""
    found = Statistics(np.zeros_like(path[..., 0]), np.where(diverging, 0.0, 1.0), diverging, *[None] * 4)
    stretch = Stretch(None, None, None, None, (path, found))
    return Reference.of(stretch, identity(np.zeros(2)), 0.8, **{"has_walls": False, "flat": [], **kwargs})


def test_a_round_tells_why_the_warmup_has_not_settled():
    rng = np.random.default_rng(0)
    path, diverging = rng.normal(size=(64, 32, 2)), np.zeros((64, 32), bool)
    assert judged(diverging=diverging, path=path).unsettled == ""
    diverging[:20] = True
    found = judged(diverging=diverging, path=path, flat=["x[1]"])
    assert found.unsettled == "640 of 2048 transitions diverge; acceptance rate 0.69, target 0.80"
    assert (found.diverges, found.num_stops, found.others_accept(0.8)) == (True, 32, True)
    walled = judged(diverging=diverging, path=path, has_walls=True)
    assert (walled.unsettled, walled.num_diverging, round(walled.acceptance_rate, 2)) == ("", 640, 0.69)
    apart = judged(diverging=diverging & False, path=path + np.arange(32)[None, :, None], flat=["x[1]"])
    assert apart.unsettled.endswith("; the log density does not change with x[1] near the starts")
