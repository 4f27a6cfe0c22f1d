"""The recursions of models/recursions against their equations, their published exponents, and the solver."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.recursions.eight_schools_gibbs import eight_schools, gibbs
from models.recursions.flows import FLOWS, flow
from models.recursions.network import mean_field_network
from models.recursions.observers import REPLACED, observer
from models.recursions.two_well import MEANS, STEP_SIZE, VARIANCES, WEIGHTS, two_well
from parsample import Status, deer, lyapunov_exponent, rollout
from parsample.predictability.lyapunov import batch_means

# Flows and observers


@pytest.mark.parametrize("name", FLOWS)
def test_flows_stay_on_bounded_attractors(name):
    path = np.asarray(rollout(*flow(name)))
    assert path.shape == (30_000, 3)
    assert np.isfinite(path).all()
    if name in ("Duffing", "ABC"):  # angles, which may grow without bound
        path = np.sin(path)
    early, late = path[5000:15_000], path[15_000:]
    middle, width = (early.max(0) + early.min(0)) / 2, np.ptp(early, axis=0)
    # The later part leaves the range of the earlier one by little, and the path has not come to rest.
    assert (np.abs(late - middle) < 1.5 * width).all()
    assert (late[-5000:].std(0) > 1e-3 * width).any()


def runge_kutta(name: str, num_steps: int, dt: float) -> tuple:
    """The flow by the classical Runge-Kutta method of the fourth order: step, start and inputs."""

    def field(state: jax.Array) -> jax.Array:
        return jnp.stack(FLOWS[name].field(*state))

    def step(state: jax.Array, _: jax.Array) -> jax.Array:
        first = field(state)
        second = field(state + dt / 2 * first)
        third = field(state + dt / 2 * second)
        return state + dt / 6 * (first + 2 * second + 2 * third + field(state + dt * third))

    return step, jnp.array(FLOWS[name].start), jnp.arange(num_steps)


SLOW = pytest.mark.slow
# Relative tolerance of the exponent by Euler's method, with respect to the published exponent or, where that is not the
# flow's own, to the exponent by Runge-Kutta.
EXPONENTS = [
    ("Lorenz", "published", 0.25),
    pytest.param("Halvorsen", "published", 0.35, marks=SLOW),
    pytest.param("Duffing", "published", 0.35, marks=SLOW),
    pytest.param("VallisElNino", "published", 0.3, marks=SLOW),
    pytest.param("RikitakeDynamo", "published", 0.3, marks=SLOW),
    pytest.param("Aizawa", "published", 0.3, marks=SLOW),
    pytest.param("SprottB", "published", 0.25, marks=SLOW),
    pytest.param("Dadras", "published", 0.5, marks=SLOW),
    pytest.param("Rossler", "integrated", 0.4, marks=SLOW),
    pytest.param("Thomas", "integrated", 0.4, marks=SLOW),
    pytest.param("Chua", "integrated", 0.5, marks=SLOW),
    pytest.param("ABC", "integrated", 0.6, marks=SLOW),
]


@pytest.mark.parametrize(("name", "kind", "share"), EXPONENTS)
def test_flows_have_their_exponents(name, kind, share):
    dt, num_steps = FLOWS[name].dt, 60_000
    found = lyapunov_exponent(*flow(name, num_steps), num_discarded=2000, dt=dt)
    if kind == "published":
        expected = FLOWS[name].lle
    else:
        expected = float(lyapunov_exponent(*runge_kutta(name, num_steps, dt), num_discarded=2000, dt=dt).lle)
    assert float(found.lle) - 2 * float(found.se) > 0
    assert float(found.lle) == pytest.approx(expected, rel=share)


def test_a_step_of_lorenz_is_eulers():
    x, y, z = np.array(FLOWS["Lorenz"].start)
    expected = np.array([x, y, z]) + 0.01 * np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
    np.testing.assert_allclose(rollout(*flow("Lorenz", 1))[0], expected, rtol=1e-12)


OBSERVED = [pytest.param(name, marks=[] if name == "Rossler" else SLOW) for name in REPLACED]


@pytest.mark.parametrize("name", OBSERVED)
@pytest.mark.slow
def test_observers_are_predictable_and_solved_in_few_sweeps(name):
    chain = observer(name, 3000)
    found = lyapunov_exponent(*chain, num_discarded=200, dt=0.01)
    assert float(found.lle) < -0.02
    guess = jax.random.normal(jax.random.key(1), (3000, 3))
    solution = deer(*chain, initial_guess=guess)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) < 20
    path, truth = rollout(*chain), np.append(chain.inputs[1:], chain.inputs[-1:], axis=0)
    np.testing.assert_allclose(solution.states, path, atol=1e-6)
    apart = np.linalg.norm(np.asarray(path) - truth, axis=1)[:-1]
    assert apart[-500:].max() < 0.5 * np.linalg.norm(chain.initial_state - chain.inputs[0])


def test_an_observer_that_is_right_stays_right():
    chain = observer("Lorenz", 500)
    truth = rollout(*flow("Lorenz", 500))
    path = rollout(chain.step, chain.inputs[0], chain.inputs)
    np.testing.assert_allclose(path, truth, atol=1e-9)


# The network


@pytest.mark.parametrize("nonlinearity", ["before", pytest.param("after", marks=SLOW)])
def test_networks_are_chaotic_by_their_gain(nonlinearity):
    """As in figure 2 of arXiv 2508.16817: -0.65 at a gain of 0.5, and +0.13 at 2."""
    for gain, expected in ((0.5, -0.65), (2.0, 0.13)):
        chain = mean_field_network(gain, nonlinearity=nonlinearity)
        found = lyapunov_exponent(*chain, num_discarded=200)
        assert float(found.lle) == pytest.approx(expected, abs=0.02)


def test_a_step_of_the_network():
    state, weights = np.random.default_rng(0).normal(size=20), {}
    for nonlinearity in ("before", "after"):
        chain = mean_field_network(1.2, num_steps=5, num_units=20, nonlinearity=nonlinearity)
        drive = np.asarray(chain.inputs[3])
        at_rest = jax.jacfwd(lambda s, chain=chain, u=drive: chain.step(s, 0 * u))(jnp.zeros(20))
        weights[nonlinearity] = np.asarray(at_rest)
        w = weights[nonlinearity]
        expected = w @ np.tanh(state) + drive if nonlinearity == "before" else np.tanh(w @ state + drive)
        np.testing.assert_allclose(chain.step(jnp.array(state), jnp.array(drive)), expected, rtol=1e-10)
        assert np.abs(drive).max() < 0.2
    np.testing.assert_allclose(weights["before"], weights["after"], atol=1e-12)
    assert (np.diag(weights["before"]) == 0).all()
    np.testing.assert_allclose(weights["before"].std(), 1.2 / np.sqrt(20), rtol=0.15)


# Two wells


def test_a_step_between_the_wells_is_langevins():
    chain = two_well(3)
    state, weights, means, variances = np.array([0.3, -0.4]), *map(np.array, (WEIGHTS, MEANS, VARIANCES))
    densities = weights * np.exp(-0.5 * ((state - means) ** 2 / variances).sum(1)) / np.sqrt(variances.prod(1))
    score = -(densities[:, None] * (state - means) / variances).sum(0) / densities.sum()
    expected = state + STEP_SIZE * score + np.sqrt(2 * STEP_SIZE) * np.asarray(chain.inputs[1])
    np.testing.assert_allclose(chain.step(jnp.array(state), chain.inputs[1]), expected, rtol=1e-12)


@pytest.mark.slow
def test_the_wells_are_predictable():
    """Exponents of -0.013 to -0.017 a step and 12 to 35 sweeps were found with the code of arXiv 2508.16817."""
    chain = two_well()
    found = lyapunov_exponent(*chain)
    assert -0.02 < float(found.lle) < -0.01
    solution = deer(*chain, scale=jnp.ones(2))
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 5 <= int(solution.num_iters) <= 40
    np.testing.assert_allclose(solution.states, rollout(*chain), atol=1e-7)


# Eight schools


def test_a_sweep_through_the_schools():
    """With normal variates 0 and gamma variates 1, every block is an explicit function of the newest others."""
    data = json.loads((Path(__file__).parents[2] / "models" / "data" / "eight_schools.json").read_text())
    effect, error = np.array(data["effect"], float), np.array(data["standard_error"], float)
    start = {"theta": jnp.zeros(8), "mu": jnp.array(2.0), "log_tau2": jnp.log(25.0), "log_sigma2": jnp.zeros(8)}
    variates = {"theta": jnp.zeros(8), "mu": jnp.zeros(()), "log_tau2": jnp.ones(()), "log_sigma2": jnp.ones(8)}
    found = gibbs().step(start, variates)
    theta = (effect + 2 / 25) / (1 + 1 / 25)
    mu = theta.mean() / (1 + 25 / 8 / 100)
    np.testing.assert_allclose(found["theta"], theta, rtol=1e-12)
    np.testing.assert_allclose(found["mu"], mu, rtol=1e-12)
    np.testing.assert_allclose(found["log_tau2"], np.log(50 + ((theta - mu) ** 2).sum() / 2), rtol=1e-12)
    np.testing.assert_allclose(found["log_sigma2"], np.log((10 * error**2 + (effect - theta) ** 2) / 2), rtol=1e-12)


def schools_in_numpy(num_chains: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Final mu and log tau^2 of many short chains of the same sampler in NumPy, shapes (num_chains,)."""
    data = json.loads((Path(__file__).parents[2] / "models" / "data" / "eight_schools.json").read_text())
    effect, error = np.array(data["effect"], float), np.array(data["standard_error"], float)
    rng = np.random.default_rng(0)
    mu, tau2, sigma2 = np.zeros((num_chains, 1)), np.full((num_chains, 1), 25.0), np.tile(error**2, (num_chains, 1))
    for _ in range(num_steps):
        precision = 1 / sigma2 + 1 / tau2
        theta = (effect / sigma2 + mu / tau2) / precision + rng.normal(size=sigma2.shape) / np.sqrt(precision)
        precision = 8 / tau2 + 1 / 100
        mean = theta.sum(1, keepdims=True) / tau2 / precision
        mu = mean + rng.normal(size=mu.shape) / np.sqrt(precision)
        scale = 50 + 0.5 * ((theta - mu) ** 2).sum(1, keepdims=True)
        tau2 = 1 / rng.gamma(2 + 8 / 2, 1 / scale)
        sigma2 = 1 / rng.gamma((10 + 1) / 2, 2 / (10 * error**2 + (effect - theta) ** 2))
    return mu[:, 0], np.log(tau2[:, 0])


