"""Surrogate accept steps: values of BlackJAX's chains, derivatives of soft mixtures."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.util import generate_gaussian_noise, run_inference_algorithm
from chains import logistic_regression, logistic_regression_start

from benchmarks.papers.tools.surrogate import surrogate_hmc, surrogate_mala
from parsample import Status, as_recursion, deer

KEY = jax.random.key(0)
METRIC = jnp.array([0.2, 1.0])
SCALES = jnp.array([0.5, 2.0])


def target(position: jax.Array) -> jax.Array:
    """Not a Gaussian, and not symmetric."""
    return -0.5 * jnp.sum((position / SCALES) ** 2) - jnp.log1p(jnp.exp(position[0] * position[1]))


MALA, MALA_STEP = surrogate_mala(target, 0.3, temperature=0.7), 0.3
HMC, HMC_STEP, LEAPFROGS = surrogate_hmc(target, 1.5, METRIC, 3, temperature=0.7), 1.5, 3
PAIRS = {
    "mala": (lambda logp, metric: (surrogate_mala(logp, 0.3), blackjax.mala(logp, 0.3))),
    "hmc": (lambda logp, metric: (surrogate_hmc(logp, 0.5, metric, 4), blackjax.hmc(logp, 0.5, metric, 4))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_chain_is_blackjaxs_own(name):
    ours, theirs = PAIRS[name](logistic_regression, jnp.ones(4))

    def run(algorithm) -> tuple:
        def keep(state, info):
            return state.position, info.is_accepted, info.acceptance_rate

        settings = {"initial_position": logistic_regression_start(), "num_steps": 300, "transform": keep}
        return run_inference_algorithm(KEY, algorithm, **settings)[1]

    (found, accepted, rates), (expected, expected_accepted, expected_rates) = run(ours), run(theirs)
    np.testing.assert_array_equal(accepted, expected_accepted)
    assert 20 < int(accepted.sum()) < 280
    np.testing.assert_allclose(rates, expected_rates, atol=1e-12)
    for leaf in found:
        np.testing.assert_allclose(found[leaf], expected[leaf], atol=1e-12)


# The soft mixtures, from normal log densities and explicit leapfrog steps


def soft_mala(position: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
    key_noise, key_accept = jax.random.split(key)
    gradient = jax.grad(target)
    noise = generate_gaussian_noise(key_noise, position)
    proposal = position + MALA_STEP * gradient(position) + np.sqrt(2 * MALA_STEP) * noise

    def log_move(to: jax.Array, origin: jax.Array) -> jax.Array:
        centre = origin + MALA_STEP * gradient(origin)
        return jax.scipy.stats.norm.logpdf(to, centre, np.sqrt(2 * MALA_STEP)).sum()

    log_ratio = target(proposal) - target(position) + log_move(position, proposal) - log_move(proposal, position)
    return soft(position, proposal, log_ratio, key_accept, temperature)


def soft_hmc(position: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
    _, key_accept = jax.random.split(key)
    kick = HMC.step(key, HMC.init(position))[1].momentum  # which does not depend on the position

    def energy(x: jax.Array, p: jax.Array) -> jax.Array:
        return -target(x) + 0.5 * jnp.sum(METRIC * p**2)

    x, p = position, kick
    for _ in range(LEAPFROGS):
        p = p + HMC_STEP / 2 * jax.grad(target)(x)
        x = x + HMC_STEP * METRIC * p
        p = p + HMC_STEP / 2 * jax.grad(target)(x)
    return soft(position, x, energy(position, kick) - energy(x, p), key_accept, temperature)


def soft(position: jax.Array, proposal: jax.Array, log_ratio: jax.Array, key: jax.Array, temperature: float):
    gate = 1 / (1 + jnp.exp(-(log_ratio - jnp.log(jax.random.uniform(key))) / temperature))
    return gate * proposal + (1 - gate) * position


@pytest.mark.parametrize(
    ("algorithm", "mixture"),
    [(MALA, soft_mala), (HMC, soft_hmc)],
    ids=["mala", "hmc"],
)
@pytest.mark.slow
def test_the_derivative_is_that_of_the_soft_mixture(algorithm, mixture):
    @jax.jit
    def both(position: jax.Array, key: jax.Array) -> tuple:
        def step(x: jax.Array) -> jax.Array:
            return algorithm.step(key, algorithm.init(x))[0].position

        direction = jnp.array([0.6, -0.8])
        tangent = jax.jvp(step, (position,), (direction,))[1]
        ahead, behind = (mixture(position + sign * 1e-5 * direction, key, 0.7) for sign in (1, -1))
        return tangent, (ahead - behind) / 2e-5, algorithm.step(key, algorithm.init(position))[1].is_accepted

    positions = SCALES[None] * jax.random.normal(KEY, (40, 2))
    tangents, differences, accepted = jax.vmap(both)(positions, jax.random.split(KEY, 40))
    assert 5 < int(accepted.sum()) < 35
    np.testing.assert_allclose(tangents, differences, atol=1e-7)


@pytest.mark.slow
def test_a_cold_surrogate_differentiates_the_branch_taken():
    cold, plain = surrogate_mala(target, 0.3, temperature=1e-4), blackjax.mala(target, 0.3)

    @jax.jit
    @jax.vmap
    def jacobians(position: jax.Array, key: jax.Array) -> list:
        steps = (lambda x, a=each: a.step(key, a.init(x))[0].position for each in (cold, plain))
        return [jax.jacfwd(step)(position) for step in steps]

    ours, theirs = jacobians(SCALES[None] * jax.random.normal(KEY, (40, 2)), jax.random.split(KEY, 40))
    identity = np.all(theirs == np.eye(2)[None], axis=(1, 2))
    assert 0 < identity.sum() < 40  # some are rejected
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_newton_finds_blackjaxs_chain_by_surrogate_derivatives():
    chain = as_recursion(KEY, MALA, jnp.ones(2), 100)
    solution = deer(*chain, stall_after=1000)
    assert Status(int(solution.status)) is Status.CONVERGED
    keep = {"initial_position": jnp.ones(2), "num_steps": 100, "transform": lambda state, info: state.position}
    expected = run_inference_algorithm(KEY, blackjax.mala(target, 0.3), **keep)[1]
    np.testing.assert_allclose(solution.states, expected, atol=1e-8)
    assert int(solution.num_iters) < 60


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_temperatures_are_positive(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        surrogate_mala(target, 0.3, temperature=temperature)
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        surrogate_hmc(target, 0.3, METRIC, 3, temperature=temperature)
