"""Bad input: one error each, which names the argument, its value and the remedy, before anything long runs."""

from collections.abc import Callable
from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import fade, isotropic, noise
from refusals import COUNTS, quietly, refuses

from parsample import (
    DEER,
    Conditional,
    Gibbs,
    Zero,
    as_recursion,
    check,
    check_sampler,
    coalescence_times,
    compare_kernels,
    deer,
    lyapunov_exponent,
    multishift_random_walk,
    rollout,
    run_inference_algorithm,
    sample,
    with_exact_meeting,
)
from parsample.internal.validation import checked_position, checked_program, checked_scale

KEY = jax.random.key(0)
INPUTS = noise(12)
START = jnp.array(0.5)
MALA = blackjax.mala(isotropic, 0.2)


pytestmark = pytest.mark.usefixtures("as_users_have_it")


# Keys

TAKES_A_KEY: dict[str, Callable] = {
    "run_inference_algorithm": lambda key: run_inference_algorithm(key, MALA, 100, initial_position=jnp.ones(2)),
    "check": lambda key: check(key, MALA, jnp.ones(2)),
    "sample": lambda key: sample(key, isotropic, jnp.ones(2), progress_bar=False),
    "check_sampler": lambda key: check_sampler(key, isotropic, jnp.ones(2)),
    "compare_kernels": lambda key: compare_kernels(key, isotropic, jnp.ones(2)),
    "as_recursion": lambda key: as_recursion(key, MALA, jnp.ones(2), 100),
    "deer": lambda key: deer(fade, START, INPUTS, rng_key=key),
    "lyapunov_exponent": lambda key: lyapunov_exponent(fade, START, noise(40), rng_key=key),
    "variates": lambda key: Gibbs({"x": Conditional(jax.random.normal, lambda _, z: z)}).variates(key, 10),
}


@pytest.mark.parametrize("name", TAKES_A_KEY)
def test_keys_must_give_every_lane_its_own_numbers(name):
    for kind in ("rbg", "unsafe_rbg"):
        with refuses(ValueError, f"rng_key: keys of kind '{kind}'", "jax.random.key(seed, impl='threefry2x32')"):
            TAKES_A_KEY[name](jax.random.key(0, impl=kind))
    with refuses(TypeError, "rng_key must be a key, such as jax.random.key(0)", "got 0"):
        TAKES_A_KEY[name](0)
    with refuses(ValueError, "rng_key must be one key", "shape (3,)"):
        TAKES_A_KEY[name](jax.random.split(KEY, 3))
    for shape in ((3,), (4,), (2, 2)):
        with refuses(ValueError, "rng_key must be one key", f"shape {shape}"):
            TAKES_A_KEY[name](np.zeros(shape, np.uint32))


def test_keys_as_plain_arrays_are_keys():
    ours = run_inference_algorithm(jax.random.PRNGKey(0), MALA, 100, initial_position=jnp.ones(2))
    typed = run_inference_algorithm(KEY, MALA, 100, initial_position=jnp.ones(2))
    np.testing.assert_array_equal(ours[0].position, typed[0].position)


# Recursions


@pytest.mark.parametrize("solver", [deer, rollout])
@pytest.mark.parametrize("inputs", [None, jnp.array(1.0), jnp.zeros((0, 1)), (jnp.zeros(3), jnp.zeros(4))])
def test_inputs_need_one_length(solver, inputs):
    with refuses(ValueError, "inputs: every array needs the same leading axis", "got shapes", "jnp.arange(T)"):
        solver(fade, START, inputs)


@pytest.mark.parametrize("solver", [deer, rollout])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_initial_state_that_is_not_finite(solver, bad):
    with refuses(ValueError, "initial_state is not finite", str(bad)):
        solver(fade, jnp.array(bad), INPUTS)


@pytest.mark.parametrize("solver", [deer, rollout])
@pytest.mark.parametrize("state", [jnp.array(1), None, jnp.array(True)], ids=["integer", "nothing", "boolean"])
def test_an_initial_state_that_is_not_floating_point(solver, state):
    with refuses(TypeError, "initial_state must be a pytree of floating-point arrays", "got"):
        solver(fade, state, INPUTS)


