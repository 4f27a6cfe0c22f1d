"""Properties of any chain: one path however it is evaluated, and a certificate that bounds each of its jumps.

Hypothesis draws targets, starts, tuned values, keys and lengths, which compile nothing; slow tests draw shapes, numbers
of lanes and settings of the solver too.
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_targets import SHAPES, Drawn, adaptation_of, all_shapes, dimension_of, drawn, model_of, target_of

from parsample import Model, ParallelStallWarning, SampleResult, Status, resume, sample
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.kernels.whitening import MAX_INLINE_DIMENSION, Coordinates
from parsample.lanes.segments import step_by_step
from parsample.samplers.driver import Driver
from parsample.samplers.prepare import Prepared, Start, prepare
from parsample.samplers.progress_bar import Progress
from parsample.samplers.settings import SamplerSettings

NUM_LANES = 12  # divisible by any number of chains

MAX_STEPS = 1200  # of all chains of a run

# Arithmetic of a step in another program may round differently, by this many units of rounding of a whitened state.
MAX_ROUNDING = 1e4

_checks = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
few, many = (settings(max_examples=number, **_checks) for number in (6, 40))
some = settings(max_examples=15, phases=[Phase.generate], **_checks)  # each attempt to shrink would compile


class Case(NamedTuple):
    """A run of `sample` without warm-up."""

    model: Model
    seed: int
    kernel: str
    num_lanes: int
    arguments: dict[str, Any]

    def sample(self, **changes: Any) -> SampleResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParallelStallWarning)
            return sample(
                jax.random.key(self.seed),
                self.model,
                method="deer",
                kernel=self.kernel,
                num_lanes=self.num_lanes,
                num_warmup=0,
                starts_per_chain=True,
                progress_bar=False,
                **{**self.arguments, **changes},
            )

    def prepared(self) -> Prepared:
        """The same run, before its first step."""
        chosen = SamplerSettings.of(
            method="deer", kernel=self.kernel, num_lanes=self.num_lanes, num_warmup=0, **self.arguments
        )
        start = Start(self.arguments["adaptation"], per_chain=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParallelStallWarning)
            return prepare(jax.random.key(self.seed), self.model, chosen, Progress(0, is_shown=False), start=start)


def case_of(
    drawn: Drawn, kernel: str, dtype: str, shapes: dict[str, tuple[int, ...]] = SHAPES, num_lanes: int = NUM_LANES
) -> Case:
    target = target_of(drawn, dimension_of(shapes), dtype)
    num_chains = next(number for number in range(drawn.num_chains, 0, -1) if num_lanes % number == 0)
    arguments = {
        "adaptation": adaptation_of(drawn, kernel, target),
        "exact_meeting": drawn.move_scale > 0,
        "num_chains": num_chains,
        "num_samples": drawn.num_samples,
    }
    return Case(model_of(drawn, target, shapes, num_chains), drawn.seed, kernel, num_lanes, arguments)


def vectors(positions: Any) -> np.ndarray:
    """Positions with leading axes (chain, draw) as vectors."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(positions)]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


def single_steps(prepared: Prepared) -> tuple[np.ndarray, Any]:
    """Whitened path and statistics of the chains, step by step in the program of the blocks.

    All lanes run copies of the chains: leading axes (chain, copy, step).
    """
    run, num_chains = prepared.run, prepared.settings.num_chains
    copies = prepared.settings.num_lanes // num_chains
    states = jax.tree.map(lambda leaf: np.repeat(leaf, copies, axis=0), run.states)

    def inputs(lanes: np.ndarray, first_steps: np.ndarray) -> Any:
        return run.inputs(lanes // copies, first_steps)

    segment = step_by_step(prepared.program, run._replace(states=states, inputs=inputs), prepared.settings.num_steps)
    return jax.tree.map(lambda leaf: leaf.reshape(num_chains, copies, *leaf.shape[1:]), (segment.path, segment.outputs))


def equal_lanes(leaf: np.ndarray) -> bool:
    return np.array_equal(leaf, np.broadcast_to(leaf[:, :1], leaf.shape), equal_nan=leaf.dtype.kind == "f")


def in_blocks(prepared: Prepared) -> tuple[np.ndarray, Any, float]:
    """Whitened path and statistics of the chains, evaluated in blocks, and their defect."""
    driver, segments = Driver(prepared, Progress(0, is_shown=False)), []
    num_steps = prepared.settings.num_steps
    while driver.num_steps_done < num_steps:
        segments.append(driver.next_segment())
    assert {each.status for each in segments} == {Status.CONVERGED}
    parts = [(each.path, each.outputs) for each in segments]
    path, found = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, :num_steps], *parts)
    return path, found, max(each.defect for each in segments)