@pytest.mark.slow
def test_gibbs_finds_the_moments_of_eight_schools():
    path = rollout(*eight_schools(20_000))
    for name, reference in zip(("mu", "log_tau2"), schools_in_numpy(4000, 60), strict=True):
        values = path[name][200:]
        mean, error = map(float, batch_means(values, 50))
        error = np.hypot(error, reference.std() / np.sqrt(reference.size))
        assert abs(mean - reference.mean()) < 4 * error
        np.testing.assert_allclose(values.std(), reference.std(), rtol=0.06)


@pytest.mark.slow
def test_gibbs_is_predictable_and_solved_by_newtons_method():
    chain = eight_schools(500)
    assert sum(leaf.size for leaf in jax.tree.leaves(chain.initial_state)) == 18
    assert float(lyapunov_exponent(*chain).lle) < -0.1
    solution = deer(*chain)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) < 40
    for found, expected in zip(*map(jax.tree.leaves, (solution.states, rollout(*chain))), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: flow("Lorentz"), "name must be one of Lorenz, .*; got 'Lorentz'"),
        (lambda: observer("Halvorsen"), "name must be one of .*; got 'Halvorsen'"),
        (lambda: mean_field_network(1.0, nonlinearity="both"), "nonlinearity must be 'before' or 'after'.*got 'both'"),
    ],
)
def test_unknown_names(make, words):
    with pytest.raises(ValueError, match=words):
        make()
