"""Every kernel of `sample` leaves its target invariant, including steps with moves and steps of restored lanes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_steps import KEYS, exact_draws, state_of, step, target
from scipy import stats

from parsample.chain.multishift import lattice_point
from parsample.internal.threefry import step_uniforms
from parsample.kernels import KERNELS
from parsample.kernels.base import MOVE_STEPS, LaneState, any_lane, with_move
from parsample.lanes.program import LANES, PERIOD


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
    moves = np.asarray(found.move_acceptance) >= 0
    assert moves.all() if name != "metropolis" and t == 3 else not moves.any()


@pytest.mark.parametrize("name", ["hmc", "metropolis"])
def test_a_restored_lane_takes_the_step_of_one_that_knows_its_density(name):
    kernel = KERNELS[name]
    states = jax.vmap(partial(state_of, kernel))(jnp.asarray(exact_draws()[:50]))
    unknown = jax.tree.map(jnp.zeros_like, states)._replace(position=states.position)
    known = jax.jit(jax.vmap(partial(step, kernel, 16, False)))(KEYS[:50], states)
    restored = jax.jit(jax.vmap(partial(step, kernel, 16, True)))(KEYS[:50], unknown)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), known, restored)


def test_moves_use_random_numbers_of_their_own():
    position, flat = jnp.array([0.4, -1.1]), lambda u: (jnp.zeros(()), jnp.zeros_like(u))
    uniforms = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(3), 0, 3 + 7, np.dtype(float))
    state = LaneState(position, *flat(position))
    moved, probability = with_move(
        jnp.asarray(KEYS[0]), jnp.int32(3), state, jnp.asarray(0.5), jnp.asarray(False), flat
    )
    # The first three are those of the momentum and of the decision on the trajectory.
    np.testing.assert_allclose(moved.position, lattice_point(uniforms[3:9].reshape(3, 2), position, 0.5), rtol=1e-12)
    assert float(probability) == 1


def test_moves_are_made_at_their_places_and_never_where_lanes_are_restored():
    assert 0 not in MOVE_STEPS
    assert PERIOD // len(MOVE_STEPS) == 4


def test_lanes_ask_each_other_and_a_lane_alone_itself():
    flags = jnp.array([False, True, False])
    assert jax.vmap(any_lane, axis_name=LANES)(flags).tolist() == 3 * [True]
    assert jax.vmap(any_lane, axis_name=LANES)(flags[::2]).tolist() == 2 * [False]
    assert jax.vmap(any_lane)(flags).tolist() == flags.tolist()
