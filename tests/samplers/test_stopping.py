"""When a run may stop early."""

import itertools

import arviz
import numpy as np
import pytest

from parsample import StopAt
from parsample.samplers.stopping import MIN_DRAWS, StopRule

RNG = np.random.default_rng(0)
DRAWS = {
    "x": RNG.normal(size=(4, 1000, 2)),
    "slow": RNG.normal(size=(4, 1000)).cumsum(1),
    "flag": RNG.random((4, 1000)) < 0.5,
}


def first_met(stop_at: StopAt, length: int = 50) -> int | None:
    """Number of draws at which a run with segments of this length stops."""
    rule = StopRule(stop_at)
    for first in range(0, 1000, length):
        rule.add({name: values[:, first : first + length] for name, values in DRAWS.items()})
        if rule.is_met():
            return first + length
    return None


def test_a_run_stops_once_all_components_have_the_effective_draws():
    found = first_met(StopAt(ess=1500, variables=["x"]))
    assert found is not None
    for size, reached in ((found, True), (found - 150, False)):
        sizes = np.asarray(arviz.ess(DRAWS["x"][:, :size], method="bulk"))
        assert bool((sizes >= 1500).all()) is reached
    assert first_met(StopAt(ess=1500)) is None  # of all variables, a random walk among them
    assert first_met(StopAt(ess=1500, variables=["x", "flag"])) is not None


def test_a_run_stops_once_the_errors_are_small_enough():
    found = first_met(StopAt(mcse={"flag": 0.02}))
    assert found is not None
    # 0.5 / sqrt(draws of four chains) < 0.02 from 156 draws per chain on
    assert 150 <= found <= 250
    assert first_met(StopAt(mcse={"flag": 0.001})) is None


def test_both_criteria_must_be_met():
    assert first_met(StopAt(ess=400, mcse={"slow": 1e-3}, variables=["x"])) is None
    assert first_met(StopAt(ess=1e6, mcse={"flag": 0.02}, variables=["x"])) is None
    assert first_met(StopAt(ess=400, mcse={"flag": 0.02}, variables=["x"])) == first_met(StopAt(mcse={"flag": 0.02}))


def test_few_draws_decide_nothing_and_it_is_computed_rarely(monkeypatch):
    rule, computed = StopRule(StopAt(ess=1e9, variables=["x"])), []
    monkeypatch.setattr(StopRule, "_has_ess", lambda _, draws: bool(computed.append(draws["x"].shape[1])))
    for first in range(0, 1000, 10):
        rule.add({"x": DRAWS["x"][:, first : first + 10]})
        assert not rule.is_met()
    assert computed[0] == MIN_DRAWS
    assert all(later >= 1.2 * earlier - 1 for earlier, later in itertools.pairwise(computed))
    assert len(computed) < 15
    assert not StopRule(StopAt(ess=1)).is_met()


def test_draws_of_a_former_run_count_at_once():
    stop_at = StopAt(ess=1500, variables=["x"])
    rule = StopRule(stop_at)
    rule.add(DRAWS)
    assert rule.is_met()
    rule = StopRule(stop_at)
    rule.next_size = 1001  # as in a checkpoint
    rule.add(DRAWS)
    assert not rule.is_met()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "StopAt needs ess= or mcse="),
        ({"mcse": {}}, "StopAt needs ess= or mcse="),
        ({"ess": 0}, "StopAt: ess must be positive; got 0"),
        ({"ess": np.nan}, "StopAt: ess must be positive; got nan"),
        ({"mcse": {"x": -1.0}}, r"StopAt: x must be positive; got -1\.0"),
    ],
)
def test_criteria_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        StopAt(**arguments)


def test_names_are_checked_and_values_are_plain():
    stop_at = StopAt(ess=100, mcse={"a": 0.1}, variables=["b"])
    stop_at.check({"a": 0, "b": 0})
    with pytest.raises(ValueError, match=r"stop_at names \['b'\], which are not kept; these are: \['a'\]"):
        stop_at.check({"a": 0})
    assert StopAt(**stop_at.as_dict()) == stop_at
