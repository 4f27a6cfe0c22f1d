"""JAX's modes and transformations: a healthy chain runs under each mode, or the refusal is one sentence.

Every test of the suite runs under ``jax.numpy_rank_promotion("raise")`` already.
"""

import warnings
from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow

import parsample
from parsample import DEER, Diagonal, ParallelStallWarning, Zero

SCALES = np.array([0.5, 1.0, 2.0], np.float32)
TINY = {"num_warmup": 100, "num_lanes": 8, "progress_bar": False}


def bell(x: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(jnp.square(x / SCALES))


def step(state: jax.Array, drive: jax.Array) -> jax.Array:
    return 0.5 * jnp.sin(state) + drive


def sampled(kernel: str, **settings: Any) -> Callable:
    return lambda key: parsample.sample(
        key, bell, np.zeros(3), num_samples=200, num_chains=2, kernel=kernel, **TINY, **settings
    )


def run(algorithm: Any, method: Any) -> Callable:
    return lambda key: parsample.run_inference_algorithm(key, algorithm, 60, initial_position=np.ones(3), method=method)


def solved(**settings: Any) -> Callable:
    drives = np.random.default_rng(0).normal(size=(61, 3)).astype(np.float32)
    return lambda _: parsample.deer(step, np.ones(3, np.float32), drives, block_size=10, **settings)


def measured(_: jax.Array) -> Any:
    starts, drives = np.array([np.zeros(3), np.ones(3)], np.float32), np.ones((60, 3), np.float32)
    parsample.rollout(step, starts[0], drives)
    parsample.coalescence_times(step, starts, drives)
    return parsample.lyapunov_exponent(step, starts[0], drives)


KEY = jax.random.key(0)
ONES = np.ones(3, np.float32)
HMC = blackjax.hmc(bell, 0.5, ONES, 4)
MALA = parsample.with_exact_meeting(blackjax.mala(bell, 0.2), bell, 0.3)
RUNS: dict[str, Callable] = {
    **{f"sample {kernel}": sampled(kernel) for kernel in ("hmc", "nuts", "mala", "metropolis")},
    "sample and to_arviz": lambda key: sampled("hmc", method="sequential")(key).to_arviz(),
    "check": lambda key: parsample.check(key, HMC, np.ones(3), num_steps=20_000),
    "check of a recursion": lambda key: parsample.check(
        key, step, np.ones(3, np.float32), inputs=np.ones((300, 3), np.float32)
    ),
    "check_sampler": lambda key: parsample.check_sampler(key, bell, np.zeros(3), num_samples=2000, lyapunov=True),
    "compare_kernels": lambda key: parsample.compare_kernels(key, bell, np.zeros(3), num_samples=2000),
    "run auto": run(HMC, "auto"),
    "run deer": run(HMC, "deer"),
    "run in blocks": run(MALA, DEER(20, Zero())),
    "run sequential": run(HMC, "sequential"),
    "as_recursion": lambda key: parsample.deer(*parsample.as_recursion(key, HMC, np.ones(3), 40), block_size=10),
    "deer": solved(),
    "deer diagonal": solved(linearization=Diagonal()),
    "deer zero": solved(linearization=Zero()),
    "measures of a recursion": measured,
}
MODES = {
    "debug_nans": jax.debug_nans,
    "debug_infs": jax.debug_infs,
    "debug_key_reuse": jax.debug_key_reuse,
    "checking_leaks": lambda _: jax.checking_leaks(),
    "transfer_guard": lambda _: jax.transfer_guard("disallow"),
    "strict promotion": lambda _: jax.numpy_dtype_promotion("strict"),
}
# The default run has what each mode is about; all else is in the slow run.
DEFAULT = {
    ("debug_nans", "sample hmc"),
    ("debug_nans", "deer zero"),
    ("debug_key_reuse", "run in blocks"),
    ("transfer_guard", "run sequential"),
    ("transfer_guard", "deer zero"),
    ("strict promotion", "deer zero"),
}
CASES = [(mode, name) if (mode, name) in DEFAULT else slow(mode, name) for mode in MODES for name in RUNS]


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_a_healthy_chain_runs_under_jaxs_modes(mode, name, float32):
    key = jax.random.key(0)
    with warnings.catch_warnings(), MODES[mode](True):
        warnings.simplefilter("ignore", ParallelStallWarning)  # these chains are short
        RUNS[name](key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deer", "run", "sample"])
def test_a_healthy_chain_runs_without_compilation(name):
    # Each operation takes longer than a whole compiled chain, so these are as short as they can be.
    start, drives, key = jnp.ones(2), jnp.ones((4, 2)), jax.random.key(0)
    with warnings.catch_warnings(), jax.disable_jit():
        warnings.simplefilter("ignore", ParallelStallWarning)
        if name == "deer":
            found = parsample.deer(step, start, drives, block_size=2, linearization=Zero())
            np.testing.assert_allclose(found.states[0], 0.5 * np.sin(1) + 1, atol=1e-12)
        elif name == "run":
            walk = parsample.multishift_random_walk(lambda x: -0.5 * jnp.sum(x**2), 0.5)
            parsample.run_inference_algorithm(key, walk, 4, initial_position=start, method=DEER(2, Zero()))
        else:
            parsample.sample(key, bell, jnp.ones(3), num_samples=16, num_chains=1, kernel="metropolis", **TINY)


@pytest.mark.slow
def test_a_nan_of_the_users_is_reported_by_debug_nans(float32):
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        parsample.sample(jax.random.key(0), lambda x: jnp.sum(jnp.sqrt(x - 10)), np.ones(3), num_chains=1, **TINY)


HOSTED: dict[str, Callable] = {
    "sample": lambda density, start: parsample.sample(KEY, density, start, **TINY),
    "check_sampler": lambda density, start: parsample.check_sampler(KEY, density, start),
    "compare_kernels": lambda density, start: parsample.compare_kernels(KEY, density, start),
    "resume": lambda density, start: parsample.resume("run.zarr", density, start),
    "check": lambda density, start: parsample.check(KEY, blackjax.mala(density, 0.2), start),
}


@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, jax.jacfwd])
@pytest.mark.parametrize("name", HOSTED)
def test_functions_that_measure_are_refused_inside_transformations(name, transformation):
    """Also where only the log density reads what is transformed."""

    def of_data(data: jax.Array) -> Any:
        return HOSTED[name](lambda x: -0.5 * jnp.sum((x - data) ** 2), np.ones(3))

    with pytest.raises(TypeError, match=f"^{name} decides .* cannot run inside jax.jit.*: call it outside; [^.]+[.]"):
        transformation(of_data)(jnp.ones((2, 3)))
