"""`run_inference_algorithm`: every method gives the chain of BlackJAX's own loop."""

import itertools
import warnings
from typing import Any

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import KEY, TARGETS, assert_same, build, first_and_acceptance
from blackjax.mcmc.random_walk import RWState
from chains import gaussian, gaussian_start
from marks import slow
from warned import warns_here

import parsample
from parsample import (
    DEER,
    Dense,
    Diagonal,
    ParallelStallWarning,
    Sequential,
    Status,
    Zero,
    evaluate_inference_algorithm,
    run_inference_algorithm,
)

T = 400
DEVICES = jax.devices()
KEY_ON_DEVICES = jax.random.key(3)

KERNELS = ("mala", "hmc", "dhmc", "nuts")
METHODS = {
    "sequential": "sequential",
    "zero-50": DEER(50, Zero()),
    "zero-128": DEER(128, Zero()),
    "dense-16": DEER(16, Dense()),
    "deer": "deer",
    "auto": "auto",
}
# The default run has every target. NUTS, dynamic HMC and "deer" on these targets take long to compile: slow run.
DEFAULT = {
    ("mala", "gaussian", "dense-16"),
    ("mala", "schools", "sequential"),
    ("hmc", "logistic", "zero-50"),
    ("mala", "gaussian", "auto"),
}


def marked(kernel: str, target: str, method: str) -> Any:
    """The slow run adds some cases to those of the default run; the exhaustive run has every combination."""
    place = list(KERNELS).index(kernel) + list(METHODS).index(method) - list(TARGETS).index(target)
    is_rare = place % len(TARGETS)
    rare = pytest.mark.exhaustive if is_rare else pytest.mark.slow
    return pytest.param(kernel, target, method, marks=[] if (kernel, target, method) in DEFAULT else [rare])


CASES = [marked(*case) for case in itertools.product(KERNELS, TARGETS, METHODS)]

_expected: dict[tuple[str, str], Any] = {}


def expected(kernel: str, target: str) -> Any:
    if (kernel, target) not in _expected:
        algorithm, start = build(kernel, target)
        _expected[kernel, target] = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_position=start)
    return _expected[kernel, target]


@pytest.mark.parametrize(("kernel", "target", "method"), CASES)
def test_every_method_gives_blackjax_own_chain(kernel, target, method):
    algorithm, start = build(kernel, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)  # some of these chains are too short to pay
        result = run_inference_algorithm(KEY, algorithm, T, initial_position=start, method=METHODS[method])
    assert_same(result, expected(kernel, target))
    history = result[1]
    if hasattr(history[1], "is_accepted"):
        accepted = np.asarray(history[1].is_accepted)
        assert accepted.sum() > 0
        assert np.array_equal(accepted, expected(kernel, target)[1][1].is_accepted)


def test_blocks_that_meet_raise_no_warning():
    # Warnings are errors: this run converged in blocks.
    algorithm, start = build("mala", "gaussian")
    result = run_inference_algorithm(KEY, algorithm, T, initial_position=start, method=METHODS["zero-128"])
    assert_same(result, expected("mala", "gaussian"))


@pytest.mark.parametrize("method", [slow(Sequential()), DEER(128, Zero())], ids=["sequential", "zero"])
def test_an_initial_state_uses_the_key_as_blackjax_does(method):
    algorithm, start = build("mala", "gaussian")
    state = algorithm.init(start)
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_state=state)
    assert_same(run_inference_algorithm(KEY, algorithm, T, state, method=method), theirs)


def test_an_initial_state_may_hold_python_numbers():
    algorithm = blackjax.mala(lambda position: -0.5 * position["x"] ** 2, 0.5)
    state = algorithm.init({"x": 1.0})
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 50, initial_state=state)
    assert_same(run_inference_algorithm(KEY, algorithm, 50, state), theirs)


def test_a_run_in_two_halves_goes_on_where_the_first_ended():
    algorithm, start = build("mala", "gaussian")
    state, _ = run_inference_algorithm(KEY, algorithm, T, initial_position=start, method="sequential")
    theirs = blackjax.util.run_inference_algorithm(jax.random.key(5), algorithm, T, initial_state=state)
    ours = run_inference_algorithm(jax.random.key(5), algorithm, T, initial_state=state, method=DEER(128, Zero()))
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    "method",
    [DEER(128, Zero()), DEER(16, Diagonal(1))],
    ids=["zero", "hutchinson"],
)
@pytest.mark.slow
def test_transform_is_what_the_history_holds(method):
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, **arguments)
    assert_same(run_inference_algorithm(KEY, algorithm, T, **arguments, method=method), theirs)


