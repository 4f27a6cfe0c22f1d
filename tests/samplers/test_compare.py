"""Kernels side by side: effective draws per second, from the first draws of a run and its plan."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import eight_schools, eight_schools_start, gaussian, gaussian_start, isotropic
from refusals import refuses
from results import ADAPTATION

from parsample import KernelComparison, KernelForecast, Plan, Report, check_sampler, compare_kernels, sample
from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.lanes.meeting import MeetingTimes
from parsample.planning.plan import Measured
from parsample.samplers.compare import MIN_PILOT_LENGTH

KEY = jax.random.key(0)
SETTINGS: dict[str, Any] = {"num_samples": 6000, "num_warmup": 300, "num_chains": 2}


@pytest.fixture(autouse=True, scope="module")
def _measured():
    """Fixed times, so that plans do not depend on timings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parsample.samplers.prepare._measured", lambda *_: Measured(1e-3, 2.0))
        yield


@pytest.fixture(scope="module")
def comparison(_measured) -> KernelComparison:
    return compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc", "metropolis"), **SETTINGS)


def test_each_kernel_is_forecast_from_the_draws_that_sample_returns(comparison):
    assert [each.kernel for each in comparison.forecasts] == ["hmc", "metropolis"]
    for forecast in comparison.forecasts:
        result = sample(KEY, gaussian, gaussian_start(), kernel=forecast.kernel, progress_bar=False, **SETTINGS)
        draws = {
            "x[0]": result.positions["x"][..., 0],
            "x[1]": result.positions["x"][..., 1],
            "y[0, 0]": result.positions["y"][..., 0, 0],
        }
        ess = {name: float(arviz.ess(values)) for name, values in draws.items()}
        assert forecast.slowest == min(ess, key=ess.__getitem__)
        assert forecast.num_pilot_draws == 12_000
        assert forecast.ess_per_draw == pytest.approx(min(ess.values()) / 12_000, rel=1e-3)
        assert forecast.gradients_per_draw == pytest.approx(result.sample_stats["n_steps"].mean())
        assert (forecast.diverging, forecast.failure, forecast.note) == (0, "", "")
        assert forecast.report.plan.is_parallel
        assert forecast.ess_per_second == pytest.approx(forecast.ess_per_draw * 12_000 / forecast.seconds)


@pytest.mark.parametrize("num_samples", [6000, 80_000])
def test_each_kernel_is_planned_as_the_sampler_would(num_samples):
    settings = SETTINGS | {"num_samples": num_samples}
    found = check_sampler(KEY, gaussian, gaussian_start(), **settings)
    forecast = compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc",), **settings)["hmc"]
    assert (forecast.num_pilot_draws, forecast.num_draws) == (min(2 * num_samples, 16_000), 2 * num_samples)
    assert forecast.report.plan == found.plan
    assert forecast.seconds == found.plan.seconds < 2.0 + num_samples * 1e-3


def test_a_short_pilot_does_not_decide_how_a_long_run_is_evaluated():
    # Lanes meet within two steps, so a long run in blocks takes little more than its share of the steps.
    meeting = MeetingTimes(np.full(64, 2.0), np.zeros((50, 64)))
    pilot = replace(report(2.1), meeting=meeting)
    longer = pilot.planned_for(1_000_000, 1024)
    assert (longer.parallelizable, longer.plan.num_steps, longer.plan.num_blocks) == (True, 1_000_000, 16)
    assert longer.plan.seconds == pytest.approx(1e-3 * 1_000_000 / 16, rel=0.05)
    never = replace(pilot, meeting=MeetingTimes(np.full(64, np.inf), np.ones((50, 64))))
    never = never.planned_for(1_000_000, 1024)
    assert (never.parallelizable, never.plan.num_steps) == (False, 1_000_000)
    assert never.plan.seconds == pytest.approx(2.0 + 1_000_000 * 1e-3 / 4)  # compilation is paid once
    assert "did not meet" in never.cause


