"""Bad input: one error each, which names the argument, its value and the remedy, before anything long runs."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import fade, isotropic, noise

from parsample import (
    DEER,
    Newton,
    Zero,
    as_recursion,
    check,
    check_sampler,
    coalescence_times,
    compare_kernels,
    deer,
    lyapunov_exponent,
    rollout,
    run_inference_algorithm,
    sample,
)
from parsample.internal.validation import checked_position

KEY = jax.random.key(0)
INPUTS = noise(12)
START = jnp.array(0.5)
MALA = blackjax.mala(isotropic, 0.2)


pytestmark = pytest.mark.usefixtures("as_users_have_it")


def refuses(error: type[Exception], *words: str) -> Any:
    """An error whose message holds these words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


# Keys

TAKES_A_KEY: dict[str, Callable] = {
    "run_inference_algorithm": lambda key: run_inference_algorithm(key, MALA, 100, initial_position=jnp.ones(2)),
    "check": lambda key: check(key, MALA, jnp.ones(2)),
    "sample": lambda key: sample(key, isotropic, jnp.ones(2), progress_bar=False),
    "check_sampler": lambda key: check_sampler(key, isotropic, jnp.ones(2)),
    "compare_kernels": lambda key: compare_kernels(key, isotropic, jnp.ones(2)),
    "as_recursion": lambda key: as_recursion(key, MALA, jnp.ones(2), 100),
}


@pytest.mark.parametrize("name", TAKES_A_KEY)
def test_keys_must_give_every_lane_its_own_numbers(name):
    for kind in ("rbg", "unsafe_rbg"):
        with refuses(ValueError, f"rng_key is of kind '{kind}'", "jax.random.key(seed, impl='threefry2x32')"):
            TAKES_A_KEY[name](jax.random.key(0, impl=kind))
    with refuses(TypeError, "rng_key must be a key, such as jax.random.key(0)", "got 0"):
        TAKES_A_KEY[name](0)
    with refuses(ValueError, "rng_key must be one key", "shape (3,)"):
        TAKES_A_KEY[name](jax.random.split(KEY, 3))


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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_size": 0}, "block_size must be a whole number of at least 1; got 0"),
        ({"block_size": -3}, "block_size must be a whole number of at least 1; got -3"),
        ({"block_size": 2.0}, "block_size must be a whole number of at least 1; got 2.0"),
        ({"block_size": True}, "block_size must be a whole number of at least 1; got True"),
        ({"block_size": 13}, "block_size=13 exceeds the T=12 steps"),
        ({"max_iters": 0}, "max_iters must be a whole number of at least 1; got 0"),
        ({"stall_after": 1.5}, "stall_after must be a whole number of at least 1; got 1.5"),
        ({"atol": -1.0}, "atol must not be negative; got -1.0"),
        ({"rtol": np.nan}, "rtol must not be negative; got nan"),
        ({"clip": -0.5}, "clip must not be negative; got -0.5"),
        ({"max_step": -1}, "max_step must not be negative; got -1"),
        ({"initial_guess": jnp.zeros(11)}, "initial_guess has shapes (11,); it must have those of the path, (12,)"),
        ({"scale": jnp.ones(3)}, "scale has shapes (3,); it must have those of initial_state, ()"),
        ({"scale": jnp.array(0.0)}, "scale"),
        ({"scale": jnp.array(jnp.nan)}, "scale"),
    ],
    ids=str,
)
def test_settings_of_deer(settings, words):
    with refuses(ValueError, words):
        deer(fade, START, INPUTS, **settings)


@pytest.mark.parametrize("linearization", [Zero, "dense", None])
def test_a_linearization_learns_of_block_maps(linearization):
    if linearization is None:  # by keyword, None is the default of `deer`; as a setting it is an error
        assert deer(fade, START, INPUTS, linearization=None).status == 0
        return
    with refuses(TypeError, "linearization must be Dense(), Diagonal(), Identity() or Zero(); got"):
        DEER(4, linearization)


