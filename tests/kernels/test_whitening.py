"""Whitened coordinates from draws and from gradients, and the maps to and from them."""

import numpy as np
import pytest
from chains import FACTOR, MEAN

from parsample.kernels.whitening import MAX_DENSE_DIMENSION, Coordinates, from_draws, from_gradients, identity


def sampled(num_draws: int, dimension: int) -> np.ndarray:
    """Draws with correlation 0.95 between neighbouring coordinates."""
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
