"""The plug: the same chain as BlackJAX's own loop, whatever evaluates it."""

import dataclasses
import importlib
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

from parsample import (
    DEER,
    Dense,
    Diagonal,
    ParallelStallWarning,
    Sequential,
    Status,
    StepCosts,
    Zero,
    evaluate_inference_algorithm,
    run_inference_algorithm,
)

T = 400
CHECK = importlib.import_module("parsample.check")  # the module, which the function of that name hides
COSTS = importlib.import_module("parsample.costs")
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
    "late-24": DEER(24, Zero(), gather_late=True),
    "dense-16": DEER(16, Dense()),
    "deer": "deer",
    "auto": "auto",
}
# The default run has every kernel, target and method.
DEFAULT = {
    ("mala", "gaussian", "zero-128"),
    ("mala", "gaussian", "dense-16"),
    ("mala", "schools", "sequential"),
    ("hmc", "logistic", "zero-50"),
    ("mala", "gaussian", "deer"),
    ("dhmc", "gaussian", "late-24"),
    ("nuts", "logistic", "zero-128"),
    ("mala", "gaussian", "auto"),
}


def marked(kernel: str, target: str, method: str) -> Any:
    """Of those that are not run by default, the slow run has some; the exhaustive one has every combination."""
    place = list(KERNELS).index(kernel) + list(METHODS).index(method) - list(TARGETS).index(target)
    is_rare = place % len(TARGETS) or kernel == "nuts" or method == "deer"  # these take long to compile
    slow = pytest.mark.exhaustive if is_rare else pytest.mark.slow
    return pytest.param(kernel, target, method, marks=[] if (kernel, target, method) in DEFAULT else [slow])


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
    [DEER(128, Zero()), pytest.param(DEER(16, Diagonal(1)), marks=pytest.mark.slow)],
    ids=["zero", "hutchinson"],
)
def test_transform_is_what_the_history_holds(method):
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, T, **arguments)
    assert_same(run_inference_algorithm(KEY, algorithm, T, **arguments, method=method), theirs)


@pytest.mark.parametrize("roomy", [pytest.param(True, marks=pytest.mark.slow), False])
def test_auto_does_what_the_check_plans(monkeypatch, roomy):
    times = (1e-5, 1e-5, 1e-5) if roomy else (1e-6, 1e-3, 1e-2)
    monkeypatch.setattr(CHECK, "measure_costs", lambda *arguments, **settings: StepCosts((1, 8, 64), times))
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 4000, **arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = run_inference_algorithm(KEY, algorithm, 4000, **arguments)
    assert_same(ours, theirs)
    assert [issubclass(warning.category, ParallelStallWarning) for warning in caught] == [] if roomy else [True]
    if not roomy:
        assert "will be evaluated sequentially" in str(caught[0].message)


@pytest.fixture
def no_measuring(monkeypatch):
    def measure(*_: Any, **__: Any) -> None:
        pytest.fail("step costs were measured")

    monkeypatch.setattr(CHECK, "measure_costs", measure)


@pytest.mark.usefixtures("no_measuring")
def test_costs_that_are_given_are_not_measured_nor_remembered():
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance}
    theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, 4000, **arguments)
    roomy = StepCosts((1, 8, 64), (1e-5,) * 3)
    solution = evaluate_inference_algorithm(KEY, algorithm, 4000, **arguments, costs=roomy)
    assert (Status(int(solution.status)), COSTS._known) == (Status.CONVERGED, {})
    assert float(solution.defect) < 1e-9
    assert_same((solution.final, solution.outputs), theirs)


@pytest.mark.usefixtures("no_measuring")
def test_costs_say_how_many_of_the_devices_take_part(monkeypatch):
    meshes: list = []
    run = importlib.import_module("parsample.run")
    run_in_blocks = run._run_in_blocks

    def on_one_device(*arguments: Any) -> Any:
        meshes.append(arguments[3])
        return run_in_blocks(*arguments[:3], None, *arguments[4:])

    monkeypatch.setattr(run, "_run_in_blocks", on_one_device)
    algorithm, start = build("mala", "gaussian")
    arguments = {"initial_position": start, "transform": first_and_acceptance, "devices": jax.devices()[1:5]}
    roomy = StepCosts((1, 8, 64), (1e-5,) * 3, num_devices=2)
    solution = evaluate_inference_algorithm(KEY, algorithm, 4000, **arguments, costs=roomy)
    assert list(meshes[0].devices) == jax.devices()[1:3]
    assert int(solution.status) == Status.CONVERGED


@pytest.mark.parametrize(
    ("kernel", "method"),
    [("mala", DEER(64, Diagonal())), pytest.param("dhmc", DEER(64, Zero()), marks=pytest.mark.slow)],
)
def test_one_compiled_sweep_serves_runs_of_similar_length(kernel, method):
    run = importlib.import_module("parsample.run")
    algorithm, start = build(kernel, "gaussian")
    programmes = []
    for num_steps, block_size in ((1024, 64), (1000, 63), (950, 63), (980, 62)):
        settings = dataclasses.replace(method, block_size=block_size)
        arguments = {"initial_position": start, "transform": first_and_acceptance}
        theirs = blackjax.util.run_inference_algorithm(KEY, algorithm, num_steps, **arguments)
        solution = evaluate_inference_algorithm(KEY, algorithm, num_steps, **arguments, method=settings)
        assert int(solution.status) == Status.CONVERGED
        assert len(solution.block_ends) == -(-num_steps // settings.block_size)
        assert float(solution.defect) < 1e-9
        assert int(solution.exact_prefix) == num_steps
        assert_same((solution.final, solution.outputs), theirs)
        programmes.append(run._run_lanes._jit._cache_size())
    assert len(set(programmes)) == 1


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


@pytest.mark.parametrize("method", ["sequential", "auto", DEER(50, Zero())], ids=["sequential", "auto", "blocks"])
@pytest.mark.parametrize("by_state", [False, True])
def test_it_runs_inside_the_users_own_jit_and_vmap(method, by_state):
    algorithm = blackjax.hmc(chains.isotropic, 0.5, jnp.ones(2), 5)
    keys, start = jax.random.split(KEY, 3), jnp.array([1.0, -0.5])
    begun = {"initial_state": algorithm.init(start)} if by_state else {"initial_position": start}

    def chain(run: Any, key: jax.Array, **settings: Any) -> jax.Array:
        return run(key, algorithm, 400, transform=lambda state, _: state.position, **begun, **settings)[1]

    found = jax.jit(jax.vmap(lambda key: chain(run_inference_algorithm, key, method=method)))(keys)
    expected = jax.vmap(lambda key: chain(blackjax.util.run_inference_algorithm, key))(keys)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_callback_without_a_batching_rule_runs_step_by_step_with_one_warning():
    def density(x: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda v: np.asarray(-0.5 * np.sum(np.asarray(v) ** 2)), jax.ShapeDtypeStruct((), x.dtype), x
        )

    walk = blackjax.normal_random_walk(density, 0.5 * jnp.eye(2))
    kwargs = {"initial_position": jnp.zeros(2), "transform": lambda state, _: state.position}
    with pytest.warns(ParallelStallWarning, match="no batching rule.*vmap_method") as caught:
        _, found = run_inference_algorithm(KEY, walk, 5000, method="auto", **kwargs)
    assert len(caught) == 1
    _, expected = run_inference_algorithm(KEY, walk, 5000, method="sequential", **kwargs)
    np.testing.assert_array_equal(found, expected)