@pytest.mark.slow
def test_chains_that_fill_all_lanes_are_compared_step_by_step():
    found = compare_kernels(KEY, gaussian, gaussian_start(), **SETTINGS | {"num_samples": 2000, "num_chains": 64})
    assert [each.kernel for each in found.forecasts] == ["hmc", "nuts"]
    for forecast in found.forecasts:
        assert (forecast.report, forecast.num_pilot_draws, forecast.failure) == (None, 64 * MIN_PILOT_LENGTH, "")
        assert 0 < forecast.seconds < math.inf
        assert forecast.ess_per_second == pytest.approx(forecast.ess_per_draw * 128_000 / forecast.seconds)
    assert found.best is max(found.forecasts, key=lambda forecast: forecast.ess_per_second)
    assert [line.split()[-1] for line in str(found).splitlines()[1:3]] == ["sequential", "sequential"]


@pytest.mark.parametrize(
    ("num_samples", "num_chains", "length"), [(100_000, 1, 16_000), (100_000, 100, 256), (100, 100, 100)]
)
def test_length_of_pilots_and_what_they_are_asked_for(monkeypatch, num_samples, num_chains, length):
    asked: list[dict[str, Any]] = []

    def told(*_: Any, **kwargs: Any) -> SimpleNamespace:
        asked.append(kwargs)
        return SimpleNamespace(settings={"num_lanes": 100})

    monkeypatch.setattr("parsample.samplers.compare.sample", told)
    monkeypatch.setattr("parsample.samplers.compare._forecast", lambda *_: HMC)
    settings = {"num_samples": num_samples, "num_chains": num_chains, "num_warmup": 200}
    compare_kernels(KEY, gaussian, gaussian_start(), kernels=tuple(KERNELS), target_acceptance_rate=0.95, **settings)
    assert {call["num_samples"] for call in asked} == {length}
    assert {(call["num_chains"], call["num_warmup"]) for call in asked} == {(num_chains, 200)}
    # The target rate is meant for kernels with trajectories.
    targets = {call["kernel"]: call["target_acceptance_rate"] for call in asked}
    assert targets == {"hmc": 0.95, "nuts": 0.95, "mala": None, "metropolis": None}


def test_a_position_may_be_a_number():
    found = compare_kernels(KEY, lambda x: -0.5 * x**2, 0.5, kernels=("hmc",), **SETTINGS | {"num_samples": 300})
    assert found["hmc"].slowest == "x"


def stuck(position: jax.Array) -> jax.Array:
    """A log density that is finite at a single point."""
    return jnp.where(jnp.all(position == 0.5), 0.0 * position.sum(), -jnp.inf)


def test_a_kernel_that_does_not_move_is_part_of_the_table():
    found = compare_kernels(KEY, stuck, jnp.full(3, 0.5), kernels=("mala",), **SETTINGS)
    assert (found.best, found["mala"].report) == (None, None)
    assert math.isnan(found["mala"].ess_per_second)
    assert "mala: failed: 2 of 2 chains do not move" in str(found)
    assert "none can be used" in str(found)


@pytest.mark.parametrize(
    ("position", "words"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (1.0, "2 of 2 chains do not move")],
)
def test_why_draws_tell_nothing(monkeypatch, position, words):
    pilot = sample(KEY, gaussian, gaussian_start(), progress_bar=False, **SETTINGS | {"num_samples": 50})
    positions = jax.tree.map(lambda leaf: np.full_like(leaf, position), pilot.positions)
    monkeypatch.setattr("parsample.samplers.compare.sample", lambda *_, **__: replace(pilot, positions=positions))
    forecast = compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc",), **SETTINGS)["hmc"]
    assert words in forecast.failure
    assert (forecast.report, forecast.num_pilot_draws) == (None, 100)
    assert math.isnan(forecast.seconds)


def report(seconds: float, *, parallel: bool = False) -> Report:
    """A made-up report whose plan predicts `seconds`."""
    plan = Plan(parallel, 4, 10_000, 16 if parallel else 1, 640, seconds, 1.1)
    meeting = MeetingTimes(np.full(8, 40.0), np.ones((50, 8)))
    return Report(meeting, 64, Measured(1e-3, 2.0), plan, "another kernel", adaptation=ADAPTATION)


