"""Lyapunov exponents, spectra and norms of Jacobians against formulas."""

from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX, Recursion, affine, affine_step, contraction, delay_line, isotropic, logistic_map, noise

from models.recursions.flows import flow
from parsample import (
    lyapunov_exponent,
    lyapunov_exponent_of_jacobians,
    lyapunov_spectrum,
    rollout,
    spectral_norms,
)
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
    assert result.growth.shape == (1, 20_000)
    assert np.isnan(result.spread)


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


# Several tangents, other units of time, growth on the way


def test_tangents_of_one_path_agree_in_the_end_and_count_once():
    one, many = (lyapunov_exponent(*logistic_map(2000), num_probes=n, num_discarded=100) for n in (1, 5))
    assert many.growth.shape == (5, 2000)
    # A state of one dimension has one direction: five tangents say the same five times, and are no surer of it.
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
    np.testing.assert_allclose(per_time.finite_time, 50 * per_step.finite_time, rtol=1e-12)
    np.testing.assert_allclose(per_time.overshoot, per_step.overshoot, rtol=1e-9)


def test_finite_time_exponents_are_running_means_that_end_in_the_exponent():
    result = lyapunov_exponent(*logistic_map(500), dt=0.5)
    for length in (1, 17, 500):
        expected = np.asarray(result.growth)[:, :length].sum() / (0.5 * length)
        np.testing.assert_allclose(result.finite_time[length - 1], expected, rtol=1e-10)
    np.testing.assert_allclose(result.finite_time[-1], float(result.lle), rtol=1e-12)


SHEAR = np.array([[0.5, 20.0], [0.0, 0.4]])  # shrinks in the end, after growing


def test_overshoot_is_the_least_that_bounds_every_stretch():
    chain = Recursion(lambda s, u: jnp.asarray(SHEAR) @ s + u, jnp.ones(2), noise(60, 2))
    result = lyapunov_exponent(*chain, num_probes=64)
    level = np.concatenate([np.zeros((64, 1)), np.cumsum(np.asarray(result.growth), axis=1)], axis=1)
    steps = np.arange(61)
    excess = level[:, None, :] - level[:, :, None] - float(result.lle) * (steps[None] - steps[:, None])[None]
    excess = np.where((steps[None] >= steps[:, None])[None], excess, -np.inf)
    assert np.log(result.overshoot) == pytest.approx(excess.max(), abs=1e-9)
    # Of all tangents, the products of the Jacobians themselves grow the most; many tangents come near that.
    products = [np.linalg.norm(np.linalg.matrix_power(SHEAR, k), 2) * np.exp(-float(result.lle) * k) for k in steps]
    assert 0.8 * max(products) <= result.overshoot <= max(products) * (1 + 1e-9)
    assert max(products) > 20


def test_overshoot_of_a_normal_matrix_is_one():
    chain = Recursion(lambda s, u: 0.9 * s + u, jnp.ones(2), noise(60, 2))
    assert lyapunov_exponent(*chain).overshoot == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("shape", [(60,), (60, 1, 1)])
def test_given_jacobians_have_the_exponent_of_their_products(shape):
    factors = np.exp(np.random.default_rng(0).normal(size=60))
    for kind in (jnp.asarray, np.asarray):
        found = lyapunov_exponent_of_jacobians(kind(factors.reshape(shape)), dt=2.0)
        np.testing.assert_allclose(float(found.lle), np.log(factors).mean() / 2, rtol=1e-12)
        np.testing.assert_allclose(found.growth[0], np.log(factors), atol=1e-12)


# All exponents


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues():
    found = lyapunov_spectrum(*affine(3000), num_discarded=100)
    moduli = np.sort(np.abs(np.linalg.eigvals(MATRIX)))[::-1]
    np.testing.assert_allclose(found.exponents, np.log(moduli), atol=1e-3)
    np.testing.assert_allclose(found.growth.sum(1), np.log(abs(np.linalg.det(MATRIX))), rtol=1e-10)
    assert found.growth.shape == (3000, 3)
    first = lyapunov_spectrum(*affine(3000), num_exponents=1, num_discarded=100)
    assert first.exponents.shape == first.se.shape == (1,)
    np.testing.assert_allclose(first.exponents[0], found.exponents[0], atol=1e-3)