@partial(jax.jit, static_argnums=0)
def repeated_steps(
    lanes: KernelLanes, parameters: Any, keys: jax.Array, before: jax.Array, numbers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Each step of the kernel by itself, from the whitened states before it, and how much it magnifies differences."""

    def one(key: jax.Array, position: jax.Array, t: jax.Array) -> jax.Array:
        transition, _ = lanes(parameters, jax.random.wrap_key_data(key), 1)
        return transition.reduced_step(position, t)

    def magnified(key: jax.Array, position: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not lanes.kernel.uses_gradient:
            return one(key, position, t), jnp.ones(())  # meets exactly
        return one(key, position, t), abs(jax.jacfwd(one, argnums=1)(key, position, t)).sum(1).max()

    return jax.lax.map(lambda each: magnified(*each), (keys, before, numbers))


def repeated(prepared: Prepared, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`repeated_steps` of a path, shapes (K, n, D) and (K, n); filled up to one size, which is compiled once."""
    num_chains, num_steps, dimension = path.shape
    before = np.concatenate([prepared.run.states.position[:, None], path[:, :-1]], axis=1).reshape(-1, dimension)
    keys, numbers = np.repeat(prepared.keys, num_steps, axis=0), np.tile(np.arange(num_steps), num_chains)
    steps = (keys, before, numbers.astype(np.int32))
    padded = (leaf[np.arange(MAX_STEPS) % len(before)] for leaf in steps)
    found = repeated_steps(prepared.program.dynamics, prepared.run.parameters, *padded)
    return tuple(
        np.asarray(leaf, float)[: len(before)].reshape(num_chains, num_steps, *leaf.shape[1:]) for leaf in found
    )


def check_path(case: Case) -> None:
    """Assert that the public run, its blocks and single steps in the same program give one path."""
    prepared = case.prepared()
    path, found, defect = in_blocks(prepared)
    result, coordinates = case.sample(), Coordinates(*prepared.adaptation.parameters[:2])
    np.testing.assert_array_equal(
        vectors(result.positions), vectors(prepared.program.dynamics.layout.unravel(coordinates.position(path)))
    )
    assert result.defect == defect
    if case.arguments["exact_meeting"] or case.kernel == "metropolis":
        assert defect == 0
    expected, statistics = single_steps(prepared)
    if not all(map(equal_lanes, jax.tree.leaves((expected, statistics)))):
        # A matrix product may round the last lanes of a program otherwise than the others.
        assert path.shape[-1] > MAX_INLINE_DIMENSION
    elif defect == 0:
        np.testing.assert_array_equal(path, expected[:, 0])
        jax.tree.map(lambda ours, lanes: np.testing.assert_array_equal(ours, lanes[:, 0]), found, statistics)
    if path.dtype == np.float64:  # no decision hangs on rounding
        np.testing.assert_allclose(path, expected[:, 0], rtol=0, atol=1e4 * defect + 1e-8)


def check_certificate(case: Case) -> None:
    """Assert that each state is one step of the kernel from the state before it, but for the defect.

    A block starts within the defect of the state where the block before it ended; its first step may magnify that.
    """
    prepared = case.prepared()
    path, _, defect = in_blocks(prepared)
    again, magnified = repeated(prepared, path)
    jumps = np.abs(again - path).max(-1)
    limits = 1.001 * defect * np.maximum(magnified, 1) + MAX_ROUNDING * np.finfo(path.dtype).eps
    # In float32, one decision in a run may hang on rounding.
    assert (jumps > limits).sum() <= (1 if path.dtype == np.float32 else 0), (jumps, limits)


KINDS = [("hmc", "float64"), ("metropolis", "float32")]
OTHER_KINDS = [
    (kernel, dtype)
    for kernel in ("hmc", "nuts", "mala", "metropolis")
    for dtype in ("float32", "float64")
    if (kernel, dtype) not in KINDS
]
CHECKS = [check_path, check_certificate]


@pytest.mark.parametrize(("kernel", "dtype"), KINDS)
@pytest.mark.parametrize("check", CHECKS)
@few
@given(drawn=drawn())
def test_blocks_are_one_certified_chain(check, kernel, dtype, drawn):
    with jax.enable_x64(dtype == "float64"):
        check(case_of(drawn, kernel, dtype))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "dtype"), [*KINDS, *OTHER_KINDS])
