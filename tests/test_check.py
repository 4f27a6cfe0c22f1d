"""The check: what it measures on chains with known answers, and what it tells people."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import contraction, isotropic, logistic_map, logistic_step

from parsample import DEER, ParallelStallWarning, Report, Sequential, as_recursion, check
from parsample.check import examine
from parsample.costs import StepCosts
from parsample.transition import AlgorithmDynamics, Inputs, Transition, as_inputs, begin, from_step

CHECK = importlib.import_module("parsample.check")  # the module, which the function of that name hides
KEY = jax.random.key(0)
ROOM = StepCosts((1, 8, 64, 512), (1e-6,) * 4)


def examined(algorithm: Any, position: jax.Array, num_steps: int, **settings: Any) -> Report:
    dynamics = AlgorithmDynamics(algorithm, lambda state, info: state.position)
    pilot_key, state, start = begin(dynamics, KEY, position)
    return examine(dynamics, state, start[None], pilot_key, num_steps, **({"costs": ROOM} | settings))


@pytest.fixture(scope="module")
def predictable() -> Report:
    """A standard Gaussian under MALA steps of 0.2, nearly all accepted; a difference shrinks by 0.8 in each."""
    return examined(blackjax.mala(isotropic, 0.2), jnp.zeros(2), 20_000)


@pytest.fixture(scope="module")
def unpredictable() -> Report:
    """Random-walk Metropolis: differences never shrink."""
    return examined(blackjax.normal_random_walk(isotropic, jnp.eye(2)), jnp.zeros(2), 20_000)


def test_a_predictable_chain_is_measured_right(predictable):
    # Accepted steps add log 0.8 = -0.223, the few rejected ones 0.
    assert np.log(0.8) <= predictable.lle <= 0.85 * np.log(0.8)
    assert 0 < predictable.lle_se < 0.02
    assert predictable.coalescence.ndim == 1
    assert len(predictable.coalescence) >= 4
    # From a distance of about 1 to 1e-10 of it at this rate.
    assert np.isfinite(predictable.coalescence).all()
    np.testing.assert_allclose(np.median(predictable.coalescence), np.log(1e-10) / predictable.lle, rtol=0.15)


def test_distances_shrink_at_the_rate_of_the_exponent(predictable):
    steps = np.arange(60)
    slopes = np.polyfit(steps, np.log(predictable.distances[:60]), 1)[0]
    np.testing.assert_allclose(slopes.mean(), predictable.lle, rtol=0.15)


def test_a_predictable_chain_is_planned_in_parallel_without_a_warning(predictable):
    assert predictable.parallelizable
    assert isinstance(predictable.plan.method, DEER)
    assert (predictable.cause, predictable.remedy) == ("", "")
    assert predictable.plan.num_steps == 20_000
    assert predictable.plan.speedup > 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictable.warn()


def test_a_report_reads_well(predictable):
    text = str(predictable)
    for words in ("verdict", "parallel", "Lyapunov exponent", f"{predictable.lle:+.3g}", "nats per step", "halves in"):
        assert words in text
    num_pairs = len(predictable.coalescence)
    assert f"{num_pairs} of {num_pairs} restarted pairs met" in text
    assert f"{predictable.plan.num_blocks} blocks of {predictable.plan.method.block_size} steps" in text
    assert "evaluations per step" in text
    assert "because" not in text


def test_random_walk_metropolis_has_exponent_zero_and_never_meets(unpredictable):
    assert abs(unpredictable.lle) < 1e-14
    assert unpredictable.lle_se < 1e-14
    assert np.isinf(unpredictable.coalescence).all()
    assert unpredictable.num_pilot_steps == len(unpredictable.distances) >= 64


def test_an_unpredictable_chain_is_planned_sequentially_with_cause_and_remedy(unpredictable):
    assert not unpredictable.parallelizable
    assert unpredictable.plan.method == Sequential()
    num_pairs, num_steps = len(unpredictable.coalescence), unpredictable.num_pilot_steps
    assert f"{num_pairs} of {num_pairs} restarted pairs did not meet within {num_steps} steps" in unpredictable.cause
    assert "another kernel" in unpredictable.remedy
    with pytest.warns(ParallelStallWarning, match=r"evaluated sequentially: .* did not meet.*Try: .*kernel"):
        unpredictable.warn()
    text = str(unpredictable)
    assert "sequential" in text
    assert "because" in text
    assert "try" in text
    assert f"0 of {num_pairs}" in text


@dataclass(frozen=True)
class Chaos:
    """The logistic map as a family of chains."""

    kernel = ""

    def __call__(self, parameters: Any, rng_key: jax.Array, num_steps: int) -> tuple[Transition, Inputs]:
        transition, _ = from_step(logistic_step, jnp.zeros(1))
        return transition, as_inputs(jnp.arange(num_steps))


def test_a_chaotic_chain_is_called_unpredictable():
    found = examine(Chaos(), None, jnp.linspace(0.11, 0.93, 16)[:, None], KEY, 20_000, costs=ROOM)
    assert found.lle == pytest.approx(np.log(2), abs=4 * found.lle_se)
    assert np.isinf(found.coalescence).all()
    assert found.plan.method == Sequential()
    assert "not predictable" in found.cause
    assert "did not meet" in found.cause


def test_no_room_on_the_device_is_a_cause_of_its_own():
    costs = StepCosts((1, 8, 64, 512), (1e-6, 8e-6, 64e-6, 512e-6))
    found = examined(blackjax.mala(isotropic, 0.2), jnp.zeros(2), 20_000, costs=costs)
    assert np.isfinite(found.coalescence).all()
    assert not found.parallelizable
    assert "gain too little" in found.cause
    assert isinstance(found.plan.fallback, DEER)


def test_the_pilot_stops_when_all_have_met_and_takes_a_few_percent_otherwise(predictable, unpredictable):
    assert predictable.coalescence.max() <= predictable.num_pilot_steps == len(predictable.distances)
    assert predictable.num_pilot_steps < unpredictable.num_pilot_steps <= 20_000 // 20


def noisy(position: jax.Array) -> jax.Array:
    """A standard Gaussian far from the origin of its arithmetic: in float32, x + 4096 keeps three digits of x."""
    return -0.5 * jnp.sum(((position + 4096.0) - 4096.0) ** 2)


@pytest.mark.slow
def test_noise_of_float32_gradients_is_told_from_unpredictability(float32):
    found = examined(blackjax.mala(noisy, 0.2), jnp.zeros(2), 20_000)
    assert found.distances.dtype == np.float32
    assert found.lle < -0.15
    assert np.isinf(found.coalescence).any()
    assert "float32" in found.cause
    assert "float64" in found.remedy


@pytest.mark.slow
def test_the_same_chain_in_float64_meets():
    found = examined(blackjax.mala(noisy, 0.2), jnp.zeros(2), 20_000)
    assert found.parallelizable
    assert np.isfinite(found.coalescence).all()


def test_check_measures_this_device_and_reports(monkeypatch):
    monkeypatch.setattr(CHECK, "measure_costs", lambda *arguments, **settings: ROOM)
    found = check(KEY, blackjax.mala(isotropic, 0.2), jnp.zeros(2), num_steps=20_000)
    assert found.parallelizable
    assert found.costs == ROOM
    assert found.lle < -0.15


def test_check_warns_when_it_will_not_pay(monkeypatch):
    monkeypatch.setattr(CHECK, "measure_costs", lambda *arguments, **settings: ROOM)
    with pytest.warns(ParallelStallWarning, match="did not meet"):
        found = check(KEY, blackjax.normal_random_walk(isotropic, jnp.eye(2)), jnp.zeros(2), num_steps=5_000)
    assert not found.parallelizable
    assert found.plan.method == Sequential()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::parsample.ParallelStallWarning")
def test_costs_are_measured_at_increasing_lane_counts():
    found = check(KEY, blackjax.mala(isotropic, 0.2), jnp.zeros(2), num_steps=100_000)
    assert found.costs.lanes[0] == 1
    assert list(found.costs.lanes) == sorted(set(found.costs.lanes))
    assert len(found.costs.lanes) >= 2
    assert min(found.costs.seconds) > 0
    assert found.lle < -0.15
    assert np.isfinite(found.coalescence).all()


# Recursions


def test_a_contraction_is_predictable():
    chain = contraction(20_000)
    found = check(KEY, chain.step, chain.initial_state, inputs=chain.inputs, costs=ROOM)
    assert found.lle + 2 * found.lle_se < 0
    assert np.isfinite(found.coalescence).all()
    assert found.parallelizable
    assert found.plan.num_steps == 20_000
    assert found.block_starts.shape[1] == 3


def test_a_chaotic_recursion_is_not():
    chaos = logistic_map(5000)
    with pytest.warns(ParallelStallWarning, match=r"evaluated sequentially: the chain is not predictable"):
        found = check(KEY, chaos.step, chaos.initial_state, inputs=chaos.inputs, costs=ROOM)
    assert found.lle == pytest.approx(np.log(2), abs=5 * found.lle_se)
    assert np.isinf(found.coalescence).all()
    assert found.plan.method == Sequential()


@pytest.mark.slow
def test_a_sampler_as_a_recursion_is_as_predictable_as_itself(predictable):
    chain = as_recursion(KEY, blackjax.mala(isotropic, 0.2), jnp.zeros(2), 20_000)
    found = check(KEY, chain.step, chain.initial_state, inputs=chain.inputs, costs=ROOM)
    assert found.parallelizable
    assert found.lle == pytest.approx(predictable.lle, abs=0.03)
    assert np.median(found.coalescence) == pytest.approx(np.median(predictable.coalescence), rel=0.2)


def test_inputs_are_those_of_a_recursion():
    with pytest.raises(ValueError, match="inputs drive a function step"):
        check(KEY, blackjax.mala(isotropic, 0.2), jnp.zeros(2), inputs=jnp.arange(10))
    with pytest.raises(ValueError, match="inputs: every array needs the same leading axis"):
        check(KEY, logistic_step, jnp.zeros(1))
    with pytest.raises(TypeError, match="initial_state must be a pytree of floating-point arrays"):
        check(KEY, logistic_step, jnp.arange(1), inputs=jnp.arange(10))


SLOW_DIRECTIONS = jnp.array([1.0, 3.0, 0.25])


def slow_gaussian(x: jax.Array) -> jax.Array:
    """Directions that contract at similar, slow rates."""
    return -0.5 * jnp.sum(SLOW_DIRECTIONS * x**2)


def test_the_exponent_of_slow_similar_directions_is_right_within_its_error():
    # Langevin steps that are nearly always accepted contract by 1 - 0.01 w; tangents take hundreds of steps to turn.
    mala = blackjax.mala(slow_gaussian, 0.01)
    for seed in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParallelStallWarning)
            found = check(jax.random.key(seed), mala, jnp.zeros(3), num_steps=8000)
        assert abs(found.lle - np.log(1 - 0.0025)) <= 2 * found.lle_se
        assert found.lle_se < 0.004
        assert found.lle == pytest.approx(np.log(1 - 0.0025), abs=0.002)


def test_directions_that_contract_alike_need_not_turn():
    mala = blackjax.mala(lambda x: -0.5 * jnp.sum(x**2), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)
        found = check(jax.random.key(0), mala, jnp.zeros(30), num_steps=8000)
    assert found.lle == pytest.approx(np.log(0.99), abs=1e-4)
    assert found.lle_se < 1e-3
