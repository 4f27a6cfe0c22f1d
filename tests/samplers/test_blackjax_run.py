"""The plug: the same chain as BlackJAX's own loop, whatever evaluates it."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow

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
KEY = jax.random.key(11)

# Target: log density, start, step sizes of mala and of the others.
TARGETS: dict[str, tuple[Callable, Callable, float, float]] = {
    "gaussian": (chains.gaussian, chains.gaussian_start, 0.08, 0.4),
    "logistic": (chains.logistic_regression, chains.logistic_regression_start, 0.06, 0.3),
    "schools": (chains.eight_schools, chains.eight_schools_start, 0.4, 0.5),
}
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
    ("mala", "gaussian", "zero-128"),
    ("mala", "gaussian", "dense-16"),
    ("mala", "schools", "sequential"),
    ("hmc", "logistic", "zero-50"),
    ("mala", "gaussian", "auto"),
}


def marked(kernel: str, target: str, method: str) -> Any:
    """Of those that are not run by default, the slow run has some; the exhaustive one has every combination."""
    place = list(KERNELS).index(kernel) + list(METHODS).index(method) - list(TARGETS).index(target)
    is_rare = place % len(TARGETS)
    rare = pytest.mark.exhaustive if is_rare else pytest.mark.slow
    return pytest.param(kernel, target, method, marks=[] if (kernel, target, method) in DEFAULT else [rare])


CASES = [marked(*case) for case in itertools.product(KERNELS, TARGETS, METHODS)]

_built: dict[tuple[str, str], Any] = {}
_expected: dict[tuple[str, str], Any] = {}


def build(kernel: str, target: str) -> tuple[Any, Any]:
    """The algorithm, built once so that compiled code is reused, and its start."""
    logdensity, start, small, large = TARGETS[target]
    if (kernel, target) not in _built:
        ones = jnp.ones(sum(leaf.size for leaf in jax.tree.leaves(start())))
        _built[kernel, target] = {
            "mala": lambda: blackjax.mala(logdensity, small),
            "hmc": lambda: blackjax.hmc(logdensity, large, ones, 3),
            "dhmc": lambda: blackjax.dhmc(logdensity, large, ones),
            "nuts": lambda: blackjax.nuts(logdensity, large, ones),
        }[kernel]()
    return _built[kernel, target], start()


def expected(kernel: str, target: str) -> Any:
    if (kernel, target) not in _expected:
        algorithm, start = build(kernel, target)
        _expected[kernel, target] = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_position=start)
    return _expected[kernel, target]


def assert_same(ours: Any, theirs: Any) -> None:
    """The same structure, dtypes, decisions, and numbers to 1e-8."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
        elif jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kernel", "target", "method"), CASES)
def test_every_method_gives_blackjax_own_chain(kernel, target, method):
    algorithm, start = build(kernel, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)  # some of these chains are too short to gain by
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


@pytest.mark.parametrize("method", [Sequential(), DEER(128, Zero())], ids=["sequential", "zero"])
def test_an_initial_state_uses_the_key_as_blackjax_does(method):
    algorithm, start = build("mala", "gaussian")
    state = algorithm.init(start)
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_state=state)
    assert_same(run_inference_algorithm(KEY, algorithm, T, state, method=method), theirs)


def test_a_run_in_two_halves_goes_on_where_the_first_ended():
    algorithm, start = build("mala", "gaussian")
    state, _ = run_inference_algorithm(KEY, algorithm, T, initial_position=start, method="sequential")
    theirs = blackjax.util.run_inference_algorithm(jax.random.key(5), algorithm, T, initial_state=state)
    ours = run_inference_algorithm(jax.random.key(5), algorithm, T, initial_state=state, method=DEER(128, Zero()))
    assert_same(ours, theirs)


def first_and_acceptance(state: Any, info: Any) -> dict:
    return {"x0": state.position["x"][0], "rate": info.acceptance_rate}


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


def test_auto_takes_short_chains_step_by_step_in_one_program(compilations):
    algorithm, start = blackjax.mala(chains.gaussian, 0.1), chains.gaussian_start()
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    compilations.clear()
    solution = evaluate_inference_algorithm(KEY, algorithm, 1500, **arguments)
    assert (Status(int(solution.status)), float(solution.evals_per_step)) == (Status.SEQUENTIAL, 1)
    # The start is looked at, keys are split, and one lane is compiled.
    assert [name for name in compilations if name in COMPILED] == COMPILED[:3]
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 1500, **arguments)
    assert_same((solution.final, solution.outputs), theirs)


# What a run compiles: init and its check, the keys, one lane and many.
COMPILED = ["jit(begin)", "jit(_sequence)", "jit(advance_lanes)", "jit(advance_lanes)"]


