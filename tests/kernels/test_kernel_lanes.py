"""Lanes of a kernel: the log density that they evaluate, and when two of them have met."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import black_box, gaussian, gaussian_start
from results import PARAMETERS

from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.kernels.base import LaneState, Statistics
from parsample.kernels.kernel_lanes import KernelLanes


def lanes(logdensity_fn: Any, position: Any) -> KernelLanes:
    return KernelLanes(logdensity_fn, Layout.of(position), KERNELS["hmc"])


def test_the_log_density_of_a_flat_position_is_that_of_the_users_pytree():
    found = lanes(gaussian, gaussian_start()).logdensity(jnp.array([1.0, -0.5, 0.2]))
    assert float(found) == pytest.approx(-0.5 * (1 * 1.0 + 4 * 0.25 + 9 * 0.04), rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_log_density_that_is_not_finite_is_minus_infinity(value):
    def density(position: jax.Array) -> jax.Array:
        return jnp.where(position[0] > 0, value, 3.0)

    dynamics = lanes(density, jnp.zeros(2))
    assert float(dynamics.logdensity(jnp.array([1.0, 0.0]))) == -np.inf
    assert float(dynamics.logdensity(jnp.array([-1.0, 0.0]))) == 3.0


def test_a_callback_with_a_gradient_of_its_own_is_evaluated_for_one_lane_after_another():
    @jax.custom_vjp
    def density(position: jax.Array) -> jax.Array:
        return black_box(position, vmap_method=None)

    density.defvjp(lambda x: (density(x), x), lambda x, cotangent: (-cotangent * x,))
    dynamics = replace(lanes(density, jnp.zeros(2)), is_batched=False)
    positions = jnp.array([[1.0, -0.5], [0.0, 2.0], [3.0, 0.25]])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(dynamics.logdensity)))(positions)
    np.testing.assert_allclose(values, [float(density(each)) for each in positions])
    np.testing.assert_allclose(gradients, -positions)


ONE = LaneState(np.ones((4, 2)), np.zeros(4), np.zeros((4, 2)))
# Equal to `ONE`; equal position with another cached log density; another position; a position with NaN.
OTHER = LaneState(np.array([[1, 1], [1, 1], [1, 1.5], [1, np.nan]]), np.array([0, 1e-12, 0, 0]), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("atol", "distances", "same"),
    [
        (0.0, [0, np.inf, 0.5, np.inf], [True, False, False, False]),  # bitwise: cached fields count too
        (0.1, [0, 0, 0.5, np.inf], [True, True, False, False]),
        (0.6, [0, 0, 0.5, np.inf], [True, True, True, False]),
    ],
)
def test_states_are_the_same_bitwise_or_within_the_tolerance(atol, distances, same):
    found, met = lanes(gaussian, gaussian_start()).joined(PARAMETERS, atol, ONE, OTHER)
    assert found.tolist() == distances
    assert met.tolist() == same


@pytest.mark.parametrize(("atol", "expected"), [(0.0, [True, False, False]), (0.6, [True, True, True])])
def test_records_are_met_if_equal_with_their_log_densities_or_within_the_tolerance(atol, expected):
    positions = np.array([[1, 1], [1, 1], [1, 1 + 1e-12]])
    densities = np.array([0, 1e-12, 0])
    dynamics = lanes(gaussian, gaussian_start())
    old = (np.ones((3, 2)), Statistics(np.zeros(3), *[None] * 6))
    new = (positions, Statistics(densities, *[None] * 6))
    assert dynamics.met(PARAMETERS, atol, new, old)[1].tolist() == expected