@pytest.mark.parametrize("correction", [Newton, "newton", 0.5])
def test_a_correction_is_a_rule(correction):
    with refuses(TypeError, "correction must be Newton(), or another rule; got"):
        DEER(4, correction=correction)
    with refuses(TypeError, "correction must be Newton(), or another rule; got"):
        deer(fade, START, INPUTS, correction=correction)


def test_numpy_integers_are_whole_numbers():
    assert deer(fade, START, INPUTS, block_size=np.int64(4)).num_iters >= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_discarded": -1}, "num_discarded=-1"),
        ({"num_discarded": 12}, "num_discarded=12 of T=12 steps leaves too few for num_batches=20"),
        ({"num_batches": 1}, "num_batches=1"),
    ],
)
def test_settings_of_lyapunov_exponent(settings, words):
    with refuses(ValueError, words):
        lyapunov_exponent(fade, START, INPUTS, **settings)


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


def test_meeting_takes_two():
    with refuses(ValueError, "initial_states", "at least 2 starts", "(1,)"):
        coalescence_times(fade, jnp.zeros(1), INPUTS)


# Positions and log densities


def quietly(logdensity_fn: Callable, position: Any, **settings: Any) -> Any:
    settings = {"num_samples": 10, "num_warmup": 100, "num_chains": 1, "progress_bar": False} | settings
    return sample(KEY, logdensity_fn, position, **settings)


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
    ],
    ids=["nan", "inf", "integers", "numpy-integers", "whole", "float32", "empty"],
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

COUNTS = [0, -1, True, 2.0, "3", None]


@pytest.mark.parametrize("value", COUNTS)
@pytest.mark.parametrize("name", ["num_samples", "num_chains", "num_warmup"])
def test_counts_of_sample(name, value):
    minimum = 100 if name == "num_warmup" else 1
    with refuses(ValueError, f"{name} must be a whole number of at least {minimum}; got {value!r}"):
        quietly(isotropic, np.zeros(2), **{name: value})


@pytest.mark.parametrize("value", [value for value in COUNTS if value is not None])  # its default
def test_numbers_of_lanes(value):
    with refuses(ValueError, f"num_lanes must be a whole number of at least 1; got {value!r}"):
        quietly(isotropic, np.zeros(2), num_lanes=value)


@pytest.mark.parametrize("value", [1, 0.0, "yes", None])
def test_exact_meeting_is_a_flag(value):
    with refuses(TypeError, f"exact_meeting must be True or False; got {value!r}"):
        quietly(isotropic, np.zeros(2), exact_meeting=value)
    with refuses(TypeError, f"exact_meeting must be True or False; got {value!r}"):
        check_sampler(KEY, isotropic, np.zeros(2), exact_meeting=value)


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


@pytest.mark.parametrize("name", ["gibbs", "HMC", None])
def test_unknown_kernels(name):
    with refuses(ValueError, "kernel must be one of 'hmc', 'nuts', 'mala', 'metropolis'; got", repr(name)):
        quietly(isotropic, np.zeros(2), kernel=name)


@pytest.mark.parametrize("names", [(), "hmc", ("hmc", "hmc"), ("hmc", "gibbs"), None, 3, (None,), (["hmc"],)])
def test_kernels_to_compare(names):
    with refuses(
        ValueError, "kernels must be different names out of 'hmc', 'nuts', 'mala', 'metropolis'; got", repr(names)
    ):
        compare_kernels(KEY, isotropic, np.zeros(2), kernels=names)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1; got 0"),
        ({"num_warmup": 99}, "num_warmup must be a whole number of at least 100; got 99"),
        ({"num_chains": True}, "num_chains must be a whole number of at least 1; got True"),
        ({"kernels": ("mala",), "target_acceptance_rate": 1.5}, "target_acceptance_rate must lie between 0 and 1"),
    ],
)
def test_settings_of_a_comparison(settings, words):
    with refuses(ValueError, words):
        compare_kernels(KEY, isotropic, np.zeros(2), **settings)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, np.nan])
def test_target_acceptance_rates(rate):
    with refuses(ValueError, "target_acceptance_rate must lie between 0 and 1; got"):
        quietly(isotropic, np.zeros(2), target_acceptance_rate=rate)


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
