"""Warm-up: whitened coordinates, acceptance near its target, dispersed starts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.kernels import KernelDynamics, Layout, schedule
from parsample.transition import rollout
from parsample.warmup import MAX_DENSE_DIMENSION, Adaptation, coordinates, dispersed_starts, warmup

KEY = jax.random.key(2)
MEAN = np.array([3.0, -100.0, 0.01])
FACTOR = np.diag([1.0, 30.0, 1e-3]) @ np.array([[1.0, 0.0, 0.0], [0.9, 0.436, 0.0], [-0.7, 0.5, 0.51]])


def correlated(x: jax.Array) -> jax.Array:
    """A Gaussian with correlations of up to 0.9 and scales from 0.001 to 30."""
    return -0.5 * jnp.sum(jnp.linalg.solve(FACTOR, x - MEAN) ** 2)


DYNAMICS = KernelDynamics(correlated, Layout.of(jnp.zeros(3)), "hmc")


@pytest.fixture(scope="module")
def adaptation() -> Adaptation:
    return jax.device_get(warmup(DYNAMICS, KEY, jnp.asarray(MEAN), 1000, 4, 0.8))


def test_draws_are_white_in_the_coordinates_found(adaptation):
    draws = adaptation.draws.reshape(-1, 3)
    assert adaptation.draws.shape == (4, 350, 3)
    np.testing.assert_allclose(draws.mean(0), 0, atol=1e-8)
    # Shrinkage by five draws' worth is 5 / (1400 * 0.05) in the direction of the smallest correlation eigenvalue.
    np.testing.assert_allclose(np.cov(draws.T), np.eye(3), atol=0.08)


def test_coordinates_are_those_of_the_posterior(adaptation):
    factor, center = adaptation.parameters.factor, adaptation.parameters.center
    scales = np.sqrt(np.diag(FACTOR @ FACTOR.T))
    assert (np.abs(center - MEAN) < 0.25 * scales).all()
    whitened = np.linalg.solve(factor, FACTOR)
    # Eigenvalues of the posterior covariance in the coordinates found: 1 up to what 1400 correlated draws can tell.
    eigenvalues = np.linalg.eigvalsh(whitened @ whitened.T)
    assert eigenvalues.min() > 0.6
    assert eigenvalues.max() < 1.6


def test_acceptance_is_near_its_target_while_tuning_and_afterwards(adaptation):
    assert abs(adaptation.acceptance_rate - 0.8) < 0.08
    parameters = jax.tree.map(jnp.asarray, adaptation.parameters)
    transition, inputs = DYNAMICS(parameters, KEY, 2000)
    draws = jax.jit(lambda start: rollout(transition, start, inputs)[2])(jnp.asarray(adaptation.states[0]))
    assert abs(draws.acceptance_rate.mean() - 0.8) < 0.08
    assert not draws.diverging.any()
    assert adaptation.num_diverging.shape == (4,)
    np.testing.assert_array_equal(
        adaptation.parameters.num_integration_steps, schedule(jnp.asarray(adaptation.parameters.step_size))
    )


def test_chains_end_apart_in_whitened_coordinates(adaptation):
    assert adaptation.states.shape == (4, 3)
    distances = np.linalg.norm(adaptation.states[:, None] - adaptation.states, axis=-1)[np.triu_indices(4, 1)]
    assert distances.min() > 0.05
    assert np.abs(adaptation.states).max() < 6


def sampled(num_draws: int, dimension: int) -> jax.Array:
    """Draws with correlation 0.95 between neighbours."""
    noise = np.random.default_rng(0).normal(size=(num_draws, dimension))
    shared = np.concatenate([noise[:, :1], noise[:, :-1]], axis=1)
    return jnp.asarray(5 + 0.1 * (shared + 0.3 * noise))


def test_factor_is_that_of_the_covariance_shrunk_by_five_draws():
    draws = sampled(400, 4)
    center, factor = coordinates(draws)
    covariance = np.cov(draws.T, bias=True)
    shrunk = (400 * covariance + 5 * np.diag(np.diag(covariance))) / 405
    np.testing.assert_allclose(center, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(factor @ factor.T, shrunk, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.triu(factor, 1), 0)


@pytest.mark.parametrize(("num_draws", "dimension"), [(39, 4), (2000, MAX_DENSE_DIMENSION + 1)])
def test_too_few_draws_or_too_many_dimensions_leave_the_diagonal(num_draws, dimension):
    draws = sampled(num_draws, dimension)
    _, factor = coordinates(draws)
    assert factor.shape == (dimension,)
    np.testing.assert_allclose(factor, draws.std(0), rtol=1e-10)


def test_a_coordinate_that_never_moved_leaves_the_factor_invertible():
    center, factor = coordinates(sampled(400, 3).at[:, 1].set(2.0))
    np.testing.assert_allclose(factor[1] / factor[1, 1], [0, 1, 0], atol=1e-12)
    assert center[1] == 2
    assert 0.05 < factor[1, 1] <= 1
    assert np.isfinite(factor).all()


def ball(radius: float) -> Callable[[jax.Array], jax.Array]:
    """Finite within `radius` of (1, 1, 1) only."""
    return lambda x: jnp.where(jnp.linalg.norm(x - 1) < radius, 0.0, -jnp.inf)


@pytest.mark.parametrize(("radius", "spread"), [(10.0, 1.0), (0.18, 0.1), (0.018, 0.01), (1e-4, 0.0)])
def test_starts_are_dispersed_as_far_as_the_density_allows(radius, spread):
    starts = dispersed_starts(KEY, ball(radius), jnp.ones(3), 5)
    assert starts.shape == (5, 3)
    assert np.isfinite([ball(radius)(start) for start in starts]).all()
    distances = np.abs(starts - 1).max(-1)
    assert (distances <= spread).all()
    if spread:
        assert (distances > 0.2 * spread).all()
        assert len(np.unique(starts, axis=0)) == 5
    else:
        np.testing.assert_array_equal(starts, np.ones((5, 3)))
