"""Properties of the paths of `DEER`: those of the recursion, with a defect that bounds every jump away from it.

Targets, starts and keys are arguments of one compiled program for each setting of the solver.
"""

import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from marks import slow
from random_targets import SHAPES, Drawn, Target, dimension_of, drawn, logdensity, model_of, target_of

from parsample import (
    DEER,
    Conditional,
    Dense,
    Diagonal,
    Gibbs,
    Identity,
    Newton,
    ParallelStallWarning,
    Recursion,
    Status,
    Zero,
    as_recursion,
    deer,
    evaluate_inference_algorithm,
    rollout,
    with_exact_meeting,
)

NUM_STEPS = 200
DIMENSION = dimension_of(SHAPES)

# Rounding in another program, in units of rounding; and a tolerance far above it, so that jumps are seen.
MAX_ROUNDING, LOOSE = 1e4, 1e-2

_checks = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
few = settings(max_examples=5, **_checks)
many = settings(max_examples=6, phases=[Phase.generate], **_checks)  # each attempt to shrink would compile

ALGORITHMS: dict[str, Callable[[Callable, Any], Any]] = {
    "hmc": lambda density, step_size: blackjax.hmc(density, step_size, jnp.ones(DIMENSION), 5),
    "mala": lambda density, step_size: blackjax.mala(density, step_size**2 / 2),
    "nuts": lambda density, step_size: blackjax.nuts(density, step_size, jnp.ones(DIMENSION), max_num_doublings=4),
    "barker": blackjax.barker,
    "random walk": lambda density, step_size: blackjax.normal_random_walk(density, step_size * jnp.eye(DIMENSION)),
    "meeting hmc": lambda density, step_size: with_exact_meeting(
        blackjax.hmc(density, step_size, jnp.ones(DIMENSION), 5), density, step_size
    ),
}


def gibbs_recursion(target: Target, key: jax.Array, start: jax.Array) -> Recursion:
    """The Gibbs sampler of the Gaussian whose precision is that of the target, a coordinate at a time."""
    precision = target.factor.T @ target.factor

    def conditional(i: int) -> Conditional:
        def update(state: dict, variate: jax.Array) -> jax.Array:
            others = jnp.stack([state[f"x{j}"] for j in range(DIMENSION)]) - target.center
            shift = precision[i] @ others - precision[i, i] * others[i]
            return target.center[i] - shift / precision[i, i] + variate / jnp.sqrt(precision[i, i])

        return Conditional(lambda key: jax.random.normal(key, (), target.center.dtype), update)

    gibbs = Gibbs({f"x{i}": conditional(i) for i in range(DIMENSION)})
    return Recursion(gibbs.step, {f"x{i}": start[i] for i in range(DIMENSION)}, gibbs.variates(key, NUM_STEPS))


def recursion_of(kernel: str, target: Target, step_size: jax.Array, key: jax.Array, position: Any) -> Recursion:
    if kernel == "gibbs":
        return gibbs_recursion(target, key, ravel_pytree(position)[0])
    algorithm = ALGORITHMS[kernel](lambda position: logdensity(position, target), step_size)
    return as_recursion(key, algorithm, position, NUM_STEPS)


class Found(NamedTuple):
    """What is compared: all states are vectors in units of the standard deviations, shape (T, D)."""

    status: Any
    defect: Any
    states: Any
    expected: Any  # states of the rollout
    again: Any  # the step from each state before
    magnified: Any  # how much that step magnifies differences, shape (T,)


@cache
def program(kernel: str, method: DEER) -> Callable[..., Found]:
    @jax.jit
    def evaluate(target: Target, step_size: jax.Array, key: jax.Array, position: Any) -> Found:
        recursion = recursion_of(kernel, target, step_size, key, position)
        scale = jnp.linalg.norm(jnp.linalg.inv(target.factor), axis=1)
        unravel = ravel_pytree(recursion.initial_state)[1]
        chosen = {each.name: getattr(method, each.name) for each in fields(method)}
        solution = deer(*recursion, scale=unravel(scale), **chosen)

        def step(state: jax.Array, driven: Any) -> jax.Array:
            return ravel_pytree(recursion.step(unravel(state * scale), driven))[0] / scale

        def flat(states: Any) -> jax.Array:
            return jax.vmap(lambda state: ravel_pytree(state)[0])(states) / scale[None]

        def magnified(state: jax.Array, driven: Any) -> jax.Array:
            return abs(jax.jacfwd(step)(state, driven)).sum(1).max()

        states = flat(solution.states)
        start = ravel_pytree(recursion.initial_state)[0] / scale
        steps = jnp.concatenate([start[None], states[:-1]]), recursion.inputs
        return Found(
            solution.status,
            solution.defect,
            states,
            flat(rollout(*recursion)),
            jax.vmap(step)(*steps),
            jax.vmap(magnified)(*steps),
        )

    return evaluate