@pytest.mark.parametrize("solver", [deer, rollout])
@pytest.mark.parametrize(
    "step",
    [lambda s, u: jnp.stack([s, u]), lambda s, u: (s, u), lambda s, u: jnp.float32(1.0) * s.astype(jnp.float32)],
    ids=["shape", "structure", "dtype"],
)
def test_a_step_that_changes_the_kind_of_state(solver, step):
    with refuses(TypeError, "step maps a state of float64[]", "same structure, shapes and dtypes"):
        solver(step, START, INPUTS)


@pytest.mark.parametrize("function", [lyapunov_exponent, coalescence_times])
def test_bad_recursions_are_refused_everywhere(function):
    start = jnp.zeros((2, 1)) if function is coalescence_times else jnp.zeros(1)
    inputs = noise(40, 1)
    with refuses(ValueError, "inputs: every array needs the same leading axis"):
        function(fade, start, (noise(3), noise(4)))
    with refuses(ValueError, "not finite"):
        function(fade, start + jnp.nan, inputs)
    with refuses(TypeError, "floating-point"):
        function(fade, start.astype(int), inputs)


# Positions and log densities


POSITIONS = {
    "sample": lambda position: quietly(isotropic, position),
    "compare": lambda position: compare_kernels(KEY, isotropic, position),
    "check": lambda position: check(KEY, MALA, position, num_steps=100),
    "run": lambda position: run_inference_algorithm(KEY, MALA, 10, initial_position=position),
}


@pytest.mark.parametrize("function", POSITIONS)
@pytest.mark.parametrize(
    ("position", "error", "words"),
    [
        ({"mu": jnp.array([0.0, np.nan])}, ValueError, ["initial_position['mu'] is not finite", "nan"]),
        (np.array([np.inf]), ValueError, ["initial_position is not finite", "inf"]),
        (jnp.array([1, 2]), TypeError, ["initial_position has dtype int64", "floating point"]),
        (np.array([1, 2]), TypeError, ["initial_position has dtype int64", "floating point"]),
        (3, TypeError, ["initial_position has dtype", "floating point"]),
        (jnp.zeros(2, jnp.float32), TypeError, ["has dtype float32", "float64", ".astype(float64)", "jax_enable_x64"]),
        ({}, ValueError, ["initial_position holds no arrays", "{}"]),
        (np.zeros(0), ValueError, ["initial_position has no elements (float64[0])"]),
        ("abc", TypeError, ["initial_position is 'abc'; positions must be floating-point"]),
        ({"a": np.array(["b"])}, TypeError, ["initial_position['a'] is array(['b']", "must be floating-point"]),
        (np.array([None]), TypeError, ["initial_position is array([None]", "must be floating-point"]),
        (
            {"n": 5},
            TypeError,
            ["initial_position['n'] has dtype int64", "convert parameters, such as 0 to 0.0", "close over counts"],
        ),
    ],
    ids=[
        *("nan", "inf", "integers", "numpy-integers", "whole", "float32", "empty"),
        *("no-elements", "text", "texts", "objects", "count"),
    ],
)
def test_positions(function, position, error, words):
    with refuses(error, *words):
        POSITIONS[function](position)


def test_numpy_and_python_numbers_become_arrays_of_the_default_type():
    position = checked_position({"a": np.float32(1.5), "b": 0.5, "c": np.zeros(2)})
    assert [leaf.dtype for leaf in jax.tree.leaves(position)] == [jnp.float64] * 3
    assert float(position["a"]) == 1.5


