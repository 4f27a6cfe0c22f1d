"""Kernels of `sample`: invariance, statistics, schedules, and the steps of BlackJAX where it has them."""

from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from parsample.chain.multishift import normal
from parsample.internal.threefry import step_uniforms
from parsample.kernels import HMC, KERNELS, MALA
from parsample.kernels.base import MOVE_STEPS, LaneState
from parsample.kernels.hmc import HALTON, trajectory
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

NUM_LANES = 20_000
KEYS = np.random.default_rng(0).integers(0, 2**32, (NUM_LANES, 2), np.uint32)


def target(u: jax.Array) -> jax.Array:
    """Independent: a standard normal, and a logistic variable."""
    return -0.5 * u[0] ** 2 - u[1] - 2 * jax.nn.softplus(-u[1])


def exact_draws() -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.stack([rng.normal(size=NUM_LANES), rng.logistic(size=NUM_LANES)], axis=1)


def parameters(kernel: Any, step_size: float = 0.9, scale: float = 0.5) -> KernelParameters:
    moves = np.zeros(PERIOD)
    moves[list(MOVE_STEPS)] = scale
    steps = np.full(2, 2.4) if kernel.name == "metropolis" else np.asarray(step_size)
    arrays = (np.zeros(2), np.ones(2), steps, kernel.num_integration_steps(step_size), moves)
    return KernelParameters(*map(jnp.asarray, arrays))


def state_of(kernel: Any, u: jax.Array) -> LaneState:
    value, gradient = jax.value_and_grad(target)(u)
    return LaneState(u, value, gradient if kernel.uses_gradient else None)


def step(kernel: Any, t: int, is_restored: bool, key: jax.Array, state: LaneState) -> Any:
    phase = jnp.int32(t % PERIOD)
    return kernel.step(key, state, jnp.int32(t), phase, jnp.asarray(is_restored), target, parameters(kernel))


@pytest.mark.parametrize("t", [2, 3])  # without and with a move
@pytest.mark.parametrize("name", ["hmc", "mala", "metropolis", pytest.param("nuts", marks=pytest.mark.slow)])
def test_a_step_from_exact_draws_leaves_the_target_as_it_is(name, t):
    starts = exact_draws()
    kernel = KERNELS[name]
    states = jax.vmap(partial(state_of, kernel))(jnp.asarray(starts))
    state, found = jax.jit(jax.vmap(partial(step, kernel, t, False)))(KEYS, states)
    after = np.asarray(state.position)
    # Kolmogorov-Smirnov at 20,000 draws: the 0.1 % point is 0.0138.
    assert stats.kstest(after[:, 0], stats.norm.cdf).statistic < 0.0138
    assert stats.kstest(after[:, 1], stats.logistic.cdf).statistic < 0.0138
    assert (after != starts).any(1).mean() > 0.4
    np.testing.assert_allclose(found.lp, jax.vmap(target)(state.position), atol=1e-9)
    np.testing.assert_allclose(state.logdensity, found.lp, atol=0)
    moves = np.isfinite(found.move_acceptance)
    assert moves.all() if name == "metropolis" or t == 3 else not moves.any()


@pytest.mark.parametrize("name", ["hmc", "metropolis"])
def test_a_restored_lane_takes_the_step_of_one_that_knows_its_density(name):
    kernel = KERNELS[name]
    states = jax.vmap(partial(state_of, kernel))(jnp.asarray(exact_draws()[:50]))
    unknown = jax.tree.map(jnp.zeros_like, states)._replace(position=states.position)
    known = jax.jit(jax.vmap(partial(step, kernel, 16, False)))(KEYS[:50], states)
    restored = jax.jit(jax.vmap(partial(step, kernel, 16, True)))(KEYS[:50], unknown)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), known, restored)


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


def test_moves_are_made_at_their_places_and_never_where_lanes_are_restored():
    assert 0 not in MOVE_STEPS
    assert PERIOD // len(MOVE_STEPS) == 4


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


def test_uniform_numbers_are_functions_of_key_step_and_number():
    first = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(7), 0, 6, np.dtype(float))
    later = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(7), 2, 4, np.dtype(float))
    np.testing.assert_array_equal(first[2:], later)
    draws = jax.jit(jax.vmap(lambda key: step_uniforms(key, jnp.int32(7), 0, 3, np.dtype("float32"))))(KEYS)
    for column in np.asarray(draws, float).T:
        assert stats.kstest(column, stats.uniform.cdf).statistic < 0.0138
    correlations = np.corrcoef(np.asarray(draws, float).T) - np.eye(3)
    assert np.abs(correlations).max() < 4 / np.sqrt(NUM_LANES)
