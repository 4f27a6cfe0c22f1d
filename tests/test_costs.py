"""What a step costs: timings that no noise of a programme's start touches."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import pytest
from chains import gaussian, gaussian_start

from parsample import check, timing
from parsample.conditions import Conditions, device_name
from parsample.costs import StepCosts
from parsample.grid import first_devices, mesh_of
from parsample.run import state_and_info
from parsample.timing import LONGEST, MAX_ROUNDS, SECONDS_TO_SHARE, SHORTEST, measure_costs
from parsample.transition import AlgorithmDynamics, begin


def test_costs_are_interpolated_in_logarithms_and_proportional_beyond():
    measured = StepCosts((1, 100), (1e-6, 1e-5))
    assert measured(1) == pytest.approx(1e-6)
    assert measured(10) == pytest.approx(10**-5.5)
    assert measured(300) == pytest.approx(3e-5)


class Machine:
    """A device whose programmes take `start` seconds to start and `per_round` seconds a round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: float, per_round: float, hiccups: tuple = ()) -> None:
        self.rounds: list[int] = []
        hiccup = iter(hiccups)

        def duration(_run, rounds: int) -> float:
            self.rounds.append(rounds)
            return start + per_round * rounds + next(hiccup, 0.0)

        monkeypatch.setattr(timing, "_duration_of", duration)


@pytest.mark.parametrize("per_round", [1e-6, 1e-5, 1e-3, 3e-3])
def test_short_rounds_are_repeated_until_their_start_does_not_count(monkeypatch, per_round):
    machine = Machine(monkeypatch, 2e-4, per_round)
    assert timing._seconds(lambda _: jnp.zeros(1), SHORTEST) == pytest.approx(per_round, rel=0.2)
    assert max(machine.rounds) <= 4 * MAX_ROUNDS


def test_a_long_round_is_its_own_measure(monkeypatch):
    machine = Machine(monkeypatch, 0.0, 2 * LONGEST)
    assert timing._seconds(lambda _: jnp.zeros(1), SHORTEST) == 2 * LONGEST
    assert set(machine.rounds) == {1}


def test_one_hiccup_does_not_count(monkeypatch):
    # The first of two single rounds, and the first of two long runs, are held up.
    Machine(monkeypatch, 1e-4, 1e-4, hiccups=(5e-3, 0, 5e-3, 0))
    assert timing._seconds(lambda _: jnp.zeros(1), SHORTEST) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.slow
def test_a_short_run_is_left_to_the_first_device(monkeypatch):
    algorithm = blackjax.mala(gaussian, 0.1)
    dynamics = AlgorithmDynamics(algorithm, state_and_info)
    _, state, start = begin(dynamics, jax.random.key(0), gaussian_start())
    mesh = mesh_of(jax.devices()[:2])

    def measured(per_round: float) -> StepCosts:
        Machine(monkeypatch, 0.0, per_round)
        return measure_costs(dynamics, state, start, 1000, 1, 1e9, mesh)

    assert measured(0.1 * SECONDS_TO_SHARE * 8 / 1000).num_devices == 1
    shared = measured(10 * SECONDS_TO_SHARE * 8 / 1000)
    assert shared.num_devices == 2
    assert shared.lanes[:2] == (1, 64)
    assert len(shared.lanes) == len(shared.seconds)
    name = device_name(jax.devices()[0])
    assert shared.conditions == Conditions("", 3, "float64", 1, 1000, "cpu", name)


KNOWN = StepCosts((4, 128), (1.25e-5, 1 / 3e4), 2, Conditions("hmc", 3, "float64", 4, 5000, "cpu", "some processor"))


@pytest.mark.parametrize("measured", [KNOWN, replace(KNOWN, conditions=None)], ids=["measured", "by hand"])
def test_costs_survive_a_file(tmp_path, measured):
    path = tmp_path / "costs.json"
    measured.save(path)
    assert StepCosts.load(path) == measured
    assert StepCosts.load(str(path))(4) == pytest.approx(1.25e-5)
    content = json.loads(path.read_text())
    assert (content["format"], content["version"], content["lanes"]) == ("parsample step costs", 1, [4, 128])


