"""The ensemble's warm-up: coordinates, step size, replaced lanes, and the message if it has not settled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import FACTOR, MEAN, correlated, eight_schools, eight_schools_start, gaussian, gaussian_start
from scipy import stats

from parsample import sample
from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.kernels.whitening import MAX_DENSE_DIMENSION
from parsample.lanes.program import LaneProgram
from parsample.warmup.ensemble import Ensemble


def warmed(density: Callable, start: Any, kernel: str = "hmc", seed: int = 0, **kwargs: Any) -> Any:
    return sample(
        jax.random.key(seed), density, start, num_samples=64, kernel=kernel, method="deer", progress_bar=False, **kwargs
    )


@pytest.mark.parametrize("kernel", ["hmc", pytest.param("metropolis", marks=pytest.mark.slow)])
def test_coordinates_are_those_of_the_posterior(kernel):
    found = warmed(correlated, jnp.zeros(3), kernel).adaptation
    scales = np.sqrt(np.diag(FACTOR @ FACTOR.T))
    assert (np.abs(found.parameters.center - MEAN) < 0.25 * scales).all()
    whitened = np.linalg.solve(found.parameters.factor, FACTOR)
    # Eigenvalues of the posterior covariance in the coordinates found: 1 up to the error of some 500 effective draws.
    eigenvalues = np.linalg.eigvalsh(whitened @ whitened.T)
    assert eigenvalues.min() > 0.6
    assert eigenvalues.max() < 1.6
    assert found.unsettled == ""
    assert abs(found.acceptance_rate - KERNELS[kernel].target_acceptance_rate) < 0.08
    assert found.states.shape == (64, 3)
    assert len(np.unique(found.states, axis=0)) == 64
    assert found.kernel == kernel


def test_float32_finds_scales_from_a_hundred_thousandth_to_a_hundred_thousand(float32):
    scales = 10.0 ** np.arange(-5, 6, 2)

    def density(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(jnp.square((x - 3 * jnp.asarray(scales, x.dtype)) / jnp.asarray(scales, x.dtype)))

    result = warmed(density, jnp.zeros(6), num_warmup=1000)
    found = np.sqrt(np.diag(result.adaptation.parameters.factor @ result.adaptation.parameters.factor.T))
    np.testing.assert_allclose(found / scales, 1, atol=0.25)
    assert result.adaptation.unsettled == ""


def test_a_start_in_the_far_tail_is_left_behind():
    result = warmed(gaussian, jax.tree.map(lambda leaf: leaf + 3e4, gaussian_start()))
    assert np.abs(result.positions["x"]).max() < 6
    assert result.adaptation.unsettled == ""


def cliff(x: jax.Array) -> jax.Array:
    """A Gaussian log density up to x[0] = 0.3, and below -1e99 beyond."""
    return jnp.where(x[0] > 0.3, -1e100 * x[0], -0.5 * jnp.sum(x**2))


def test_lanes_far_below_the_others_are_replaced_and_counted():
    result = warmed(cliff, jnp.zeros(2))
    assert result.adaptation.num_replaced > 0
    assert result.positions[..., 0].max() <= 0.3
    assert result.sample_stats["lp"].min() > -50


def test_modes_that_lanes_do_not_exchange_are_said():
    def modes(x: jax.Array) -> jax.Array:
        return jnp.logaddexp(-0.5 * (x - 9) ** 2, -0.5 * (x + 9) ** 2)

    result = warmed(modes, jnp.zeros(()), num_warmup=300, exact_meeting=True)
    assert "lanes disagree, R-hat" in result.adaptation.unsettled
    assert result.adaptation.r_hat > 3
    assert "not settled" in str(result.report)


@pytest.mark.parametrize("dimension", [1, pytest.param(300, marks=pytest.mark.slow)])
def test_dimensions_from_one_up(dimension):
    result = warmed(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(dimension))
    assert result.adaptation.parameters.factor.ndim == (2 if dimension <= MAX_DENSE_DIMENSION else 1)
    assert result.adaptation.unsettled == ""
    assert abs(result.positions.std() - 1) < 0.2


def test_a_short_warmup_uses_no_more_steps_than_asked():
    result = warmed(gaussian, gaussian_start(), num_warmup=100)
    # One or two rows to evaluate the starts, the rounds, and the round with fixed parameters.
    assert result.adaptation.num_steps <= 100 + 64 + 8


@pytest.mark.slow
def test_no_key_leaves_the_noncentred_eight_schools_stuck():
    for seed in range(7):
        result = sample(
            jax.random.key(seed), eight_schools, eight_schools_start(), num_samples=5000, progress_bar=False
        )
        assert result.sample_stats["diverging"].mean() < 0.005
        # The sd of log tau is about 1.2 (1.18 from 10^6 draws by NUTS); a chain that gets stuck has a quarter more.
        assert abs(result.positions["log_tau"].std() - 1.18) < 0.15


def ball(radius: float) -> Callable[[jax.Array], jax.Array]:
    """A Gaussian log density within `radius` of (1, 1, 1), minus infinity outside."""
    return lambda x: jnp.where(jnp.linalg.norm(x - 1) < radius, -jnp.sum((x - 1) ** 2), -jnp.inf)


@pytest.mark.parametrize(("radius", "spread"), [(10.0, 1.0), (0.018, 0.01)])
def test_starts_are_dispersed_as_far_as_the_density_allows(radius, spread):
    density = ball(radius)
    dynamics = KernelLanes(density, Layout.of(jnp.ones(3)), KERNELS["metropolis"])
    program = LaneProgram(dynamics, 16, None, dynamics.records)
    ensemble = Ensemble(program, np.ones((1, 3)), 0.44, True, np.random.default_rng(0))
    logdensity, gradient = ensemble.disperse()
    np.testing.assert_allclose(logdensity, [0], atol=1e-9)
    assert gradient is None
    distances = np.abs(ensemble.positions - 1).max(-1)
    assert distances[0] == 0
    assert (distances <= spread).all()
    assert (distances[1:] > 0.1 * spread).all()
    assert np.isfinite([density(jnp.asarray(start)) for start in ensemble.positions]).all()


def test_the_caller_gets_a_line_after_each_round():
    dynamics = KernelLanes(ball(10.0), Layout.of(jnp.ones(3)), KERNELS["metropolis"])
    ensemble = Ensemble(
        LaneProgram(dynamics, 16, None, dynamics.records), np.ones((1, 3)), 0.44, True, np.random.default_rng(0)
    )
    ensemble.disperse()
    lines: list[str] = []
    ensemble.tune(300, lines.append)
    num_rounds = len(lines)
    assert num_rounds > 3
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"warm-up {number}, round of ")
        assert "steps: step size " in line
    reference = ensemble.settle(300, lines.append)
    assert len(lines) > num_rounds
    assert lines[-1] == f"warm-up, {reference.unsettled or 'settled'}"


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_walls_do_not_shrink_the_step_size(x64, curvature):
    with jax.enable_x64(x64):
        box = sample(
            jax.random.key(0),
            lambda x: jnp.where(jnp.all(jnp.abs(x) < 1), -0.5 * curvature * jnp.sum(x**2), -jnp.inf),
            jnp.zeros(3),
            num_samples=5000,
            progress_bar=False,
        )
    assert box.adaptation.parameters.step_size > 0.3
    assert box.sample_stats["n_steps"].max() < 10
    truth = stats.truncnorm(-1, 1) if curvature else stats.uniform(-1, 2)
    np.testing.assert_allclose(box.positions.mean((0, 1)), 0, atol=0.06)
    np.testing.assert_allclose(box.positions.std((0, 1)), truth.std(), rtol=0.05)
    problems = "; ".join(box.diagnostics.problems)
    assert "steps diverged: a transform of bounded or scale parameters" in problems
    assert "collapsed" not in problems


@pytest.mark.slow
def test_coordinates_without_a_gradient_are_named():
    found = warmed(lambda x: -0.5 * x[0] ** 2, jnp.zeros(3)).adaptation
    assert "lanes disagree" in found.unsettled
    assert "the log density does not change with x[1], x[2] near the starts" in found.unsettled


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(("start", "mean", "scale"), [(3.0, 3.0, 1e-5), (0.0, 3.0, 1e-5), (0.0, 1e5, 1.0)])
def test_tiny_scales_and_far_starts_come_out_right(x64, start, mean, scale):
    with jax.enable_x64(x64):
        found = sample(
            jax.random.key(0),
            lambda x: -0.5 * jnp.sum(((x - mean) / scale) ** 2),
            jnp.full(3, start),
            num_samples=3000,
            progress_bar=False,
        )
    assert found.diagnostics.problems == []
    draws = np.asarray(found.positions, float)
    np.testing.assert_allclose((draws.mean((0, 1)) - mean) / scale, 0, atol=0.06)
    np.testing.assert_allclose(draws.std((0, 1)) / scale, 1, rtol=0.05)