HMC = KernelForecast("hmc", report(0.5, parallel=True), 40_000, 4000, 0.25, "x[1]", 6.5, 0.0, "")
NUTS = KernelForecast("nuts", report(2.0), 40_000, 4000, 0.75, "x[0]", 7.25, 0.015, "")
MALA = KernelForecast("mala", None, 40_000, 4000, math.nan, "x[0]", 1.0, 1.0, "its states are not finite")


def test_the_best_kernel_has_most_effective_draws_per_second():
    found = KernelComparison((HMC, NUTS, MALA), 10_000, 4)
    assert [each.ess_per_second for each in found.forecasts[:2]] == [20_000, 15_000]
    assert found.best is HMC
    assert KernelComparison((replace(HMC, ess_per_draw=0.1), NUTS), 10_000, 4).best is NUTS
    assert KernelComparison((MALA,), 10_000, 4).best is None
    assert found["nuts"] is NUTS


def test_the_table_is_for_people():
    lines = str(KernelComparison((HMC, replace(NUTS, num_pilot_draws=400), MALA), 10_000, 4)).splitlines()
    assert lines == [
        "kernel  ESS/s   ESS/draw  slowest  gradients/draw  divergent  seconds  evaluation",
        "hmc     20,000  0.25      x[1]     6.5             0 %        0.5      16 blocks per chain",
        "nuts    15,000  0.75      x[0]     7.2             1.5 %      2        sequential",
        "mala    -       -         -        -               -          -        -",
        "nuts: a rough estimate: 400 draws of the pilot have an ESS of 300",
        "mala: failed: its states are not finite",
        "best: hmc (predicted for 4 x 10000 draws, warm-up and compilation apart)",
    ]


@pytest.mark.parametrize(
    ("position", "names"),
    [
        (gaussian_start(), ["x[0]", "x[1]", "y[0, 0]"]),
        (jnp.zeros(2), ["x[0]", "x[1]"]),
        ({"b": {"c": jnp.zeros(())}, "a": jnp.zeros(())}, ["a", "b.c"]),
    ],
)
def test_coordinates_have_the_names_of_the_position(position, names):
    assert Layout.of(position).coordinate_names() == names


@pytest.mark.exhaustive
def test_a_pilot_foretells_the_effective_sample_size_of_a_long_run():
    settings = {"num_samples": 40_000, "num_warmup": 1000, "num_chains": 4}
    found = compare_kernels(KEY, eight_schools, eight_schools_start(), kernels=tuple(KERNELS), **settings)
    for forecast in found.forecasts:
        # The same key: another warm-up would find other step sizes, which change the ESS of mala by half.
        run = sample(
            KEY, eight_schools, eight_schools_start(), kernel=forecast.kernel, method="sequential", progress_bar=False,
            **settings,
        )  # fmt: skip
        ess = min(arviz.ess(np.asarray(leaf)).min() for leaf in jax.tree.leaves(run.positions))
        assert forecast.ess_per_draw == pytest.approx(ess / 160_000, rel=0.2)
        assert forecast.failure == ""
        assert (forecast.gradients_per_draw == 1) is (forecast.kernel == "mala")


# Bad settings


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("names", [(), "hmc", ("hmc", "hmc"), ("hmc", "gibbs"), None, 3, (None,), (["hmc"],)])
def test_kernels_to_compare(names):
    with refuses(
        ValueError, "kernels must be different names out of 'hmc', 'nuts', 'mala', 'metropolis'; got", repr(names)
    ):
        compare_kernels(KEY, isotropic, np.zeros(2), kernels=names)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1; got 0"),
        ({"num_warmup": 99}, "num_warmup must be a whole number of at least 100; got 99"),
        ({"num_chains": True}, "num_chains must be a whole number of at least 1; got True"),
        ({"kernels": ("mala",), "target_acceptance_rate": 1.5}, "target_acceptance_rate must lie between 0 and 1"),
    ],
)
def test_settings_of_a_comparison(settings, words):
    with refuses(ValueError, words):
        compare_kernels(KEY, isotropic, np.zeros(2), **settings)