@pytest.mark.parametrize("method", ["auto", "deer"])
def test_blocks_are_blackjaxs_own_chain_and_compiled_once(method, monkeypatch, compilations):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run._seconds_left", lambda *_: 0.0)
    monkeypatch.setattr("parsample.samplers.chain_run.PATIENCE", np.inf)  # whatever this machine takes
    algorithm, start = blackjax.mala(chains.gaussian, 0.1), chains.gaussian_start()
    for num_steps in (9000, 7000):
        arguments = {"initial_position": start, "transform": first_and_acceptance}
        compilations.clear()
        solution = evaluate_inference_algorithm(KEY, algorithm, num_steps, **arguments, method=method)
        # Another length needs another split of the key, and no other program with the log density.
        many = COMPILED[:2] + COMPILED[4 - (2 if method == "auto" else 1) :] if num_steps == 9000 else COMPILED[1:2]
        assert [name for name in compilations if name in COMPILED] == many
        assert Status(int(solution.status)) is (Status.SEQUENTIAL if method == "auto" else Status.CONVERGED)
        assert float(solution.defect) < 1e-9
        assert 1 <= float(solution.evals_per_step) < 8  # blocks are as short as meeting takes
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
    with pytest.warns(ParallelStallWarning, match="The rest of this chain will be evaluated sequentially") as caught:
        ours = run_inference_algorithm(KEY, algorithm, 6000, **arguments)
    assert len(caught) == 1
    assert_same(ours, theirs)


def test_blocks_that_do_not_meet_are_given_up_and_finished_step_by_step(monkeypatch):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run.PATIENCE", 0.0)
    walk = blackjax.normal_random_walk(chains.isotropic, jnp.eye(2))
    arguments = {"initial_position": jnp.ones(2), "transform": lambda state, _: state.position}
    theirs = blackjax.util.run_inference_algorithm(KEY, walk, 5000, **arguments)
    with pytest.warns(ParallelStallWarning, match="blocks stopped meeting"):
        ours = run_inference_algorithm(KEY, walk, 5000, **arguments)
    assert_same(ours, theirs)


def noisy(position: jax.Array) -> jax.Array:
    """A standard Gaussian far from the origin of its arithmetic: in float32, x + 4096 keeps three digits of x."""
    return -0.5 * jnp.sum(((position + 4096.0) - 4096.0) ** 2)


def test_the_tolerance_of_noisy_float32_chains_is_what_their_noise_permits(monkeypatch, float32):
    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.chain_run.PATIENCE", 0.3)
    arguments = {"initial_position": jnp.ones(2), "transform": lambda state, _: state.position}
    with pytest.warns(ParallelStallWarning, match="blocks stopped meeting"):
        solution = evaluate_inference_algorithm(KEY, blackjax.mala(noisy, 0.2), 12_000, **arguments)
    assert float(solution.defect) < 1e-2
    assert float(solution.evals_per_step) < 4


@pytest.mark.slow
def test_keys_that_are_split_in_the_old_way_give_their_own_chain():
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    with jax.threefry_partitionable(False):  # of more keys split off, the first ones are others
        few, more = (jax.random.key_data(jax.random.split(KEY, number)) for number in (8, 9))
        assert not np.array_equal(few, more[:8])
        theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 130, **arguments)
        solution = evaluate_inference_algorithm(KEY, algorithm, 130, **arguments, method=DEER(17, Zero()))
    assert int(solution.status) == Status.CONVERGED
    assert_same((solution.final, solution.outputs), theirs)


def test_a_chain_that_never_meets_is_finished_step_by_step_and_said_so():
    algorithm = blackjax.normal_random_walk(chains.isotropic, jnp.eye(2))
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, initial_position=jnp.ones(2))
    with pytest.warns(ParallelStallWarning, match="blocks stopped meeting"):
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


def test_a_callback_without_a_batching_rule_runs_step_by_step_with_one_warning(monkeypatch):
    def density(x: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda v: np.asarray(-0.5 * np.sum(np.asarray(v) ** 2)), jax.ShapeDtypeStruct((), x.dtype), x
        )

    monkeypatch.setattr("parsample.samplers.chain_run._may_pay", lambda *_: True)
    walk = blackjax.normal_random_walk(density, 0.5 * jnp.eye(2))
    kwargs = {"initial_position": jnp.zeros(2), "transform": lambda state, _: state.position}
    with pytest.warns(ParallelStallWarning, match="no batching rule.*vmap_method") as caught:
        _, found = run_inference_algorithm(KEY, walk, 5000, method="auto", **kwargs)
    assert len(caught) == 1
    _, expected = run_inference_algorithm(KEY, walk, 5000, method="sequential", **kwargs)
    np.testing.assert_array_equal(found, expected)
