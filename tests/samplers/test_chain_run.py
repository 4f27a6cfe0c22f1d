"""A user's chain, in blocks as long as they pay: the compiled programs, and when blocks are given up."""

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import KEY, assert_same, build, first_and_acceptance
from blackjax.mcmc.random_walk import RWState
from warned import warns_here

from parsample import (
    DEER,
    ParallelStallWarning,
    Status,
    UncertifiedChainWarning,
    Zero,
    check,
    deer,
    evaluate_inference_algorithm,
    run_inference_algorithm,
)


def test_auto_takes_short_chains_step_by_step_in_one_program(compilations):
    algorithm, start = blackjax.mala(chains.gaussian, 0.1), chains.gaussian_start()
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    compilations.clear()
    solution = evaluate_inference_algorithm(KEY, algorithm, 1500, **arguments)
    assert (Status(int(solution.status)), float(solution.evals_per_step)) == (Status.SEQUENTIAL, 1)
    # Programs for the start and its check, for the keys, and for one lane.
    assert [name for name in compilations if name in COMPILED] == COMPILED[:3]
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 1500, **arguments)
    assert_same((solution.final, solution.outputs), theirs)


# Programs of a run: init and its check, the keys, one lane, many lanes.
COMPILED = ["jit(begin)", "jit(sequence_of)", "jit(advance_lanes)", "jit(advance_lanes)"]


@pytest.mark.parametrize("method", ["auto", "deer"])
def test_blocks_are_blackjaxs_own_chain_and_compiled_once(method, monkeypatch, compilations):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run._seconds_left", lambda *_: 0.0)
    monkeypatch.setattr("parsample.samplers.chain_run.MAX_COST_RATIO", np.inf)  # independent of timings
    algorithm, start = blackjax.mala(chains.gaussian, 0.1), chains.gaussian_start()
    for num_steps in (9000, 7000):
        arguments = {"initial_position": start, "transform": first_and_acceptance}
        compilations.clear()
        solution = evaluate_inference_algorithm(KEY, algorithm, num_steps, **arguments, method=method)
        # Another length compiles another split of the key, but no program with the log density.
        many = COMPILED[:2] + COMPILED[4 - (2 if method == "auto" else 1) :] if num_steps == 9000 else COMPILED[1:2]
        assert [name for name in compilations if name in COMPILED] == many
        assert Status(int(solution.status)) is (Status.SEQUENTIAL if method == "auto" else Status.CONVERGED)
        assert float(solution.defect) < 1e-9
        assert 1 <= float(solution.evals_per_step) < 8  # blocks are about as long as meeting takes
        assert int(solution.num_iters) >= 4
        theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, num_steps, **arguments)
        assert_same((solution.final, solution.outputs), theirs)


def test_auto_goes_on_step_by_step_where_lanes_gain_nothing(monkeypatch):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run._seconds_left", lambda *_: np.inf)
    monkeypatch.setattr("parsample.samplers.chain_run.MIN_GAIN", 0.0)
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 6000, **arguments)
    with warns_here(ParallelStallWarning, match="The rest of this chain will be evaluated sequentially") as caught:
        ours = run_inference_algorithm(KEY, algorithm, 6000, **arguments)
    assert len(caught) == 1
    assert_same(ours, theirs)


def test_blocks_that_do_not_meet_are_given_up_and_finished_step_by_step(monkeypatch):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run.MAX_COST_RATIO", 0.0)
    walk = blackjax.normal_random_walk(chains.isotropic, jnp.eye(2))
    arguments = {"initial_position": jnp.ones(2), "transform": lambda state, _: state.position}
    theirs = blackjax.util.run_inference_algorithm(KEY, walk, 5000, **arguments)
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        ours = run_inference_algorithm(KEY, walk, 5000, **arguments)
    assert_same(ours, theirs)


def noisy(position: jax.Array) -> jax.Array:
    """A standard Gaussian with rounding noise: in float32, x + 4096 keeps three digits of x."""
    return -0.5 * jnp.sum(((position + 4096.0) - 4096.0) ** 2)


def test_the_tolerance_of_noisy_float32_chains_is_what_their_noise_permits(monkeypatch, float32):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run._seconds_left", lambda *_: 0.0)  # independent of timings
    monkeypatch.setattr("parsample.samplers.chain_run.MAX_COST_RATIO", 0.3)
    arguments = {"initial_position": jnp.ones(2), "transform": lambda state, _: state.position}
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        solution = evaluate_inference_algorithm(KEY, blackjax.mala(noisy, 0.2), 12_000, **arguments)
    assert float(solution.defect) < 1e-2
    assert float(solution.evals_per_step) < 4


def test_a_callback_without_a_batching_rule_runs_step_by_step_with_one_warning(monkeypatch):
    def density(x: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda v: np.asarray(-0.5 * np.sum(np.asarray(v) ** 2)), jax.ShapeDtypeStruct((), x.dtype), x
        )

    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    walk = blackjax.normal_random_walk(density, 0.5 * jnp.eye(2))
    kwargs = {"initial_position": jnp.zeros(2), "transform": lambda state, _: state.position}
    with warns_here(ParallelStallWarning, match="no batching rule.*vmap_method") as caught:
        _, found = run_inference_algorithm(KEY, walk, 5000, method="auto", **kwargs)
    assert len(caught) == 1
    _, expected = run_inference_algorithm(KEY, walk, 5000, method="sequential", **kwargs)
    np.testing.assert_array_equal(found, expected)
    for call in (
        lambda: run_inference_algorithm(KEY, walk, 100, method=DEER(10, Zero()), **kwargs),
        lambda: check(KEY, walk, jnp.zeros(2), num_steps=100),
        lambda: deer(lambda state, x: state * density(x), jnp.ones(()), jnp.ones((100, 2)), linearization=Zero()),
    ):
        with pytest.raises(NotImplementedError, match=r"several steps at once.*vmap_method='expand_dims'"):
            call()


def breaking(share: float) -> blackjax.base.SamplingAlgorithm:
    """An autoregression that becomes NaN in this share of its steps, and stays so."""

    def step(rng_key: jax.Array, state: RWState) -> tuple[RWState, None]:
        keys = jax.random.split(rng_key)
        moved = 0.5 * state.position + jax.random.normal(keys[0])
        moved = jnp.where(jax.random.uniform(keys[1]) < share, jnp.nan, moved)
        return RWState(moved, -0.5 * moved**2), None

    return blackjax.base.SamplingAlgorithm(lambda position, _=None: RWState(position, -0.5 * position**2), step)


@pytest.mark.parametrize("method", ["auto", "deer"])
def test_a_chain_that_becomes_nan_is_reported_and_not_repeated_for_ever(method):
    arguments = {"initial_position": jnp.zeros(()), "transform": lambda state, _: state.position}
    algorithm = breaking(0.0005)
    with warns_here(UncertifiedChainWarning, match="NaN or infinite"):
        expected = evaluate_inference_algorithm(KEY, algorithm, 6000, **arguments, method="sequential")
    with warns_here(UncertifiedChainWarning, match="NaN or infinite"):
        found = evaluate_inference_algorithm(KEY, algorithm, 6000, **arguments, method=method)
    assert Status(int(found.status)) is Status.NON_FINITE
    first = int(np.argmax(~np.isfinite(np.asarray(expected.outputs))))
    assert 100 < first < 5900
    np.testing.assert_allclose(found.outputs[:first], expected.outputs[:first], atol=1e-8)
    assert np.isnan(found.outputs[first:]).all()
