"""When a run may stop early."""

import arviz
import numpy as np
import pytest

from parsample import StopAt
from parsample.samplers.stopping import StopRule

# Numbers of draws per chain at which criteria are computed.
CHECKED = [100, 120, 144, 173, 208, 250, 300, 360, 432, 518, 622, 746, 895]

RNG = np.random.default_rng(0)
DRAWS = {
    "x": RNG.normal(size=(4, 1000, 2)),
    "slow": RNG.normal(size=(4, 1000)).cumsum(1),
    "flag": RNG.random((4, 1000)) < 0.5,
}


def first_met(stop_at: StopAt, length: int = 50) -> int | None:
    """Number of draws with which a run with segments of this length stops."""
    rule, num_draws = StopRule(stop_at), 0
    for first in range(0, 1000, length):
        num_draws += rule.add({name: values[:, first : first + length] for name, values in DRAWS.items()})
        if rule.is_met:
            return num_draws
    assert num_draws == 1000
    return None


@pytest.mark.parametrize("length", [1, 50, 333, 1000])
def test_a_run_stops_once_all_components_have_the_effective_draws(length):
    found = first_met(StopAt(ess=1500, variables=["x"]), length)
    assert found is not None
    assert found in CHECKED
    for size, reached in ((found, True), (CHECKED[CHECKED.index(found) - 1], False)):
        sizes = np.asarray(arviz.ess(DRAWS["x"][:, :size], method="bulk"))
        assert bool((sizes >= 1500).all()) is reached
    assert first_met(StopAt(ess=1500), length) is None  # of all variables, a random walk among them
    assert first_met(StopAt(ess=1500, variables=["x", "flag"]), length) is not None


def test_a_run_stops_once_the_errors_are_small_enough():
    found = first_met(StopAt(mcse={"flag": 0.02}))
    assert found is not None
    # 0.5 / sqrt(draws of four chains) is 0.02 at 156 draws per chain; estimates of it vary.
    assert found in (144, 173)
    assert 0.015 < float(arviz.mcse(DRAWS["flag"][:, :found].astype(float), method="mean")) <= 0.02
    assert first_met(StopAt(mcse={"flag": 0.001})) is None


def test_both_criteria_must_be_met():
    assert first_met(StopAt(ess=400, mcse={"slow": 1e-3}, variables=["x"])) is None
    assert first_met(StopAt(ess=1e6, mcse={"flag": 0.02}, variables=["x"])) is None
    assert first_met(StopAt(ess=400, mcse={"flag": 0.02}, variables=["x"])) == first_met(StopAt(mcse={"flag": 0.02}))


def test_few_draws_decide_nothing_and_it_is_computed_rarely(monkeypatch):
    rule, computed = StopRule(StopAt(ess=1e9, variables=["x"])), []
    monkeypatch.setattr(StopRule, "_is_met_by", lambda _, size: bool(computed.append(size)))
    for first in range(0, 1000, 10):
        assert rule.add({"x": DRAWS["x"][:, first : first + 10]}) == 10
    assert computed == CHECKED
    assert not rule.is_met


def test_draws_of_a_former_run_count_at_once():
    stop_at = StopAt(ess=1500, variables=["x"])
    rule = StopRule(stop_at)
    assert rule.add(DRAWS) == first_met(stop_at)
    assert rule.is_met


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "StopAt needs ess= or mcse="),
        ({"mcse": {}}, "StopAt needs ess= or mcse="),
        ({"ess": "100"}, "StopAt: ess must be positive; got '100'"),
        ({"mcse": 0.1}, "StopAt: mcse must be a dict of errors by variable; got 0.1"),
        ({"ess": 0}, "StopAt: ess must be positive; got 0"),
        ({"ess": np.nan}, "StopAt: ess must be positive; got nan"),
        ({"mcse": {"x": -1.0}}, r"StopAt: x must be positive; got -1\.0"),
    ],
)
def test_criteria_that_cannot_be_are_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        StopAt(**arguments)


def test_names_are_checked_and_values_are_plain():
    stop_at = StopAt(ess=100, mcse={"a": 0.1}, variables=["b"])
    stop_at.check({"a": 0, "b": 0})
    with pytest.raises(ValueError, match=r"stop_at names \['b'\], which are not kept; these are: \['a'\]"):
        stop_at.check({"a": 0})
    assert StopAt(**stop_at.as_dict()) == stop_at
