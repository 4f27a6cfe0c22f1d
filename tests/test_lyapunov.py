"""Lyapunov exponents and meeting times against formulas."""

from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import affine, delay_line, diagonal_step, isotropic, logistic_map, noise, walk_step

from parsample import coalescence_times, lyapunov_exponent
from parsample.lyapunov import batch_means, log_growth
from parsample.transition import AlgorithmDynamics, begin

KEY = jax.random.key(0)
PRECISIONS = np.array([1.0, 4.0, 9.0])


def growth_and_acceptance(algorithm, position: jax.Array, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Log growth of each step of a BlackJAX chain, and whether the step was accepted."""
    dynamics = AlgorithmDynamics(algorithm, lambda state, info: info.is_accepted)
    chain_key, state, start = begin(dynamics, KEY, position)

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        transition, inputs = dynamics(state, key, num_steps)
        growth, _ = log_growth(transition, start, inputs, KEY)
        _, accepted = jax.lax.scan(
            lambda carry, t: transition.step(carry, inputs.at(t)), transition.restore(start), jnp.arange(num_steps)
        )
        return growth, accepted

    return tuple(map(np.asarray, run(chain_key)))


def test_logistic_map_has_exponent_log_2():
    result = lyapunov_exponent(*logistic_map(20_000), num_discarded=100)
    assert abs(float(result.lle) - np.log(2)) < 4 * float(result.se)
    assert 0 < float(result.se) < 0.01
    assert result.growth.shape == (20_000,)


def langevin(step_size: float) -> Callable:
    def step(state: jax.Array, drive: jax.Array) -> jax.Array:
        return state - step_size * jnp.asarray(PRECISIONS, state.dtype) * state + jnp.sqrt(2 * step_size) * drive

    return step


@pytest.mark.parametrize("step_size", [0.05, 0.2, 0.25])
def test_unadjusted_langevin_forgets_a_gaussian_at_its_slowest_rate(step_size):
    result = lyapunov_exponent(langevin(step_size), jnp.ones(3), noise(600, 3), num_discarded=400)
    assert abs(float(result.lle) - np.log(np.abs(1 - step_size * PRECISIONS).max())) < 1e-6
    assert float(result.se) < 1e-6


@pytest.mark.parametrize("step_size", [0.2, 1.4])
def test_mala_forgets_when_it_accepts_and_remembers_when_it_rejects(step_size):
    growth, accepted = growth_and_acceptance(blackjax.mala(isotropic, step_size), jnp.ones(4), 200)
    assert 10 < accepted.sum() < 200
    np.testing.assert_allclose(growth, np.where(accepted, np.log(abs(1 - step_size)), 0.0), atol=1e-10)


@pytest.mark.parametrize(("step_size", "num_integration_steps"), [(0.3, 4), (1.7, 2)])
def test_hmc_grows_by_the_cosine_of_its_turn(step_size, num_integration_steps):
    algorithm = blackjax.hmc(isotropic, step_size, jnp.ones(4), num_integration_steps)
    growth, accepted = growth_and_acceptance(algorithm, jnp.ones(4), 200)
    turn = num_integration_steps * np.arccos(1 - step_size**2 / 2)
    assert accepted.sum() > 50
    np.testing.assert_allclose(growth, np.where(accepted, np.log(abs(np.cos(turn))), 0.0), atol=1e-9)


def test_hmc_of_several_frequencies_follows_the_slowest():
    step_size, steps = 0.01, 30  # so small a step that all is accepted
    algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(PRECISIONS * x**2), step_size, jnp.ones(3), steps)
    growth, accepted = growth_and_acceptance(algorithm, jnp.ones(3), 400)
    turns = steps * np.arccos(1 - step_size**2 * PRECISIONS / 2)
    assert accepted.all()
    np.testing.assert_allclose(growth[300:].mean(), np.log(np.abs(np.cos(turns)).max()), atol=1e-6)


def test_random_walk_metropolis_never_forgets():
    algorithm = blackjax.normal_random_walk(isotropic, jnp.eye(2))
    growth, accepted = growth_and_acceptance(algorithm, jnp.ones(2), 100)
    assert 0 < accepted.sum() < 100
    np.testing.assert_allclose(growth, 0.0, atol=1e-14)


def test_a_state_forgotten_altogether_has_exponent_minus_infinity():
    assert float(lyapunov_exponent(*delay_line(3, 60)).lle) == -np.inf


def test_the_exponent_does_not_depend_on_the_first_tangent():
    results = [lyapunov_exponent(*affine(400), rng_key=jax.random.key(seed), num_discarded=200) for seed in range(3)]
    np.testing.assert_allclose([float(result.lle) for result in results], float(results[0].lle), atol=0.02)


def test_standard_errors_cover():
    # Means of independent numbers, whose standard error is known to be 0.1.
    values = np.random.default_rng(0).normal(size=(400, 100))
    means, errors = jax.vmap(lambda row: batch_means(row, 20))(jnp.array(values))
    np.testing.assert_allclose(np.mean(errors), 0.1, rtol=0.03)
    np.testing.assert_allclose(means, values.mean(1), rtol=1e-10)
    assert np.mean(np.abs(means) < 2 * errors) > 0.9


def test_float32_gives_the_same_exponent(float32):
    result = lyapunov_exponent(langevin(0.2), jnp.ones(3), noise(600, 3), num_discarded=400)
    assert result.lle.dtype == jnp.float32
    assert abs(float(result.lle) - np.log(0.8)) < 1e-5


@pytest.mark.parametrize("apart", [1.0, 1e-3, 100.0])
@pytest.mark.parametrize("factor", [0.5, -0.9])
def test_a_linear_contraction_meets_after_the_steps_of_its_formula(factor, apart):
    starts = jnp.array([[0.0], [apart]])
    tolerance = 1e-6
    result = coalescence_times(
        lambda s, u: factor * s + u, starts, noise(400), scale=jnp.ones(1), atol=tolerance, rtol=0.0
    )
    steps = np.ceil(np.log(tolerance / apart) / np.log(abs(factor)))
    assert result.times.tolist() == [steps]
    expected = apart * np.abs(factor) ** np.arange(1, 51)
    np.testing.assert_allclose(result.distances[:50, 0], expected, rtol=1e-4, atol=1e-14)


def test_a_delay_line_meets_exactly_when_it_is_full():
    chain = delay_line(7, 50)
    starts = jnp.stack([chain.initial_state, jnp.zeros(7), -jnp.ones(7)])
    result = coalescence_times(chain.step, starts, chain.inputs, atol=0.0, rtol=0.0)
    assert result.times.tolist() == [7.0, 7.0]
    assert (result.distances[6:] == 0).all()
    assert (result.distances[:6] > 0).all()


@pytest.mark.parametrize("step", [lambda s, u: 1.1 * s + u, walk_step], ids=["expanding", "walk"])
def test_paths_that_do_not_approach_never_meet(step):
    result = coalescence_times(step, jnp.array([[0.0], [1.0], [0.0]]), noise(200))
    assert result.times.tolist() == [np.inf, 1.0]


def test_a_path_that_leaves_again_has_not_met():
    # Together at step 3 only; apart before and after.
    def step(state: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(t == 2, state * 1e-30, jnp.where(t == 3, state * 1e30, state))

    result = coalescence_times(step, jnp.array([0.0, 1.0]), jnp.arange(10), scale=jnp.array(1.0))
    assert result.times.tolist() == [np.inf]
    assert float(result.distances[2, 0]) < 1e-29


def test_distances_are_in_units_of_the_scale():
    starts = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    result = coalescence_times(diagonal_step, starts, noise(5, 3), scale=jnp.array([10.0, 1.0, 1.0]))
    np.testing.assert_allclose(result.distances[:, 0], 0.1 * 0.9 ** np.arange(1, 6), rtol=1e-10)
