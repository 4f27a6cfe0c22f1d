"""Evaluate a user's chain in blocks, or step by step where that is faster or blocks do not meet.

The run itself provides the measurements. The first steps are taken one by one and timed; the first segment of blocks
shows how soon lanes meet and how long a row takes, which is one step of every lane.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.chain.transition import Dynamics
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import Kinds, as_keys, as_words
from parsample.internal.user_warnings import warn_user
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.meeting import MEETING_DISTANCE, meeting_times, stretch_of
from parsample.lanes.program import PERIOD, LaneProgram, default_num_lanes
from parsample.lanes.segments import Run, Segment, evaluate_segment, step_by_step
from parsample.planning.plan import DEFAULT_SINGLE_STEP_COST, block_size_of
from parsample.solver.solution import Solution, sequential_solution
from parsample.solver.status import ParallelStallWarning, Status

# Steps per block of the first segment, which shows how soon lanes meet.
FIRST_BLOCK = 64

# A segment is given up once it takes PATIENCE times as long as its steps would take one by one; the first segment also
# once it takes the share MAX_FIRST_SHARE of the time that the rest of the chain would take one by one.
PATIENCE, MAX_FIRST_SHARE = 2.0, 0.2

# Single steps at the start, in three rounds: to compile, to find how many fit into a call, to time them. After
# MAX_TIMING_SECONDS no further round begins.
TIMED_STEPS, MAX_TIMING_SECONDS = (PERIOD, PERIOD, 30 * PERIOD), 0.5

# Blocks gain nothing if a row of all lanes takes more than this share of the time of one single step per lane.
MIN_GAIN = 0.8

# Compilation time for many lanes relative to one lane, and seconds that a run in blocks takes in addition to its rows.
COMPILATION_RATIO, OVERHEAD_SECONDS = 2.0, 0.2

# Rows of the stretch on which pairs of lanes are first compared, to find whether rounding keeps them apart.
NOISE_ROWS = 64

# The warning for an algorithm whose steps cannot be batched over lanes.
WITHOUT_BATCHING = (
    "This chain will be evaluated sequentially: its log density calls back to Python and has no batching rule. Try: "
    "jax.pure_callback(..., vmap_method='expand_dims') and a function that takes leading axes"
)


@dataclass(frozen=True)
class Chain:
    """A user's chain, converted for evaluation in lanes.

    Attributes
    ----------
    lanes
        The chain as `LaneDynamics`.
    records
        Shapes of the position and the output recorded per row and lane.
    state
        Initial state, with keys as words and a leading axis of 1.
    sequence
        Inputs of all steps, on the host, with leading axis T and keys as words.
    mesh
        Mesh of the devices that share the lanes; None: a single device.
    """

    lanes: ChainLanes
    records: tuple[Any, PyTree]
    state: PyTree
    sequence: PyTree
    mesh: Mesh | None

    @classmethod
    def of(cls, dynamics: Dynamics, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None) -> "Chain":
        """The chain of `num_steps` steps that starts at `state` with key `rng_key`."""
        sequence = _sequence(dynamics, num_steps, state, rng_key)
        lanes, records = ChainLanes.of(dynamics, state, sequence)
        words = jax.tree.map(lambda leaf: np.asarray(leaf)[None], as_words(state))
        return cls(lanes, records, words, jax.tree.map(np.asarray, as_words(sequence)), mesh)

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return len(jax.tree.leaves(self.sequence)[0])

    def program(self, num_lanes: int) -> LaneProgram:
        """The compiled program for `num_lanes` lanes."""
        return LaneProgram(self.lanes, num_lanes, self.mesh if num_lanes > 1 else None, self.records)

    def run(self, program: LaneProgram) -> Run:
        """The chain before its first step, with inputs for the lanes of `program`."""

        def inputs(_: np.ndarray, first_steps: np.ndarray) -> PyTree:
            steps = first_steps[:, None] + np.arange(program.num_rows)
            words = jax.tree.map(lambda leaf: leaf[np.minimum(steps, self.num_steps - 1)], self.sequence)
            return words, steps < self.num_steps

        return Run(np.ones(self.records[0].shape, program.dtype), inputs, self.state)


@jit_with_xla_options(0, 1)
def _sequence(dynamics: Dynamics, num_steps: int, state: PyTree, rng_key: Array) -> PyTree:
    return dynamics(state, rng_key, num_steps)[1].sequence


class SolutionBuilder:
    """Collects outputs and certificate of a chain, segment by segment."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.exact_prefix, self.num_sweeps, self.num_evaluations = num_steps, 0, 0, 0
        self.outputs: PyTree = None
        self.status, self.defect, self.block_defects = Status.CONVERGED, 0.0, np.zeros((0, 1))
        self.defect_history: list[float] = []

    def add(self, segment: Segment) -> None:
        """Add the next segment; outputs beyond the last step are dropped."""
        if self.outputs is None:
            self.outputs = jax.tree.map(
                lambda leaf: np.empty((self.num_steps, *leaf.shape[2:]), leaf.dtype), segment.outputs
            )
        end = min(segment.first + segment.num_steps, self.num_steps)
        for outputs, leaf in zip(jax.tree.leaves(self.outputs), jax.tree.leaves(segment.outputs), strict=True):
            outputs[segment.first : end] = leaf[0, : end - segment.first]
        self.status, self.defect = max(self.status, segment.status), max(self.defect, segment.defect)
        self.num_evaluations += segment.num_evaluations
        self.last_segment = segment._replace(path=segment.path[:, -1:], outputs=None)
        if segment.status is not Status.SEQUENTIAL:
            self.exact_prefix, self.num_sweeps = end, self.num_sweeps + segment.num_sweeps
            self.defect_history += [float(row.max()) for row in segment.block_defects]
            self.block_defects = self.block_defects if len(self.block_defects) else segment.block_defects

    def solution(self, state_kinds: Kinds, output_kinds: Kinds) -> Solution:
        """The solution with outputs, final state and certificate."""
        dtype = self.last_segment.path.dtype
        is_complete = self.status in (Status.CONVERGED, Status.SEQUENTIAL)
        outputs = as_keys(jax.device_put(self.outputs), output_kinds)
        final = as_keys(jax.device_put(jax.tree.map(lambda leaf: leaf[0], self.last_segment.final)), state_kinds)
        certificate = {
            "status": np.array(int(self.status)),
            "defect": np.array(self.defect, dtype),
            "num_iters": np.array(self.num_sweeps),
            "evals_per_step": np.array(self.num_evaluations / self.num_steps, dtype),
            "defect_history": np.array(self.defect_history, dtype),
            "exact_prefix": np.array(self.num_steps if is_complete else self.exact_prefix),
            "block_defects": self.block_defects.astype(dtype),
        }
        sequential = sequential_solution(
            jnp.asarray(self.last_segment.path[0, -1]), True, self.num_steps, outputs, final
        )
        return sequential._replace(**jax.device_put(certificate))


