"""Lyapunov exponents against formulas."""

from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import affine, affine_step, delay_line, fade, isotropic, logistic_map, noise
from marks import slow
from refusals import refuses

from parsample import lyapunov_exponent
from parsample.chain.blackjax_chain import AlgorithmDynamics, begin
from parsample.predictability.lyapunov import batch_means, log_growth

KEY = jax.random.key(0)
INPUTS = noise(12)
START = jnp.array(0.5)
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
        return growth[0], accepted

    return tuple(map(np.asarray, run(chain_key)))


def test_logistic_map_has_exponent_log_2():
    result = lyapunov_exponent(*logistic_map(20_000), num_discarded=100)
    assert abs(float(result.lle) - np.log(2)) < 4 * float(result.se)
    assert 0 < float(result.se) < 0.01
    assert result.growth.shape == (1, 20_000)
    assert result.spread is None


def langevin(step_size: float) -> Callable:
    def step(state: jax.Array, drive: jax.Array) -> jax.Array:
        return state - step_size * jnp.asarray(PRECISIONS, state.dtype) * state + jnp.sqrt(2 * step_size) * drive

    return step


@pytest.mark.parametrize("step_size", [0.05, 0.2, 0.25])
def test_unadjusted_langevin_forgets_a_gaussian_at_its_slowest_rate(step_size):
    result = lyapunov_exponent(langevin(step_size), jnp.ones(3), noise(600, 3), num_discarded=400)
    assert abs(float(result.lle) - np.log(np.abs(1 - step_size * PRECISIONS).max())) < 1e-6
    assert float(result.se) < 1e-6


@pytest.mark.parametrize("step_size", [slow(0.2), 1.4])
def test_mala_forgets_when_it_accepts_and_remembers_when_it_rejects(step_size):
    growth, accepted = growth_and_acceptance(blackjax.mala(isotropic, step_size), jnp.ones(4), 200)
    assert 10 < accepted.sum() < 200
    np.testing.assert_allclose(growth, np.where(accepted, np.log(abs(1 - step_size)), 0.0), atol=1e-10)


@pytest.mark.parametrize(("step_size", "num_integration_steps"), [slow(0.3, 4), (1.7, 2)])
def test_hmc_grows_by_the_cosine_of_its_turn(step_size, num_integration_steps):
    algorithm = blackjax.hmc(isotropic, step_size, jnp.ones(4), num_integration_steps)
    growth, accepted = growth_and_acceptance(algorithm, jnp.ones(4), 200)
    turn = num_integration_steps * np.arccos(1 - step_size**2 / 2)
    assert accepted.sum() > 50
    np.testing.assert_allclose(growth, np.where(accepted, np.log(abs(np.cos(turn))), 0.0), atol=1e-9)


def test_hmc_of_several_frequencies_follows_the_slowest():
    step_size, steps = 0.01, 30  # so small that every proposal is accepted
    algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(PRECISIONS * x**2), step_size, jnp.ones(3), steps)
    growth, accepted = growth_and_acceptance(algorithm, jnp.ones(3), 400)
    turns = steps * np.arccos(1 - step_size**2 * PRECISIONS / 2)
    assert accepted.all()
    np.testing.assert_allclose(growth[300:].mean(), np.log(np.abs(np.cos(turns)).max()), atol=1e-6)


@pytest.mark.slow  # in the default run, tests/planning/test_check.py measures this exponent
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


# Several tangents, and other units of time


def test_tangents_of_one_path_agree_in_the_end_and_count_once():
    one, many = (lyapunov_exponent(*logistic_map(2000), num_probes=n, num_discarded=100) for n in (1, 5))
    assert many.growth.shape == (5, 2000)
    # A one-dimensional state has one direction: five tangents grow alike and do not reduce the standard error.
    np.testing.assert_allclose(float(many.lle), float(one.lle), rtol=1e-10)
    np.testing.assert_allclose(float(many.se), float(one.se), rtol=1e-10)
    assert float(many.spread) < 1e-10


def test_the_spread_is_that_of_exponents_from_different_directions():
    result = lyapunov_exponent(*affine(30), num_probes=6, num_batches=2)
    means = np.asarray(result.growth).mean(1)
    np.testing.assert_allclose(float(result.lle), means.mean(), rtol=1e-12)
    np.testing.assert_allclose(float(result.spread), means.std(ddof=1), rtol=1e-12)
    assert float(result.spread) > 1e-3


def test_time_is_measured_in_units_of_dt():
    per_step, per_time = (lyapunov_exponent(*logistic_map(400), num_probes=2, dt=dt) for dt in (1.0, 0.02))
    for name in ("lle", "se", "spread"):
        np.testing.assert_allclose(getattr(per_time, name), 50 * getattr(per_step, name), rtol=1e-12)
    np.testing.assert_array_equal(per_time.growth, per_step.growth)


# Bad arguments


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_probes": 0}, "num_probes must be a whole number of at least 1; got 0"),
        ({"dt": 0.0}, r"dt must be positive and finite; got 0\.0"),
        ({"dt": np.inf}, "dt must be positive and finite; got inf"),
        ({"num_discarded": 25}, "num_discarded=25 of T=30 steps leaves too few"),
    ],
)
def test_settings_out_of_range(as_users_have_it, settings, words):
    arguments = {"step": affine_step, "initial_state": jnp.ones(3), "inputs": noise(30, 3)} | settings
    with pytest.raises(ValueError, match=words):
        lyapunov_exponent(**arguments)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_discarded": -1}, "num_discarded must be a whole number of at least 0; got -1"),
        ({"num_discarded": 1.5}, "num_discarded must be a whole number of at least 0; got 1.5"),
        ({"num_discarded": 12}, "num_discarded=12 of T=12 steps leaves too few for num_batches=20"),
        ({"num_batches": 1}, "num_batches must be a whole number of at least 2; got 1"),
        ({"num_batches": 5.5}, "num_batches must be a whole number of at least 2; got 5.5"),
        ({"num_batches": "5"}, "num_batches must be a whole number of at least 2; got '5'"),
        ({"dt": "x", "num_batches": 2}, "dt must be positive and finite; got 'x'"),
    ],
)
def test_settings_of_lyapunov_exponent(settings, words):
    with refuses(ValueError, words):
        lyapunov_exponent(fade, START, INPUTS, **settings)