def wants_three(position: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((jnp.arange(3.0) * position) ** 2)


def outside(position: jax.Array) -> jax.Array:
    return jnp.where(position[0] > 0, -position.sum(), -jnp.inf)


def opaque(position: jax.Array) -> jax.Array:
    value = jax.ShapeDtypeStruct((), float)
    return jax.pure_callback(lambda x: -np.sum(np.asarray(x) ** 2, -1), value, position, vmap_method="expand_dims")


LOGDENSITIES = [
    ("shape", wants_three, ValueError, ["logdensity_fn cannot be evaluated at initial_position (float64[2])"]),
    ("nan", lambda x: jnp.sum(x) * jnp.nan, ValueError, ["logdensity_fn is nan at initial_position", "start where"]),
    ("outside", outside, ValueError, ["logdensity_fn is -inf at initial_position", "start where it is finite"]),
    ("infinite", lambda x: jnp.sum(x) + jnp.inf, ValueError, ["logdensity_fn is inf at initial_position"]),
    ("vector", lambda x: -(x**2), ValueError, ["logdensity_fn must return one floating-point scalar", "Sum"]),
    ("pair", lambda x: (x.sum(), x), ValueError, ["logdensity_fn must return one floating-point scalar"]),
    ("integer", lambda x: x.sum().astype(int), ValueError, ["logdensity_fn must return one floating-point scalar"]),
    ("float16", lambda x: isotropic(x).astype(jnp.float16), ValueError, ["returns float16", "too coarse", "float64"]),
    ("bfloat16", lambda x: isotropic(x).astype(jnp.bfloat16), ValueError, ["returns bfloat16", "too coarse"]),
    ("opaque", opaque, ValueError, ["logdensity_fn has no gradient at initial_position"]),
    ("kink", lambda x: -jnp.sum(jnp.sqrt(jnp.abs(x))), ValueError, ["logdensity_fn has gradient", "initial_position"]),
    ("uncallable", 3.0, TypeError, ["logdensity_fn must be callable; got 3.0"]),
]


@pytest.mark.parametrize(
    ("logdensity_fn", "error", "words"), [case[1:] for case in LOGDENSITIES], ids=[case[0] for case in LOGDENSITIES]
)
def test_log_densities(logdensity_fn, error, words):
    with refuses(error, *words):
        quietly(logdensity_fn, np.zeros(2))


def inside(position: dict) -> jax.Array:
    """A log density of which one leaf occurs in the support only, and another not at all."""
    total = jax.jit(lambda p: -0.5 * p["x"] ** 2 + 0.0 * p["weight"].sum())(position)
    return jnp.where(position["bounded"] > 0, total, -jnp.inf)


@pytest.mark.parametrize("kernel", ["hmc", "metropolis"])
def test_parameters_that_do_not_occur(kernel):
    start = {"x": 0.0, "bounded": 0.5, "weight": np.zeros(2), "unused": np.zeros(3)}
    with refuses(ValueError, "logdensity_fn does not depend on initial_position['unused']", "leave it out", "prior"):
        quietly(inside, start, kernel=kernel)
    del start["unused"]
    checked_program(inside, start)
    checked_program(inside, {**start, "empty": np.zeros((3, 0))})


@pytest.mark.parametrize("function", ["check", "run"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_chain_starts_where_its_log_density_is_finite(function, bad):
    algorithm = blackjax.mala(lambda x: jnp.where(x[0] > 0, isotropic(x), bad), 0.2)
    start = jnp.array([-1.0, 0.0])
    with refuses(ValueError, "log density", str(bad), "initial_position"):
        if function == "check":
            check(KEY, algorithm, start, num_steps=100)
        else:
            run_inference_algorithm(KEY, algorithm, 10, initial_position=start)


# Counts and choices


TAKES_STEPS = {
    "check": partial(check, KEY, MALA, jnp.zeros(2)),
    "run": partial(run_inference_algorithm, KEY, MALA, initial_position=jnp.zeros(2)),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in TAKES_STEPS for value in COUNTS if (name, value) != ("check", None)],  # its default
)
def test_numbers_of_steps(name, value):
    with refuses(ValueError, f"num_steps must be a whole number of at least 1; got {value!r}"):
        TAKES_STEPS[name](num_steps=value)


@pytest.mark.parametrize("name", ["parallel", "DEER", "", 3, None, DEER])
def test_unknown_methods(name):
    with refuses((ValueError, TypeError), "method must be", "'auto', 'deer', 'sequential'", "got"):
        run_inference_algorithm(KEY, MALA, 10, initial_position=jnp.zeros(2), method=name)
    with refuses((ValueError, TypeError), "method must be", "'auto', 'deer', 'sequential'", "got"):
        quietly(isotropic, np.zeros(2), method=name)


def test_blocks_that_do_not_fit_the_run():
    with refuses(ValueError, "block_size=11 exceeds the 10 steps of the chain"):
        run_inference_algorithm(KEY, MALA, 10, initial_position=jnp.zeros(2), method=DEER(11))
    with refuses(ValueError, "method must be one of 'auto', 'deer', 'sequential'; got DEER(block_size=11"):
        quietly(isotropic, np.zeros(2), method=DEER(11))


@pytest.mark.parametrize("given", [{}, {"initial_state": MALA.init(jnp.zeros(2)), "initial_position": jnp.zeros(2)}])
def test_a_run_has_exactly_one_start(given):
    with refuses(ValueError, "Exactly one of initial_state and initial_position"):
        run_inference_algorithm(KEY, MALA, 10, **given)


@pytest.mark.parametrize("leaf", [jnp.array([np.nan, 0.0]), jnp.array([1, 0])])
def test_the_position_of_an_initial_state_is_checked_too(leaf):
    state = MALA.init(jnp.zeros(2))._replace(position=leaf)
    with refuses((ValueError, TypeError), "initial_state.position"):
        run_inference_algorithm(KEY, MALA, 10, initial_state=state)


def test_a_kernel_that_cannot_be_reduced():
    orbits = blackjax.orbital_hmc(isotropic, 0.3, jnp.ones(2), 3)
    for function in (partial(check, KEY, orbits, jnp.zeros(2)), partial(run_inference_algorithm, KEY, orbits, 10)):
        arguments = {} if function.func is check else {"initial_position": jnp.zeros(2)}
        with refuses(TypeError, "inference_algorithm", "'positions', 'weights'", "parsample.deer"):
            function(**arguments)


# Algorithms

TAKES_AN_ALGORITHM: dict[str, Callable] = {
    "run_inference_algorithm": lambda algorithm: run_inference_algorithm(
        KEY, algorithm, 10, initial_position=jnp.ones(2)
    ),
    "check": lambda algorithm: check(KEY, algorithm, jnp.ones(2)),
    "as_recursion": lambda algorithm: as_recursion(KEY, algorithm, jnp.ones(2), 100),
    "with_exact_meeting": lambda algorithm: with_exact_meeting(algorithm, isotropic, 0.3),
}


@pytest.mark.parametrize("name", TAKES_AN_ALGORITHM)
@pytest.mark.parametrize("value", [None, 3, blackjax.hmc], ids=["none", "number", "not-called"])
def test_algorithms(name, value):
    with refuses(TypeError, "inference_algorithm must be a BlackJAX", "algorithm", "got", repr(value)[:20]):
        TAKES_AN_ALGORITHM[name](value)


def test_a_state_of_another_kernel():
    state = blackjax.additive_step_random_walk(isotropic, blackjax.mcmc.random_walk.normal(jnp.ones(2))).init(
        jnp.zeros(2)
    )
    with refuses(TypeError, "initial_state has the fields ('position', 'logdensity')", "inference_algorithm.init"):
        run_inference_algorithm(KEY, MALA, 10, initial_state=state)


def test_an_algorithm_of_another_dimension():
    algorithm = blackjax.mala(wants_three, 0.2)
    with refuses(ValueError, "inference_algorithm cannot start at initial_position (float64[2])", "shape"):
        run_inference_algorithm(KEY, algorithm, 10, initial_position=jnp.zeros(2))


def test_a_log_density_of_half_precision_in_an_algorithm():
    algorithm = blackjax.mala(lambda x: isotropic(x).astype(jnp.float16), 0.2)
    with refuses(ValueError, "returns float16", "too coarse"):
        run_inference_algorithm(KEY, algorithm, 10, initial_position=jnp.zeros(2))


@pytest.mark.parametrize("method", ["sequential", DEER(5, Zero())], ids=["sequential", "blocks"])
def test_a_transform_is_a_function_of_state_and_info(method):
    arguments = {"initial_position": jnp.zeros(2), "method": method}
    with refuses(TypeError, "transform must be callable; got 3"):
        run_inference_algorithm(KEY, MALA, 10, transform=3, **arguments)
    with refuses(ValueError, "transform(state, info) cannot be evaluated", "argument"):
        run_inference_algorithm(KEY, MALA, 10, transform=lambda state: state, **arguments)


@pytest.mark.parametrize("scale", ["x", -1.0, 0.0, np.nan, np.array([1.0, -1.0])], ids=str)
def test_scales_of_multishift_moves(scale):
    for make in (partial(multishift_random_walk, isotropic), partial(with_exact_meeting, MALA, isotropic)):
        with refuses(ValueError, "scale must be a positive number", "got"):
            make(scale)
    with refuses(TypeError, "logdensity_fn must be callable; got 3"):
        multishift_random_walk(3, 1.0)


def test_scales_of_states_are_positive_numbers_in_the_dtype_of_the_state():
    state = {"a": np.zeros(2, np.float32), "b": 0.0}
    scale = checked_scale({"a": np.array([1, 2]), "b": 3}, state)
    assert scale.tolist() == [1, 2, 3]
    assert scale.dtype == np.float64
    with refuses(TypeError, "scale must hold numbers; got 'x'"):
        deer(fade, START, INPUTS, scale="x")