def evaluate_chain(
    dynamics: Dynamics, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None, *, may_end_blocks: bool
) -> Solution:
    """Evaluate the chain in blocks; with `may_end_blocks`, step by step as soon as that is expected to be faster."""
    chain = Chain.of(dynamics, state, rng_key, num_steps, mesh)
    builder = SolutionBuilder(num_steps)
    for segment in _segments(chain, may_end_blocks):
        builder.add(segment)
    return builder.solution(chain.lanes.state_kinds, chain.lanes.output_kinds)


def _segments(chain: Chain, may_end_blocks: bool) -> Iterator[Segment]:
    """Segments of the chain: in blocks while these meet and are expected to be faster, else step by step."""
    program, single_lane = chain.program(default_num_lanes()), chain.program(1)
    run = chain.run(program)
    if may_end_blocks:
        for segment in _timed_steps(single_lane, chain, run):
            yield segment
            run = run.after(segment)
    # Each process times the single lane by itself, so all processes use the times of the first.
    times = np.array([single_lane.seconds_to_compile, single_lane.seconds_per_row])
    compile_seconds, seconds_per_step = (float(value) for value in broadcast_from_first(chain.mesh, times))
    if not may_end_blocks or _may_pay(program, compile_seconds, (chain.num_steps - run.first) * seconds_per_step):
        try:
            for segment in _blocks(program, chain, run, seconds_per_step if may_end_blocks else math.inf):
                yield segment
                run = run.after(segment)
        except NotImplementedError as error:
            warn_user(f"{WITHOUT_BATCHING} ({error}).", ParallelStallWarning)
    yield from _steps(single_lane, chain, run, chain.num_steps)


def _timed_steps(single_lane: LaneProgram, chain: Chain, run: Run) -> Iterator[Segment]:
    """Segments of the first steps, taken one by one to measure the time per step."""
    begin = time.perf_counter()
    for num_steps in TIMED_STEPS:
        if (
            run.first == 0
            or broadcast_from_first(chain.mesh, np.float64(time.perf_counter() - begin)) < MAX_TIMING_SECONDS
        ):
            for segment in _steps(single_lane, chain, run, num_steps):
                yield segment
                run = run.after(segment)
        begin = time.perf_counter() if run.first == PERIOD else begin