@pytest.mark.parametrize("check", CHECKS)
@many
@given(drawn=drawn())
def test_blocks_are_one_certified_chain_in_many_cases(check, kernel, dtype, drawn):
    with jax.enable_x64(dtype == "float64"):
        check(case_of(drawn, kernel, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["hmc", "nuts", "mala", "metropolis"])
@some
@given(drawn=drawn(), dtype=st.sampled_from(["float32", "float64"]), shapes=all_shapes(), num_lanes=st.integers(4, 20))
def test_blocks_are_one_certified_chain_in_any_shape(kernel, drawn, dtype, shapes, num_lanes):
    with jax.enable_x64(dtype == "float64"):
        case = case_of(drawn, kernel, dtype, shapes, num_lanes)
        check_path(case)
        check_certificate(case)


@few
@given(drawn=drawn(exact=True), thin=st.integers(2, 7), block_size=st.sampled_from([16, 32, 64]))
def test_neither_thinning_nor_segments_change_the_draws(drawn, thin, block_size):
    case = case_of(drawn, "hmc", "float64")
    num_samples = case.arguments["num_samples"]
    whole = case.sample(num_samples=num_samples * thin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parsample.samplers.schedule.block_size_of", lambda *_: block_size)
        thinned = case.sample(thin=thin)
    assert len(thinned.segments) == -(-num_samples * thin // (block_size * NUM_LANES // drawn.num_chains))
    np.testing.assert_array_equal(vectors(thinned.positions), vectors(whole.positions)[:, thin - 1 :: thin])
    for name, values in thinned.sample_stats.items():
        np.testing.assert_array_equal(values, whole.sample_stats[name][:, thin - 1 :: thin])


def in_store(out: Path) -> list[np.ndarray]:
    with xarray.open_datatree(out, engine="zarr") as tree:
        return [tree["posterior"][name].to_numpy() for name in SHAPES]


@pytest.mark.slow
@few
@given(drawn=drawn(exact=True), share=st.floats(0.0, 1.0), thin=st.integers(1, 3))
def test_a_run_that_is_cut_anywhere_goes_on_as_if_it_were_not(drawn, share, thin):
    case = case_of(drawn, "hmc", "float64")
    num_samples = case.arguments["num_samples"]
    first = max(1, round(share * num_samples))
    with tempfile.TemporaryDirectory() as directory:
        case.sample(out=Path(directory, "whole.zarr"), thin=thin)
        case.sample(out=Path(directory, "cut.zarr"), thin=thin, num_samples=first)
        resume(Path(directory, "cut.zarr"), case.model, num_samples=num_samples, progress_bar=False)
        whole, cut = (in_store(Path(directory, name)) for name in ("whole.zarr", "cut.zarr"))
    for one, other in zip(whole, cut, strict=True):
        assert one.shape[1] == num_samples
        np.testing.assert_array_equal(one, other)
