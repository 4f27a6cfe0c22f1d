"""Gains of the trust region's filter against a textbook Kalman filter."""

import jax
import numpy as np
import pytest
from marks import slow
from matrices import FORMS, full, random_operators

from benchmarks.papers.tools import kalman
from benchmarks.papers.tools.small_blocks import SmallBlocksOperator

ALL_FORMS = (*FORMS, SmallBlocksOperator)
FORMS_OF_FILTER = (kalman._covariances_in_turn, kalman._covariances_by_scan)
COVARIANCES = tuple(jax.jit(function, static_argnums=1) for function in FORMS_OF_FILTER)


def textbook(matrices: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """I - K_c and P_c of a filter with process noise of variance 1 and observation noise of variance 1 / weight."""
    identity = np.eye(matrices.shape[-1])
    covariance, gains, covariances = np.zeros_like(identity), [], []
    for matrix in matrices:
        predicted = matrix @ covariance @ matrix.T + identity
        rest = identity - (predicted @ np.linalg.inv(predicted + identity / weight) if weight else 0)
        covariance = rest @ predicted
        gains.append(rest)
        covariances.append(covariance)
    return np.stack(gains), np.stack(covariances)


@pytest.mark.parametrize("weight", [slow(0.0), 0.3])
@pytest.mark.parametrize("form", [slow(FORMS[0]), *ALL_FORMS[1:]])
def test_covariances_and_gains_are_those_of_the_filter(form, weight):
    operators = random_operators(form, 4)
    expected_gains, expected = textbook(full(operators), weight)
    for covariances in COVARIANCES:
        found = covariances(operators, weight)
        np.testing.assert_allclose(full(found), expected, rtol=1e-9, atol=1e-11)
        gains = kalman._gains(operators, found, weight)
        np.testing.assert_allclose(full(gains), expected_gains, rtol=1e-9, atol=1e-11)
    here = jax.jit(kalman.gains, static_argnums=1)(operators, weight)  # the form chosen for this device
    np.testing.assert_allclose(full(here), expected_gains, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("form", ALL_FORMS)
def test_float32_stays_float32_and_accurate(form, float32):
    operators = random_operators(form, 4)
    for covariances in COVARIANCES:
        found = covariances(operators, 0.3)
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(full(found), textbook(full(operators), 0.3)[1], rtol=2e-4, atol=2e-5)