def _may_pay(program: LaneProgram, compile_seconds: float, sequential_seconds: float) -> bool:
    """Whether blocks could be faster than single steps, which take `sequential_seconds` for the rest of the chain.

    The time per row of all lanes is unknown before their program is compiled, which takes longer than the
    `compile_seconds` of one lane.
    """
    is_compiled = math.isfinite(program.seconds_to_compile)
    overhead = OVERHEAD_SECONDS if is_compiled else COMPILATION_RATIO * compile_seconds
    return overhead + sequential_seconds / (DEFAULT_SINGLE_STEP_COST * program.num_lanes) < sequential_seconds


def _blocks(program: LaneProgram, chain: Chain, run: Run, seconds_per_step: float) -> Iterator[Segment]:
    """Segments in blocks, until the chain ends, blocks stall, or single steps of `seconds_per_step` are faster."""
    atol, is_noise_known = MEETING_DISTANCE[str(program.dtype)], False
    guesses = jax.tree.map(lambda leaf: np.repeat(leaf, program.num_lanes, axis=0), run.states)
    block_size = min(FIRST_BLOCK, _block_size(program, chain.num_steps - run.first))
    # The time per row is not known yet, so the bound on rows uses the default cost of a single step.
    max_rows = PATIENCE * DEFAULT_SINGLE_STEP_COST * program.num_lanes * block_size
    max_rows = math.inf if math.isinf(seconds_per_step) else max_rows
    max_seconds = OVERHEAD_SECONDS + MAX_FIRST_SHARE * (chain.num_steps - run.first) * seconds_per_step
    while run.first < chain.num_steps:
        segment, guesses = evaluate_segment(program, run, guesses, block_size, atol, max_rows, max_seconds)
        yield segment
        run = run.after(segment)
        if segment.status is Status.STALLED:
            is_final = is_noise_known or program.num_rows * program.seconds_per_row > max_seconds
            tolerance = atol if is_final else _noise_tolerance(program, run, guesses, atol)
            if tolerance == atol:
                return
            atol, is_noise_known = tolerance, True
            continue
        num_left = max(chain.num_steps - run.first, 0)
        block_size = _block_size(program, num_left)
        seconds_in_blocks = _seconds_left(program, segment, block_size, num_left)
        if seconds_in_blocks > num_left * seconds_per_step:
            if program.seconds_per_row > MIN_GAIN * program.num_lanes * seconds_per_step:
                _warn_of_little_gain(program.seconds_per_row / seconds_per_step)
            return
        max_rows = PATIENCE * seconds_per_step / program.seconds_per_row * program.num_lanes * block_size
        max_seconds = math.inf


def _block_size(program: LaneProgram, num_steps: int) -> int:
    return block_size_of(max(num_steps, 1), program.num_lanes, program.num_rows, 1)


def _seconds_left(program: LaneProgram, segment: Segment, block_size: int, num_left: int) -> float:
    """Expected seconds for the last `num_left` steps in blocks, if lanes meet as soon as in `segment`."""
    rows_to_meet = segment.num_evaluations / program.num_lanes - segment.block_size
    num_segments = math.ceil(num_left / (block_size * program.num_lanes))
    return num_segments * (block_size + rows_to_meet) * program.seconds_per_row


def _steps(single_lane: LaneProgram, chain: Chain, run: Run, num_steps: int) -> Iterator[Segment]:
    """The next `num_steps` steps one by one, in segments of at most as many rows as the program records."""
    end = min(run.first + num_steps, chain.num_steps)
    run = run._replace(inputs=chain.run(single_lane).inputs)
    while run.first < end:
        segment = step_by_step(single_lane, run, min(end - run.first, single_lane.num_rows))
        yield segment
        run = run.after(segment)


def _noise_tolerance(program: LaneProgram, run: Run, states: PyTree, atol: float) -> float:
    """The tolerance that allows for rounding errors of the steps, measured on pairs of lanes from `states`."""
    size = min(NOISE_ROWS, program.num_rows)
    lanes = np.arange(program.num_lanes)
    stretch = stretch_of(program, run.parameters, run.inputs(0 * lanes, run.first + size * lanes), states, size)
    scale = program.dynamics.rescaled(run.parameters, lambda: stretch.records[0])
    return meeting_times(program, stretch._replace(parameters=scale), program.num_rows, atol).tolerance(atol)


def _warn_of_little_gain(ratio: float) -> None:
    warn_user(
        "The rest of this chain will be evaluated sequentially: a step of all lanes takes "
        f"{ratio:.3g} times as long as one step, so blocks gain nothing. Try: a device with more parallel capacity.",
        ParallelStallWarning,
    )
