"""Gains of the trust region's filter against a Kalman filter as textbooks have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import FORMS, full, random_matrices

from benchmarks.papers.tools import kalman

FORMS_OF_FILTER = (kalman._covariances_in_turn, kalman._covariances_by_scan)
COVARIANCES = tuple(jax.jit(function, static_argnums=1) for function in FORMS_OF_FILTER)


def textbook(matrices: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """I - K_c and P_c of a state with noise of variance 1, seen with noise of variance 1 / weight."""
    identity = np.eye(matrices.shape[-1])
    covariance, gains, covariances = np.zeros_like(identity), [], []
    for matrix in matrices:
        predicted = matrix @ covariance @ matrix.T + identity
        rest = identity - (predicted @ np.linalg.inv(predicted + identity / weight) if weight else 0)
        covariance = rest @ predicted
        gains.append(rest)
        covariances.append(covariance)
    return np.stack(gains), np.stack(covariances)


@pytest.mark.parametrize("weight", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_covariances_and_gains_are_those_of_the_filter(form, weight):
    matrices = random_matrices(form, 4)
    expected_gains, expected = textbook(full(matrices), weight)
    for covariances in COVARIANCES:
        found = covariances(jnp.array(matrices), weight)
        np.testing.assert_allclose(full(np.asarray(found)), expected, rtol=1e-9, atol=1e-11)
        gains = kalman._gains(jnp.array(matrices), found, weight)
        np.testing.assert_allclose(full(np.asarray(gains)), expected_gains, rtol=1e-9, atol=1e-11)
    here = jax.jit(kalman.gains, static_argnums=1)(jnp.array(matrices), weight)  # by the form that suits this device
    np.testing.assert_allclose(full(np.asarray(here)), expected_gains, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_float32_stays_float32_and_accurate(form, float32):
    matrices = random_matrices(form, 4)
    for covariances in COVARIANCES:
        found = covariances(jnp.array(matrices, jnp.float32), 0.3)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(full(np.asarray(found)), textbook(full(matrices), 0.3)[1], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_transposes_are_those_of_the_full_matrices(form):
    matrices = random_matrices(form, 4)
    transposed = kalman.transpose(jnp.array(matrices), is_diagonal=matrices.ndim == 2)
    np.testing.assert_array_equal(full(np.asarray(transposed)), np.swapaxes(full(matrices), 1, 2))