@pytest.mark.slow
def test_keys_that_are_split_in_the_old_way_give_their_own_chain():
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    with jax.threefry_partitionable(False):  # the first keys depend on how many are split off
        few, more = (jax.random.key_data(jax.random.split(KEY, number)) for number in (8, 9))
        assert not np.array_equal(few, more[:8])
        theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 130, **arguments)
        solution = evaluate_inference_algorithm(KEY, algorithm, 130, **arguments, method=DEER(17, Zero()))
    assert int(solution.status) == Status.CONVERGED
    assert_same((solution.final, solution.outputs), theirs)


def test_a_chain_that_never_meets_is_finished_step_by_step_and_said_so():
    algorithm = blackjax.normal_random_walk(chains.isotropic, jnp.eye(2))
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_position=jnp.ones(2))
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        ours = run_inference_algorithm(
            KEY, algorithm, T, initial_position=jnp.ones(2), method=DEER(10, Zero(), stall_after=3)
        )
    assert_same(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["ghmc", "mclmc", "barker", "elliptical_slice"])
def test_other_kernels_run_in_blocks_too(kernel):
    algorithm = {
        "ghmc": lambda: blackjax.ghmc(chains.isotropic, 0.5, jnp.ones(2), 0.5, 0.2),
        "mclmc": lambda: blackjax.mclmc(chains.isotropic, 1.0, 0.3),
        "barker": lambda: blackjax.barker(chains.isotropic, 0.5),
        "elliptical_slice": lambda: blackjax.elliptical_slice(chains.isotropic, mean=jnp.zeros(2), cov=jnp.eye(2)),
    }[kernel]()
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_position=jnp.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)
        ours = run_inference_algorithm(KEY, algorithm, T, initial_position=jnp.ones(2), method=DEER(100, Zero()))
    assert_same(ours, theirs)


def test_float32_runs_are_certified(float32):
    algorithm = blackjax.mala(chains.isotropic, 0.2)
    arguments = {"initial_position": jnp.ones(2), "method": DEER(100, Zero())}
    final, (states, infos) = run_inference_algorithm(KEY, algorithm, T, **arguments)  # a warning would be an error
    assert states.position.dtype == final.position.dtype == jnp.float32
    assert infos.is_accepted.shape == (T,)
    np.testing.assert_array_equal(states.position[-1], final.position)
    # Each state is the kernel's step of the one before it, up to the rounding of another batch size.
    chain_key = jax.random.split(KEY, 2)[0]
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    steps, _ = jax.vmap(algorithm.step)(jax.random.split(chain_key, T)[1:], before)
    np.testing.assert_allclose(steps.position, states.position[1:], atol=1e-4)


@pytest.mark.parametrize(
    ("method", "by_state"),
    [
        ("sequential", True),
        ("auto", False),
        ("zero-50", True),
        slow("sequential", False),
        slow("auto", True),
        slow("zero-50", False),
    ],
)
def test_it_runs_inside_the_users_own_jit_and_vmap(method, by_state):
    algorithm = blackjax.hmc(chains.isotropic, 0.5, jnp.ones(2), 5)
    keys, start = jax.random.split(KEY, 3), jnp.array([1.0, -0.5])
    begun = {"initial_state": algorithm.init(start)} if by_state else {"initial_position": start}

    def chain(run: Any, key: jax.Array, **settings: Any) -> jax.Array:
        return run(key, algorithm, 400, transform=lambda state, _: state.position, **begun, **settings)[1]

    found = jax.jit(jax.vmap(lambda key: chain(run_inference_algorithm, key, method=METHODS[method])))(keys)
    expected = jax.vmap(lambda key: chain(blackjax.util.run_inference_algorithm, key))(keys)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("method", ["auto", slow("deer")])
