"""Kernels side by side: effective draws per second, from a pilot and a plan."""

import functools
import importlib
import math
from dataclasses import replace
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import eight_schools, eight_schools_start, gaussian, gaussian_start

from parsample import (
    DEER,
    KernelComparison,
    KernelForecast,
    Report,
    StepCosts,
    Zero,
    check_sampler,
    compare_kernels,
    sample,
)
from parsample.compare import ENOUGH_ESS, MAX_PIECES, PIECE_DRAWS, coordinate_names
from parsample.kernels import Draw, Layout
from parsample.plan import Plan, sequential_plan

KEY = jax.random.key(0)
SETTINGS: dict[str, Any] = {"num_samples": 6000, "num_warmup": 300, "num_chains": 2}


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """A device on which 16 lanes cost as much as 2, and more do not pay: plans that do not depend on timings."""
    measured = StepCosts((2, 16, 512), (1e-3, 1e-3, 1.0))
    monkeypatch.setattr(importlib.import_module("parsample.check"), "measure_costs", lambda *_, **__: measured)


@functools.cache
def comparison() -> KernelComparison:
    return compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc",), **SETTINGS)


@pytest.mark.slow
def test_each_kernel_is_planned_as_the_sampler_would():
    found = check_sampler(KEY, gaussian, gaussian_start(), **SETTINGS)
    forecast = comparison()["hmc"]
    assert [each.kernel for each in comparison().forecasts] == ["hmc"]
    assert forecast.report.plan == found.plan
    assert forecast.seconds == found.plan.seconds < 6000 * 1e-3
    assert forecast.ess_per_second == pytest.approx(forecast.ess_per_draw * 12_000 / found.plan.seconds)


@pytest.mark.slow
def test_gradients_are_the_leapfrog_steps_taken():
    result = sample(KEY, gaussian, gaussian_start(), method="sequential", progress_bar=False, **SETTINGS)
    cycle = np.asarray(result.adaptation.parameters.num_integration_steps)
    assert comparison()["hmc"].gradients_per_draw == pytest.approx(cycle.mean())
    assert comparison()["hmc"].diverging == 0


def test_a_pilot_is_the_beginning_of_the_run():
    forecast = comparison()["hmc"]
    num_draws = forecast.num_pilot_draws // 2
    settings = SETTINGS | {"num_samples": num_draws, "method": "sequential", "progress_bar": False}
    run = sample(KEY, gaussian, gaussian_start(), **settings)
    draws = {
        "x[0]": run.positions["x"][..., 0],
        "x[1]": run.positions["x"][..., 1],
        "y[0, 0]": run.positions["y"][..., 0, 0],
    }
    ess = {name: float(arviz.ess(values)) for name, values in draws.items()}
    assert forecast.slowest == min(ess, key=ess.__getitem__)
    assert forecast.ess_per_draw * forecast.num_pilot_draws == pytest.approx(min(ess.values()), rel=1e-3)
    assert min(ess.values()) >= ENOUGH_ESS
    assert forecast.note == ""


def autoregression(rng: np.random.Generator, before: np.ndarray, num_steps: int, rho: float) -> np.ndarray:
    path = np.empty((len(before), num_steps, 3))
    for t in range(num_steps):
        before = path[:, t] = rho * before + math.sqrt(1 - rho**2) * rng.normal(size=before.shape)
    return path


@pytest.mark.parametrize(
    ("rho", "num_samples", "pieces", "rough"),
    [(0.2, 10_000, 1, False), (0.8, 10_000, 3, False), (0.99, 10_000, 5, True), (0.8, 100, 1, False)],
    ids=["independent", "slow", "as long as the run", "short"],
)
def test_a_pilot_lasts_until_its_effective_sample_size_suffices(monkeypatch, rho, num_samples, pieces, rough):
    rng, firsts = np.random.default_rng(3), []

    def roll_window(_dynamics: Any, _mesh: Any, num_steps: int, _parameters: Any, _keys: Any, states: Any, first: Any):
        firsts.append(int(first))
        path = autoregression(rng, np.asarray(states), num_steps, rho)
        zeros = np.zeros(path.shape[:2])
        return path[:, -1], Draw(path, zeros, zeros, zeros, zeros + 1, zeros, zeros)

    monkeypatch.setattr("parsample.compare.roll_window", roll_window)
    monkeypatch.setattr("parsample.compare.planned", lambda *_: (report(1.0), None))
    settings = SETTINGS | {"num_samples": num_samples}
    forecast = compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc",), **settings)["hmc"]
    expected = (1 - rho) / (1 + rho)  # effective draws per draw of a first-order autoregression
    assert firsts == [piece * PIECE_DRAWS // 2 for piece in range(pieces)]
    assert forecast.num_pilot_draws == pieces * PIECE_DRAWS
    assert forecast.ess_per_draw == pytest.approx(expected, rel=0.5 if rough else 0.2)
    assert ("rough estimate" in forecast.note) is rough
    assert pieces <= MAX_PIECES


def stuck(position: jax.Array) -> jax.Array:
    """A log density that is finite in a single point."""
    return jnp.where(jnp.all(position == 0.5), 0.0 * position.sum(), -jnp.inf)


@pytest.mark.slow
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
    def roll_window(*arguments: Any) -> tuple:
        path = np.full((2, arguments[2], 3), position)
        zeros = np.zeros(path.shape[:2])
        return path[:, -1], Draw(path, zeros, zeros, zeros, zeros + 1, zeros, zeros)

    monkeypatch.setattr("parsample.compare.roll_window", roll_window)
    forecast = compare_kernels(KEY, gaussian, gaussian_start(), kernels=("hmc",), **SETTINGS)["hmc"]
    assert words in forecast.failure
    assert (forecast.report, forecast.num_pilot_draws) == (None, PIECE_DRAWS)


def report(seconds: float, *, parallel: bool = False) -> Report:
    """What a check might have found."""
    plan = sequential_plan(10_000, 4, seconds=seconds)
    if parallel:
        settings = DEER(block_size=640, linearization=Zero())
        plan = Plan(settings, settings, 10_000, 4, 16, seconds, 4 * seconds, 1.1)
    costs = StepCosts((4, 32), (1e-4, 2e-4))
    return Report(-0.3, 0.01, np.full(8, 40.0), np.ones((50, 8)), 50, plan, "", "", np.ones((16, 3)), costs)


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
    assert coordinate_names(Layout.of(position)) == names


@pytest.mark.exhaustive
def test_a_pilot_foretells_the_effective_sample_size_of_a_long_run():
    settings = {"num_samples": 40_000, "num_warmup": 1000, "num_chains": 4}
    found = compare_kernels(KEY, eight_schools, eight_schools_start(), kernels=("hmc", "nuts", "mala"), **settings)
    for forecast in found.forecasts:
        run = sample(
            jax.random.key(1), eight_schools, eight_schools_start(), kernel=forecast.kernel, method="sequential",
            progress_bar=False, **settings,
        )  # fmt: skip
        ess = min(arviz.ess(np.asarray(leaf)).min() for leaf in jax.tree.leaves(run.positions))
        assert forecast.ess_per_draw == pytest.approx(ess / 160_000, rel=0.3)
        assert forecast.failure == ""
        assert (forecast.gradients_per_draw == 1) is (forecast.kernel == "mala")
