"""The ensemble's warm-up: coordinates, step size, replaced lanes, and what it says when it has not settled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import eight_schools, eight_schools_start, gaussian, gaussian_start
from scipy.special import ndtr, ndtri

from parsample import sample
from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.kernels.tuning import StepSize
from parsample.kernels.whitening import MAX_DENSE_DIMENSION, Coordinates, from_draws, from_gradients, identity
from parsample.lanes.program import LaneProgram
from parsample.warmup.adaptation import between_lanes
from parsample.warmup.ensemble import Ensemble

MEAN = np.array([3.0, -100.0, 0.01])
FACTOR = np.diag([1.0, 30.0, 1e-3]) @ np.array([[1.0, 0.0, 0.0], [0.9, 0.436, 0.0], [-0.7, 0.5, 0.51]])
INVERSE = np.linalg.inv(FACTOR)


def correlated(x: jax.Array) -> jax.Array:
    """A Gaussian with correlations of up to 0.9 and scales from 0.001 to 30."""
    return -0.5 * jnp.sum(jnp.square(jnp.asarray(INVERSE, x.dtype) @ (x - jnp.asarray(MEAN, x.dtype))))


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
    # Eigenvalues of the posterior covariance in the coordinates found: 1 up to what some 500 effective draws can tell.
    eigenvalues = np.linalg.eigvalsh(whitened @ whitened.T)
    assert eigenvalues.min() > 0.6
    assert eigenvalues.max() < 1.6
    assert found.unsettled == ""
    assert abs(found.acceptance_rate - KERNELS[kernel].target_acceptance_rate) < 0.08
    assert found.states.shape == (4, 3)
    assert len(np.unique(found.states, axis=0)) == 4


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
    """-1e100 beside finite values."""
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
    # A row or two to evaluate the starts, rounds, and the round with fixed parameters.
    assert result.adaptation.num_steps <= 100 + 64 + 8


@pytest.mark.slow
def test_no_key_leaves_the_noncentred_eight_schools_stuck():
    for seed in range(7):
        result = sample(
            jax.random.key(seed), eight_schools, eight_schools_start(), num_samples=5000, progress_bar=False
        )
        assert result.sample_stats["diverging"].mean() < 0.005
        # log tau has sd 1.2 or so (reference 1.18 from 10^6 draws by NUTS); a chain that sticks has a quarter more.
        assert abs(result.positions["log_tau"].std() - 1.18) < 0.15


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


def sampled(num_draws: int, dimension: int) -> np.ndarray:
    """Draws with correlation 0.95 between neighbours."""
    noise = np.random.default_rng(0).normal(size=(num_draws, dimension))
    shared = np.concatenate([noise[:, :1], noise[:, :-1]], axis=1)
    return 5 + 0.1 * (shared + 0.3 * noise)


@pytest.mark.parametrize("former", [np.eye(3), np.array([[2.0, 0.0, 0.0], [-1.0, 0.1, 0.0], [5.0, 0.3, 7.0]])])
def test_factor_is_that_of_the_covariance_shrunk_by_five_draws_of_the_former_one(former):
    draws = sampled(400, 3)
    center, factor = from_draws(draws, 400, Coordinates(np.ones(3), former))
    covariance, there = np.cov(draws.T, bias=True), np.linalg.inv(former)
    whitened = there @ covariance @ there.T
    shrunk = (400 * whitened + 5 * np.diag(np.diag(whitened))) / 405
    np.testing.assert_allclose(center, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(factor @ factor.T, former @ shrunk @ former.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.triu(factor, 1), 0)


def test_what_shrinking_leaves_of_strong_correlations_vanishes_from_round_to_round():
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))[0]
    true = rotation * np.logspace(-3, 0, 20)
    draws = np.random.default_rng(0).standard_normal((20_000, 20)) @ true.T
    found, conditions = identity(np.zeros(20)), []
    for _ in range(5):
        found = from_draws(draws, 128, found)
        conditions.append(np.linalg.cond(np.linalg.solve(found.factor, true)))
    assert conditions[0] > 50
    assert conditions[-1] < 1.3


def test_too_few_draws_leave_correlations_and_many_dimensions_a_vector():
    draws = sampled(400, 6)
    np.testing.assert_allclose(from_draws(draws, 5, identity(np.zeros(6))).factor, np.diag(draws.std(0)), rtol=1e-10)
    former = Coordinates(np.zeros(6), np.tri(6))
    scale = former.whiten(draws).std(0)
    np.testing.assert_allclose(from_draws(draws, 5, former).factor, np.tri(6) * scale, rtol=1e-10)
    wide = sampled(400, MAX_DENSE_DIMENSION + 1)
    start = identity(np.zeros(MAX_DENSE_DIMENSION + 1))
    np.testing.assert_allclose(from_draws(wide, 400, start).factor, wide.std(0), rtol=1e-10)


def test_a_coordinate_that_never_moved_leaves_the_factor_invertible():
    draws = sampled(400, 3)
    draws[:, 1] = 2.0
    center, factor = from_draws(draws, 400, identity(np.zeros(draws.shape[1])))
    np.testing.assert_allclose(factor[1], [0, 1, 0], atol=1e-12)
    assert center[1] == 2
    assert np.isfinite(np.linalg.inv(factor)).all()


def test_gradients_tell_the_scales_of_a_gaussian_wherever_the_states_are():
    scales = np.array([1e-5, 1.0, 1e5])
    positions = np.random.default_rng(0).uniform(-1, 1, (64, 3))
    found = from_gradients(positions, -positions / scales**2, np.zeros(3))
    np.testing.assert_allclose(np.diag(found.factor), scales, rtol=1e-9)


@pytest.mark.parametrize("factor", [np.array([0.5, 2.0, 3.0]), FACTOR])
def test_coordinates_go_there_and_back(factor):
    coordinates = Coordinates(MEAN, factor)
    u = np.random.default_rng(0).normal(size=(5, 4, 3))
    np.testing.assert_allclose(coordinates.whiten(coordinates.position(u)), u, atol=1e-9)
    # Gradients transform with the transposed inverse: u . g_u = (x - center) . g_x.
    g = np.random.default_rng(1).normal(size=(5, 4, 3))
    inner = ((coordinates.position(u) - MEAN) * coordinates.gradient(g)).sum(-1)
    np.testing.assert_allclose(inner, (u * g).sum(-1), rtol=1e-8)
    assert identity(np.zeros(MAX_DENSE_DIMENSION + 1)).factor.ndim == 1


def ball(radius: float) -> Callable[[jax.Array], jax.Array]:
    """Finite within `radius` of (1, 1, 1) only."""
    return lambda x: jnp.where(jnp.linalg.norm(x - 1) < radius, -jnp.sum((x - 1) ** 2), -jnp.inf)


@pytest.mark.parametrize(("radius", "spread"), [(10.0, 1.0), (0.018, 0.01)])
def test_starts_are_dispersed_as_far_as_the_density_allows(radius, spread):
    density = ball(radius)
    dynamics = KernelLanes(density, Layout.of(jnp.ones(3)), KERNELS["metropolis"])
    program = LaneProgram(dynamics, 16, None, dynamics.records)
    ensemble = Ensemble(program, np.ones(3), 0.44, True, np.random.default_rng(0))
    logdensity, gradient = ensemble.disperse()
    assert abs(logdensity) < 1e-9
    assert gradient is None
    distances = np.abs(ensemble.positions - 1).max(-1)
    assert distances[0] == 0
    assert (distances <= spread).all()
    assert (distances[1:] > 0.1 * spread).all()
    assert np.isfinite([density(jnp.asarray(start)) for start in ensemble.positions]).all()


def test_lanes_that_agree_have_a_ratio_of_one():
    rng = np.random.default_rng(0)
    agreeing = rng.normal(size=(64, 32, 2))
    assert between_lanes(agreeing) == pytest.approx(1, abs=0.03)
    apart = agreeing + np.array([0, 5])[None, None] * (np.arange(32) % 2)[None, :, None]
    assert between_lanes(apart) > 2