def test_parameters_of_the_algorithm_may_be_transformed(method):
    """Under `jax.vmap` and `jax.jit` where neither key nor start is."""

    def chain(run: Any, step_size: jax.Array, **settings: Any) -> jax.Array:
        algorithm = blackjax.mala(chains.isotropic, step_size)
        return run(KEY, algorithm, 100, initial_position=jnp.ones(2), **settings)[1][0].position

    step_sizes = jnp.array([0.1, 0.2])
    expected = jax.vmap(lambda size: chain(blackjax.util.run_inference_algorithm, size))(step_sizes)
    found = jax.vmap(lambda size: chain(run_inference_algorithm, size, method=method))(step_sizes)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    jitted = jax.jit(lambda size: chain(run_inference_algorithm, size, method=method))(step_sizes[1])
    np.testing.assert_allclose(jitted, expected[1], atol=1e-8)


# Devices


@pytest.mark.parametrize("method", [DEER(50, Zero()), "auto", slow(Sequential())], ids=str)
def test_blackjax_own_chain_on_several_devices(method):
    algorithm = blackjax.mala(gaussian, 0.1)
    arguments = (KEY_ON_DEVICES, algorithm, 400)
    expected = blackjax.util.run_inference_algorithm(*arguments, initial_position=gaussian_start())
    found = parsample.run_inference_algorithm(
        *arguments, initial_position=gaussian_start(), method=method, devices=DEVICES[:3]
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("place", [DEVICES[0], DEVICES[3]], ids=str)
@pytest.mark.slow
def test_arguments_may_lie_anywhere(place):
    algorithm = blackjax.mala(gaussian, 0.1)
    start = jax.device_put(gaussian_start(), place)
    settings = {"method": DEER(50, Zero(), stall_after=1), "devices": DEVICES[:2]}  # stalls, then runs on one
    with warns_here(ParallelStallWarning):
        halfway = parsample.evaluate_inference_algorithm(
            KEY_ON_DEVICES, algorithm, 150, initial_position=start, **settings
        )
    arguments = (KEY_ON_DEVICES, algorithm, 150, halfway.final)
    expected = parsample.run_inference_algorithm(*arguments, method="sequential")
    with warns_here(ParallelStallWarning):
        shared = parsample.run_inference_algorithm(*arguments, **settings)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_a_state_of_another_target_is_refused():
    algorithm = blackjax.mala(gaussian, 0.3)
    state = blackjax.mala(lambda position: 3 + gaussian(position), 0.3).init(gaussian_start())
    for method in ("auto", "sequential", DEER(50, Zero())):
        with pytest.raises(ValueError, match=r"initial_state: its logdensity is .*, but the algorithm's init gives"):
            evaluate_inference_algorithm(KEY, algorithm, 400, initial_state=state, method=method)


def noisy_walk() -> Any:
    """Random-walk Metropolis whose log density is an estimate that the state carries (pseudo-marginal)."""

    def init(position: jax.Array, rng_key: Any = None) -> RWState:
        del rng_key
        return RWState(position, -0.5 * jnp.sum(position**2))

    def step(rng_key: jax.Array, state: RWState) -> tuple[RWState, None]:
        key_move, key_noise, key_accept = jax.random.split(rng_key, 3)
        proposal = state.position + jax.random.normal(key_move, state.position.shape)
        estimate = -0.5 * jnp.sum(proposal**2) + jax.random.normal(key_noise)
        accept = jnp.log(jax.random.uniform(key_accept)) < estimate - state.logdensity
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), RWState(proposal, estimate), state), None

    return blackjax.base.SamplingAlgorithm(init, step)


@pytest.mark.parametrize("method", ["auto", "deer", DEER(50, Zero())])
def test_a_carried_estimate_is_refused_in_blocks(method):
    with pytest.raises(ValueError, match=r"a state after some steps: its logdensity is .*run_inference_algorithm"):
        evaluate_inference_algorithm(KEY, noisy_walk(), 400, initial_position=jnp.zeros(2), method=method)


def test_a_carried_estimate_runs_step_by_step():
    algorithm = noisy_walk()
    _, expected = blackjax.util.run_inference_algorithm(KEY, algorithm, 200, initial_position=jnp.zeros(2))
    found = evaluate_inference_algorithm(KEY, algorithm, 200, initial_position=jnp.zeros(2), method="sequential")
    np.testing.assert_allclose(found.outputs[0].position, expected[0].position, atol=1e-10)
