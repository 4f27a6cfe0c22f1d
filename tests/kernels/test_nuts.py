"""NUTS in lockstep: every lane's step is BlackJAX's own."""

from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.hmc import HMCState

from parsample.kernels.base import LaneState
from parsample.kernels.nuts import NUTS, nuts_step
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import LANES, PERIOD

NUM_LANES, DIMENSION = 16, 3
KEYS = jax.random.split(jax.random.key(7), NUM_LANES)


def funnel(x: jax.Array) -> jax.Array:
    """A funnel, which gives trees of many depths, and divergences."""
    return -0.5 * x[0] ** 2 / 9 - 0.5 * jnp.sum(x[1:] ** 2 * jnp.exp(-x[0])) - 0.5 * (x.shape[0] - 1) * x[0]


def bounded(x: jax.Array) -> jax.Array:
    """A Gaussian log density, minus infinity outside a box."""
    return jnp.where((jnp.abs(x) < 1.5).all(), -0.5 * jnp.sum(x**2), -jnp.inf)


def by_blackjax(logdensity: Any, step_size: float, key: jax.Array, state: Any) -> tuple:
    kernel = blackjax.nuts.build_kernel()
    state, info = kernel(key, HMCState(*state), logdensity, step_size, jnp.ones_like(state.position))
    steps = (info.num_integration_steps, info.num_trajectory_expansions)
    return LaneState(*state), (info.acceptance_rate, info.is_divergent, steps[0], info.energy, steps[1])


def by_parsample(logdensity: Any, step_size: float, key: jax.Array, state: Any) -> tuple:
    state, known = nuts_step(key, LaneState(*state), logdensity, jnp.asarray(step_size, state.position.dtype))
    return state, (known.acceptance_rate, known.diverging, known.n_steps, known.energy, known.tree_depth)


def begun(logdensity: Any, dtype: Any = jnp.float64) -> Any:
    starts = 0.5 * jax.random.normal(jax.random.key(1), (NUM_LANES, DIMENSION), dtype)
    return LaneState(*jax.vmap(partial(blackjax.hmc.init, logdensity_fn=logdensity))(starts))


def run(step: Any, states: Any, num_steps: int) -> tuple:
    """States and statistics of each step, leading axes (steps, lanes)."""

    def advance(states: Any, t: jax.Array) -> tuple:
        states, known = jax.vmap(step, axis_name=LANES)(jax.vmap(lambda key: jax.random.fold_in(key, t))(KEYS), states)
        return states, (states, known)

    return jax.jit(lambda states: jax.lax.scan(advance, states, jnp.arange(num_steps)))(states)[1]


@pytest.mark.parametrize(
    ("logdensity", "step_size"),
    [(funnel, 1.5), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((funnel, 0.4), (bounded, 0.7)))],
)
def test_lanes_take_blackjax_own_steps(logdensity, step_size):
    arguments = (begun(logdensity), 25)
    states, known = run(partial(by_parsample, logdensity, step_size), *arguments)
    expected, info = run(partial(by_blackjax, logdensity, step_size), *arguments)
    np.testing.assert_allclose(states.position, expected.position, atol=1e-9)
    np.testing.assert_allclose(states.logdensity, expected.logdensity, atol=1e-8)
    np.testing.assert_allclose(states.logdensity_grad, expected.logdensity_grad, atol=1e-8)
    rates, diverging, num_states, energies, doublings = known
    np.testing.assert_array_equal(diverging, info[1])
    np.testing.assert_array_equal(num_states, info[2])
    np.testing.assert_array_equal(doublings, info[4])
    np.testing.assert_allclose(rates, info[0], rtol=1e-7)
    np.testing.assert_allclose(energies, info[3], rtol=1e-8)
    if logdensity is funnel:
        assert len(set(np.unique(doublings))) >= 4  # lanes do differ
    if step_size > 0.5:
        assert diverging.any()


@pytest.mark.slow
def test_a_trajectory_that_never_turns_ends_at_the_tenth_doubling():
    step = partial(by_parsample, funnel, 1e-5)
    _, known = jax.jit(jax.vmap(step))(KEYS, begun(funnel))
    assert known[2].tolist() == NUM_LANES * [1023]
    assert known[4].tolist() == NUM_LANES * [10]
    assert not known[1].any()


@pytest.mark.slow
def test_tangents_are_those_of_blackjax():
    def moved(step: Any, key: jax.Array, position: jax.Array) -> jax.Array:
        return step(key, blackjax.hmc.init(position, funnel))[0].position

    starts = begun(funnel).position
    ours, theirs = (
        jax.jit(jax.vmap(jax.jacfwd(partial(moved, partial(step, funnel, 0.4)), argnums=1)))(KEYS, starts)
        for step in (by_parsample, by_blackjax)
    )
    assert ours.shape == (NUM_LANES, DIMENSION, DIMENSION)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert np.abs(theirs).max() > 0.1


def test_what_lanes_count_alike_is_not_masked():
    def program(axis_name: str | None) -> str:
        step = jax.vmap(partial(by_parsample, funnel, 0.4), axis_name=axis_name)
        return jax.jit(step).lower(KEYS, begun(funnel)).as_text()

    assert program(LANES).count("stablehlo.select") < program(None).count("stablehlo.select")


@pytest.mark.slow
def test_float32_stays_float32(float32):
    states, known = run(partial(by_parsample, funnel, 0.4), begun(funnel, jnp.float32), 5)
    assert states.position.dtype == known[0].dtype == known[3].dtype == jnp.float32
    assert np.isfinite(states.position).all()


# Compiled once: the number of leapfrog steps is an argument.
STEP = jax.jit(NUTS().step, static_argnums=5)


@pytest.mark.parametrize(("num_integration_steps", "num_leapfrogs"), [(1, 1), (8, 7), (64, 63)])
def test_trees_have_at_most_the_leapfrog_steps_of_the_parameters(num_integration_steps, num_leapfrogs):
    parameters = KernelParameters(
        center=jnp.zeros(DIMENSION),
        factor=jnp.ones(DIMENSION),
        step_size=jnp.asarray(1e-8),  # a tree with so small a step does not turn by itself
        num_integration_steps=jnp.full(PERIOD, num_integration_steps, jnp.int32),
        move_scales=jnp.zeros(PERIOD),
    )
    state = jax.tree.map(lambda leaf: leaf[0], begun(funnel))
    key_data, zero = jax.random.key_data(KEYS[0]), jnp.int32(0)
    _, found = STEP(key_data, state, zero, zero, jnp.asarray(False), funnel, parameters)
    assert int(found.n_steps) == num_leapfrogs