def check_solution(kernel: str, method: DEER, dtype: str, drawn: Drawn) -> None:
    """Assert that each state is a step from the state before it, but for the defect, and so is the whole path."""
    target = target_of(drawn, DIMENSION, dtype)
    position = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), model_of(drawn, target, SHAPES, 1).initial_position)
    step_size = jnp.asarray(drawn.step_size, dtype) / np.linalg.norm(target.factor, 2)
    found = jax.device_get(program(kernel, method)(target, step_size, jax.random.key(drawn.seed), position))
    rounding = MAX_ROUNDING * np.finfo(dtype).eps
    assert found.states.dtype == dtype
    assert Status(int(found.status)) in (Status.CONVERGED, Status.STALLED, Status.MAX_ITERS)
    jumps = abs(found.again - found.states).max(-1)
    limits = 1.01 * found.defect * np.maximum(found.magnified, 1) + rounding
    # In float32, one decision in a path may hang on rounding.
    assert (jumps > limits).sum() <= (dtype == "float32"), (jumps[jumps > limits], limits[jumps > limits], found.defect)
    if dtype == "float64" and method.atol is None and method.max_iters is None:
        np.testing.assert_allclose(found.states, found.expected, rtol=0, atol=1e-6)


CASES = [
    ("gibbs", DEER(16, Zero(), atol=LOOSE), "float32"),
    slow("gibbs", DEER(7, Dense()), "float64"),
    slow("hmc", DEER(16, Zero(), atol=LOOSE), "float64"),
    slow("mala", DEER(7, Dense(), atol=LOOSE), "float32"),
]


@pytest.mark.parametrize(("kernel", "method", "dtype"), CASES)
@few
@given(drawn=drawn())
def test_the_defect_bounds_every_jump(kernel, method, dtype, drawn):
    with jax.enable_x64(dtype == "float64"):
        check_solution(kernel, method, dtype, drawn)


def methods(kernel: str) -> st.SearchStrategy[DEER]:
    """Any settings; with large jumps only for the linear sampler, whose decisions they cannot flip."""
    is_linear = kernel == "gibbs"
    return st.builds(
        DEER,
        block_size=st.sampled_from([1, 7, 16, 33, 199, 200]),
        linearization=st.sampled_from([Zero(), Identity(), Diagonal(), Diagonal(2), Dense()]),
        correction=st.sampled_from([Newton(), Newton(0.2)]),
        atol=st.sampled_from([None, LOOSE, 0.3] if is_linear else [None, 1e-5]),
        max_iters=st.sampled_from([None, 1, 3] if is_linear else [None]),
        clip=st.sampled_from([None, 1.0]),
        stall_after=st.sampled_from([None, 2]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [*ALGORITHMS, "gibbs"])
@many
@given(data=st.data())
def test_the_defect_bounds_every_jump_with_any_settings(kernel, data):
    method, dtype = data.draw(methods(kernel)), data.draw(st.sampled_from(["float32", "float64"]))
    with jax.enable_x64(dtype == "float64"):
        for each in data.draw(st.lists(drawn(), min_size=8, max_size=8)):
            check_solution(kernel, method, dtype, each)
    program.cache_clear()


@cache
def algorithm_of(kernel: str, family: str) -> tuple[Any, Any]:
    """An algorithm on a fixed target, so that its programs are compiled once, and a start."""
    drawn = Drawn(family, 1.0, 5, 0.5, 0.0, 1, 1)
    target = target_of(drawn, DIMENSION, "float64")
    position = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), model_of(drawn, target, SHAPES, 1).initial_position)
    step_size = drawn.step_size / np.linalg.norm(target.factor, 2)
    return ALGORITHMS[kernel](lambda position: logdensity(position, target), step_size), position


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ALGORITHMS)
@few
@given(
    family=st.sampled_from(["gaussian", "mixture"]),
    seed=st.integers(0, 2**32 - 1),
    num_steps=st.integers(1, 3000),
    method=st.sampled_from(["auto", "deer", "sequential"]),
)
def test_any_run_of_an_algorithm_is_blackjaxs_own(kernel, family, seed, num_steps, method):
    algorithm, position = algorithm_of(kernel, family)
    arguments = (jax.random.key(seed), algorithm, num_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)
        found = evaluate_inference_algorithm(*arguments, initial_position=position, method=method)
    _, (states, _) = blackjax.util.run_inference_algorithm(*arguments, initial_position=position)
    assert Status(int(found.status)) in (Status.CONVERGED, Status.STALLED, Status.SEQUENTIAL)
    assert found.defect <= 1e-10
    for ours, theirs in zip(*map(jax.tree.leaves, (found.outputs[0].position, states.position)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