def test_exponents_of_the_lorenz_attractor_add_up_to_its_divergence():
    chain, dt = flow("Lorenz", 10_000), 0.01
    found = lyapunov_spectrum(*chain, num_discarded=1000, dt=dt)
    before = jnp.concatenate([chain.initial_state[None], rollout(*chain)[:-1]])
    jacobians = jax.vmap(jax.jacfwd(chain.step))(before, chain.inputs)
    determinants = np.log(np.abs(np.linalg.det(np.asarray(jacobians))))
    np.testing.assert_allclose(found.exponents.sum(), determinants[1000:].mean() / dt, rtol=1e-9)
    # Of the flow: -(sigma + 1 + beta); Euler's steps are off in the first order of dt.
    np.testing.assert_allclose(found.exponents.sum(), -(10 + 1 + 8 / 3), rtol=0.03)
    # Along the path one exponent is 0.
    assert abs(float(found.exponents[1])) < 5 * float(found.se[1]) + 0.05
    assert float(found.exponents[0]) > 0.7
    assert float(found.exponents[2]) < -14


def test_the_largest_of_the_spectrum_is_the_exponent():
    chain = logistic_map(1000)
    both = lyapunov_spectrum(*chain), lyapunov_exponent(*chain)
    np.testing.assert_allclose(float(both[0].exponents[0]), float(both[1].lle), rtol=1e-12)
    np.testing.assert_allclose(float(both[0].se[0]), float(both[1].se), rtol=1e-9)


def test_spectral_norms_are_largest_singular_values():
    chain = contraction(70)
    path = rollout(*chain)
    before = jax.tree.map(
        lambda first, leaf: jnp.concatenate([jnp.asarray(first)[None], leaf[:-1]]), chain.initial_state, path
    )

    def jacobian(state, drive) -> jax.Array:
        vector, unravel = jax.flatten_util.ravel_pytree(state)
        return jax.jacrev(lambda v: jax.flatten_util.ravel_pytree(chain.step(unravel(v), drive))[0])(vector)

    expected = np.linalg.norm(np.asarray(jax.jit(jax.vmap(jacobian))(before, chain.inputs)), 2, axis=(1, 2))
    np.testing.assert_allclose(spectral_norms(*chain), expected, rtol=1e-10)


# Bad arguments


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        (lyapunov_exponent, {"num_probes": 0}, "num_probes must be a whole number of at least 1; got 0"),
        (lyapunov_exponent, {"dt": 0.0}, r"dt must be positive and finite; got 0\.0"),
        (lyapunov_exponent, {"dt": np.inf}, "dt must be positive and finite; got inf"),
        (lyapunov_spectrum, {"dt": -1.0}, r"dt must be positive and finite; got -1\.0"),
        (lyapunov_spectrum, {"num_exponents": 0}, "num_exponents must be a whole number of at least 1; got 0"),
        (lyapunov_spectrum, {"num_exponents": 4}, "num_exponents=4 exceeds the 3 dimensions of the state"),
        (lyapunov_spectrum, {"num_discarded": 25}, "num_discarded=25 of T=30 steps leaves too few"),
        (spectral_norms, {"inputs": None}, "inputs: every array needs the same leading axis"),
    ],
)
def test_settings_out_of_range(as_users_have_it, function, settings, words):
    arguments = {"step": affine_step, "initial_state": jnp.ones(3), "inputs": noise(30, 3)} | settings
    with pytest.raises(ValueError, match=words):
        function(**arguments)


@pytest.mark.parametrize("shape", [(30, 2, 3), (30, 2), ()])
def test_jacobians_are_square(as_users_have_it, shape):
    with pytest.raises(ValueError, match=r"jacobians must have shape \(T, D, D\) or \(T,\); got"):
        lyapunov_exponent_of_jacobians(jnp.ones(shape))
