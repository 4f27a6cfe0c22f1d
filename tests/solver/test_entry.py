"""`deer` as users call it: its settings, under jit and vmap, and with arguments on any device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, contraction, fade, noise
from paths import PATIENT, T, assert_same_path
from refusals import refuses

import parsample
from parsample import Dense, Diagonal, Status, Zero, deer, rollout

DEVICES = jax.devices()
INPUTS = noise(12)
START = jnp.array(0.5)
RBG_KEYS = jax.random.split(jax.random.key(0, impl="rbg"), 12)


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_size": 0}, "block_size must be a whole number of at least 1; got 0"),
        ({"block_size": -3}, "block_size must be a whole number of at least 1; got -3"),
        ({"block_size": 2.0}, "block_size must be a whole number of at least 1; got 2.0"),
        ({"block_size": None}, "block_size must be a whole number of at least 1; got None"),
        ({"block_size": True}, "block_size must be a whole number of at least 1; got True"),
        ({"block_size": 13}, "block_size=13 exceeds the T=12 steps"),
        ({"max_iters": 0}, "max_iters must be a whole number of at least 1; got 0"),
        ({"stall_after": 1.5}, "stall_after must be a whole number of at least 1; got 1.5"),
        ({"atol": -1.0}, "atol must be a number of at least 0; got -1.0"),
        ({"rtol": np.nan}, "rtol must be a number of at least 0; got nan"),
        ({"clip": -0.5}, "clip must be a number of at least 0; got -0.5"),
        ({"max_step": -1}, "max_step must be a number of at least 0; got -1"),
        ({"initial_guess": jnp.zeros(11)}, "initial_guess has shapes (11,); it must have those of the path, (12,)"),
        ({"atol": "x"}, "atol must be a number of at least 0; got 'x'"),
        ({"clip": True}, "clip must be a number of at least 0; got True"),
        ({"scale": jnp.ones(3)}, "scale has shapes (3,); it must have those of initial_state, ()"),
        ({"scale": jnp.array(0.0)}, "scale"),
        ({"scale": jnp.array(jnp.nan)}, "scale"),
    ],
    ids=str,
)
def test_settings_of_deer(settings, words):
    with refuses(ValueError, words):
        deer(fade, START, INPUTS, **settings)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("solver", [deer, rollout])
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((3, START, INPUTS), TypeError, ["step must be callable; got 3"]),
        ((lambda s: s, START, INPUTS), ValueError, ["step cannot be evaluated at initial_state (float64[])"]),
        ((fade, "abc", INPUTS), TypeError, ["initial_state must be a pytree of floating-point", "got 'abc'"]),
        ((fade, jnp.zeros(0), INPUTS), ValueError, ["initial_state has no elements (float64[0])"]),
        ((fade, START, RBG_KEYS), ValueError, ["inputs: keys of kind 'rbg'", "impl='threefry2x32'"]),
    ],
    ids=["step", "arity", "text", "nothing", "rbg"],
)
def test_unusable_recursions(solver, arguments, error, words):
    with refuses(error, *words):
        solver(*arguments)


def test_the_solution_is_a_function_of_its_arguments(chain):
    first, second = (deer(*chain, block_size=7, linearization=Diagonal(2)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


# Transformations


def test_under_jit_the_status_is_returned_and_nothing_warns(truth, chain):
    solution = jax.jit(lambda state: deer(chain.step, state, chain.inputs, block_size=7, max_iters=1))(
        chain.initial_state
    )
    assert Status(int(solution.status)) is Status.MAX_ITERS
    first = jax.tree.map(lambda leaf: leaf[:7], (solution.states, truth))
    assert_same_path(*first, atol=1e-12)


@pytest.mark.parametrize("linearization", [Dense(), Zero()], ids=str)
@pytest.mark.slow
def test_vmap_over_chains(linearization):
    chains = [contraction(T, seed=seed) for seed in range(3)]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chain.inputs for chain in chains))
    run = partial(deer, chains[0].step, chains[0].initial_state, block_size=10, linearization=linearization, **PATIENT)
    solutions = jax.vmap(run)(inputs)
    for index, chain in enumerate(chains):
        assert Status(int(solutions.status[index])) is Status.CONVERGED
        assert_same_path(jax.tree.map(lambda leaf, i=index: leaf[i], solutions.states), rollout(*chain))


# Devices


@pytest.mark.slow
def test_devices_under_jit_and_vmap():
    chains = [contraction(60, seed=seed) for seed in range(2)]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chain.inputs for chain in chains))

    def run(drive: dict) -> parsample.Solution:
        return deer(chains[0].step, chains[0].initial_state, drive, block_size=6, devices=DEVICES[:2])

    solutions = jax.jit(jax.vmap(run))(inputs)
    for index, chain in enumerate(chains):
        np.testing.assert_allclose(solutions.states["x"][index], rollout(*chain)["x"], atol=1e-9)


@pytest.mark.parametrize("place", [DEVICES[0], DEVICES[3]], ids=str)
@pytest.mark.slow
def test_inputs_may_lie_anywhere(place):
    step, start, inputs = contraction(80)
    solution = deer(step, jax.device_put(start, place), jax.device_put(inputs, place), devices=DEVICES[1:3])
    np.testing.assert_allclose(solution.states["x"], rollout(step, start, inputs)["x"], atol=1e-9)
