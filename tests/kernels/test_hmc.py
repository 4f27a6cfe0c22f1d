"""Trajectories of HMC: the steps of BlackJAX, their lengths, and rejections."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_steps import KEYS, target

from parsample.chain.multishift import normal
from parsample.internal.threefry import step_uniforms
from parsample.kernels import HMC, MALA
from parsample.kernels.base import LaneState
from parsample.kernels.hmc import HALTON, trajectory


def test_a_trajectory_is_that_of_blackjax():
    uniforms = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(5), 0, 3, np.dtype(float))
    u = jnp.array([0.4, -1.1])
    value_and_grad = jax.value_and_grad(target)
    start = LaneState(u, *value_and_grad(u))
    _, found = trajectory(uniforms, start, value_and_grad, jnp.asarray(0.6), jnp.int32(5))
    leapfrog = blackjax.mcmc.integrators.velocity_verlet(target, lambda p: 0.5 * jnp.sum(p**2))
    point = blackjax.mcmc.integrators.IntegratorState(u, normal(uniforms[:2]), *value_and_grad(u))
    before = -point.logdensity + 0.5 * jnp.sum(point.momentum**2)
    for _ in range(5):
        point = leapfrog(point, 0.6)
    after = -point.logdensity + 0.5 * jnp.sum(point.momentum**2)
    assert float(found.acceptance_rate) == pytest.approx(min(1.0, float(jnp.exp(before - after))), rel=1e-9)
    accepted = float(uniforms[2]) < float(found.acceptance_rate)
    assert float(found.energy) == pytest.approx(float(after if accepted else before), rel=1e-9)
    assert (int(found.n_steps), bool(found.diverging)) == (5, False)


def test_path_lengths_are_spread_evenly_over_half_a_turn():
    steps = HMC().num_integration_steps(0.05)
    np.testing.assert_array_equal(steps, np.maximum(1, np.round(HALTON * np.pi / 0.05)))
    assert sorted(HALTON) == sorted(set(HALTON))
    assert abs(np.mean(HALTON) - 0.5) < 0.05
    assert HMC().num_integration_steps(1e-9).max() == 1023
    assert set(MALA().num_integration_steps(0.3)) == {1}


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_proposal_without_a_density_is_rejected_and_counted(bad):
    def walled(u: jax.Array) -> jax.Array:
        value = jnp.where(u[0] > 0.41, bad, target(u))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    value_and_grad = jax.value_and_grad(walled)
    u = jnp.array([0.4, -1.1])
    uniforms = jnp.array([0.999, 0.5, 0.3])  # a momentum that leads across the wall
    state, found = trajectory(
        uniforms, LaneState(u, *value_and_grad(u)), value_and_grad, jnp.asarray(0.5), jnp.int32(2)
    )
    np.testing.assert_array_equal(state.position, u)
    assert bool(found.diverging)
    assert float(found.acceptance_rate) == 0


def test_an_energy_that_is_not_a_number_is_a_divergence():
    def broken(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(()), jnp.full_like(u, jnp.nan)

    u = jnp.array([0.4, -1.1])
    start = LaneState(u, jnp.zeros(()), jnp.zeros(2))
    state, found = trajectory(jnp.array([0.9, 0.5, 0.3]), start, broken, jnp.asarray(0.5), jnp.int32(2))
    np.testing.assert_array_equal(state.position, u)
    assert bool(found.diverging)
