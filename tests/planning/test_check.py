"""The check: its measurements on chains with known answers, and its messages."""

import warnings
from typing import Any

import blackjax
import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import contraction, isotropic, logistic_map, logistic_step
from checks import KEY, WALK, examined
from warned import warns_here

from parsample import Model, ParallelStallWarning, Report, as_recursion, check
from parsample.lanes.meeting import MAX_TOLERANCE, NOISE_MARGIN


@pytest.fixture(scope="module")
def predictable() -> Report:
    return checks.predictable()


@pytest.fixture(scope="module")
def unpredictable() -> Report:
    return checks.unpredictable()


def test_a_predictable_chain_is_measured_right(predictable):
    # Accepted steps add log 0.8 = -0.223, the few rejected ones 0.
    assert np.log(0.8) <= predictable.lle <= 0.85 * np.log(0.8)
    assert 0 < predictable.lle_se < 0.02
    assert predictable.coalescence.ndim == 1
    assert len(predictable.coalescence) >= 4
    # Steps that shrink a distance of about 1 to 1e-10 at this rate.
    assert np.isfinite(predictable.coalescence).all()
    np.testing.assert_allclose(np.median(predictable.coalescence), np.log(1e-10) / predictable.lle, rtol=0.15)


def test_distances_shrink_at_the_rate_of_the_exponent(predictable):
    steps = np.arange(60)
    slopes = np.polyfit(steps, np.log(predictable.meeting.distances[:60]), 1)[0]
    np.testing.assert_allclose(slopes.mean(), predictable.lle, rtol=0.15)


def test_a_predictable_chain_is_planned_in_parallel_without_a_warning(predictable):
    assert predictable.parallelizable
    assert (predictable.cause, predictable.remedy) == ("", "")
    assert predictable.plan.num_steps == 20_000
    assert predictable.plan.num_blocks == predictable.num_lanes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictable.warn()


def test_random_walk_metropolis_has_exponent_zero_and_never_meets(unpredictable):
    assert abs(unpredictable.lle) < 1e-14
    assert unpredictable.lle_se < 1e-14
    assert np.isinf(unpredictable.coalescence).all()
    assert unpredictable.meeting.num_steps == len(unpredictable.meeting.distances) >= 64


def test_the_pilot_stops_when_all_have_met_and_takes_a_few_percent_otherwise(predictable, unpredictable):
    assert predictable.coalescence.max() <= predictable.meeting.num_steps
    assert predictable.meeting.num_steps < unpredictable.meeting.num_steps <= 20_000 // 20


def noisy(digits: float) -> Any:
    """A standard Gaussian with rounding noise: in float32, x + 4096 keeps three digits of x."""
    return lambda position: -0.5 * jnp.sum(((position + digits) - digits) ** 2)


def test_rounding_is_told_from_unpredictability(float32):
    found = examined(blackjax.mala(noisy(4096.0), 0.2), jnp.zeros(2), 20_000)
    # Rounding keeps paths more than 1e-5 standard deviations apart; they meet within a larger tolerance.
    assert 1e-4 < found.atol < 1e-2
    assert np.isfinite(found.coalescence).all()
    assert found.parallelizable
    assert found.lle < -0.15
    assert f"{found.atol:.1g} standard deviations" in str(found)


@pytest.mark.slow
def test_noise_that_is_a_sizeable_part_of_a_standard_deviation_is_refused(float32):
    # Float32 numbers near 2^20 are 0.06 or 0.12 apart. Those near 65536 are 0.008 apart, which would be tolerated.
    found = examined(blackjax.mala(noisy(2.0**20), 0.2), jnp.zeros(2), 20_000)
    assert found.meeting.distances.dtype == np.float32
    assert np.isinf(found.coalescence).any()
    assert found.meeting.last_distances.max() > MAX_TOLERANCE / NOISE_MARGIN
    assert found.atol == 1e-5
    assert not found.parallelizable


@pytest.mark.slow
def test_the_same_chain_in_float64_meets():
    found = examined(blackjax.mala(noisy(4096.0), 0.2), jnp.zeros(2), 20_000)
    assert found.parallelizable
    assert np.isfinite(found.coalescence).all()


def test_check_warns_when_it_will_not_pay():
    with warns_here(ParallelStallWarning, match="did not meet"):
        found = check(KEY, WALK, jnp.zeros(2), num_steps=5_000)
    assert not found.parallelizable


def test_a_step_without_derivatives_is_judged_by_meeting_times():
    @jax.custom_vjp
    def density(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(x**2)

    density.defvjp(lambda x: (density(x), x), lambda x, g: (-g * x,))
    found = examined(blackjax.mala(density, 0.2), jnp.zeros(2), 20_000)
    assert np.isnan([found.lle, found.lle_se]).all()
    assert found.parallelizable
    assert found.contraction_rate == pytest.approx(np.log(0.8), abs=0.03)
    assert "no derivative in forward mode" in str(found)


def test_three_programs_are_compiled(compilations):
    compilations.clear()
    examined(blackjax.mala(lambda x: isotropic(x), 0.2), jnp.zeros(2), 20_000)  # noqa: PLW0108 - another function
    own = [name for name in compilations if name.split("(")[1] in ("begin)", "advance_lanes)", "growth_of_chains)")]
    assert own == ["jit(begin)", "jit(advance_lanes)", "jit(growth_of_chains)"]


# Recursions


def test_a_contraction_is_predictable():
    chain = contraction(20_000)
    found = check(KEY, chain.step, chain.initial_state, inputs=chain.inputs)
    assert found.lle + 2 * found.lle_se < 0
    assert np.isfinite(found.coalescence).all()
    assert found.parallelizable
    assert found.plan.num_steps == 20_000
    assert len(found.coalescence) == found.num_lanes


def test_a_chaotic_recursion_is_not():
    chaos = logistic_map(5000)
    with warns_here(ParallelStallWarning, match=r"evaluated sequentially: the chain is not predictable"):
        found = check(KEY, chaos.step, chaos.initial_state, inputs=chaos.inputs)
    assert found.lle == pytest.approx(np.log(2), abs=5 * found.lle_se)
    assert np.isinf(found.coalescence).all()
    assert not found.parallelizable


@pytest.mark.slow
def test_a_sampler_as_a_recursion_is_as_predictable_as_itself(predictable):
    chain = as_recursion(KEY, blackjax.mala(isotropic, 0.2), jnp.zeros(2), 20_000)
    found = check(KEY, chain.step, chain.initial_state, inputs=chain.inputs)
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


def test_a_model_is_sent_to_its_own_check():
    model = Model(lambda x: -0.5 * x**2, 0.0)
    with pytest.raises(TypeError, match=r"check_sampler\(rng_key, model\) takes a Model"):
        check(jax.random.key(0), model)