def spoilt(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda text: text[:20], "JSONDecodeError"),
        (lambda text: "[1]", "TypeError"),
        (lambda text: "{}", "KeyError: 'format'"),
        (lambda text: spoilt(text, version=2), "'version': 1"),
        (lambda text: spoilt(text, format="other"), "parsample step costs"),
        (lambda text: spoilt(text, lanes=[]), "increasing whole numbers"),
        (lambda text: spoilt(text, lanes=[128, 4]), "increasing whole numbers"),
        (lambda text: spoilt(text, seconds=[1.0]), "each of 2 lane counts"),
        (lambda text: spoilt(text, seconds=[1.0, float("nan")]), "positive, finite"),
        (lambda text: spoilt(text, seconds=["fast", 1.0]), "fast"),
        (lambda text: spoilt(text, num_devices=0), "num_devices"),
        (lambda text: spoilt(text, conditions={"kernel": "hmc"}), "dimension"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, spoil, word):
    path = tmp_path / "costs.json"
    KNOWN.save(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=r"costs.json holds no step costs.*Delete it") as caught:
        StepCosts.load(path)
    assert word in str(caught.value)


def test_a_missing_file_is_what_python_says_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        StepCosts.load(tmp_path / "costs.json")


@pytest.mark.parametrize(("num_steps", "silent"), [(20_000, True), (20_001, False)])
def test_a_plan_for_a_much_longer_run_has_a_caveat(num_steps, silent):
    assert (KNOWN.caveat(num_steps) == "") is silent
    assert ("5000 steps" in KNOWN.caveat(num_steps)) is not silent
    assert StepCosts((4,), (1.0,)).caveat(num_steps) == ""


def test_a_device_has_a_name_that_tells_processors_apart():
    name = device_name(jax.devices()[0])
    assert name not in ("", "cpu")
    listing = Path("/proc/cpuinfo")
    assert not listing.exists() or "model name" not in listing.read_text() or name in listing.read_text()


def test_the_first_devices_of_a_mesh():
    four = mesh_of(jax.devices()[2:6])
    assert first_devices(four, 4) is four
    assert list(first_devices(four, 2).devices) == jax.devices()[2:4]
    assert first_devices(mesh_of(jax.devices()[:4]), 1) is None
    assert first_devices(None, 1) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::parsample.ParallelStallWarning")
def test_a_check_with_costs_measures_nothing_and_plans_the_same(monkeypatch, tmp_path):
    algorithm, key = blackjax.mala(gaussian, 0.1), jax.random.key(0)
    first = check(key, algorithm, gaussian_start(), num_steps=4000)
    assert first.costs.conditions.num_steps == 4000
    first.costs.save(tmp_path / "costs.json")

    def duration(*_: Any) -> None:
        pytest.fail("something was timed")

    monkeypatch.setattr(timing, "_duration_of", duration)
    known = StepCosts.load(tmp_path / "costs.json")
    again = check(key, algorithm, gaussian_start(), num_steps=4000, costs=known)
    assert again.plan == first.plan
    assert again.costs == first.costs
    assert "step costs" not in str(again)
    assert "step costs" in str(check(key, algorithm, gaussian_start(), num_steps=40_000, costs=known))


@pytest.mark.parametrize(
    ("useful", "factors"),
    [
        (3.0, []),
        (5.0, [4]),
        (15.0, [8]),
        (63.0, [32, 64]),
        (64.0, [64]),
        (128.0, [64, 512]),
        (5000.0, [64, 512, 4096]),
        (math.inf, [64, 512, 4096, 32768]),
    ],
)
def test_more_lanes_are_timed_where_they_may_gain(useful, factors):
    assert timing._lane_factors(useful) == factors


@pytest.mark.parametrize(
    ("useful", "power", "lanes"),
    [
        (1000.0, 0.0, (1, 64, 512)),  # room for blocks that are shorter than meetings
        (1000.0, 0.5, (1, 64)),  # no such room
        (5000.0, 0.5, (1, 64, 512)),
        (5000.0, 0.0, (1, 64, 512, 4096)),
        (5000.0, 1.0, (1, 64)),  # lanes save nothing
    ],
)
def test_blocks_shorter_than_meetings_are_timed_on_devices_with_room(monkeypatch, useful, power, lanes):
    monkeypatch.setattr(timing, "compiling", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(timing, "_seconds_per_step", lambda trial, *_: 1e-5 * trial.lanes**power)
    dynamics = AlgorithmDynamics(blackjax.mala(gaussian, 0.1), state_and_info)
    _, state, start = begin(dynamics, jax.random.key(0), gaussian_start())
    costs = measure_costs(dynamics, state, start, 10_000_000, 1, useful)
    assert costs.lanes == lanes
    assert costs.seconds == pytest.approx([1e-5 * count**power for count in lanes])
