"""Evaluate a user's chain in blocks, or step by step where that is faster or blocks do not meet.

The run itself provides the measurements. The first steps are taken one by one and timed; the first segment of blocks
shows how soon lanes meet and how long a row takes, which is one step of every lane.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.chain.blackjax_chain import AlgorithmDynamics, check_determined_fields
from parsample.chain.transition import Dynamics, sequence_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import Kinds, as_keys, as_words
from parsample.internal.user_warnings import warn_user
from parsample.internal.validation import BATCHING_REMEDY
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.meeting import MEETING_DISTANCE, meeting_times, stretch_of
from parsample.lanes.program import PERIOD, LaneProgram, default_num_lanes
from parsample.lanes.segments import Run, Segment, evaluate_segment, step_by_step
from parsample.planning.plan import DEFAULT_SINGLE_STEP_COST, MAX_COST_RATIO, block_size_of
from parsample.solver.solution import Solution
from parsample.solver.status import ParallelStallWarning, Status

# What is wrong if a state of the chain is not what its position determines.
AFTER_STEPS = "a state after some steps"

# Steps per block of the first segment, which shows how soon lanes meet.
FIRST_BLOCK = 64

# A segment is given up once it takes MAX_COST_RATIO times as long as its steps would take one by one; the first segment
# also once it takes the share MAX_FIRST_SHARE of the time that the rest of the chain would take one by one.
MAX_FIRST_SHARE = 0.2

# Single steps that are timed at the start, unless PERIOD steps take longer than MAX_TIMING_SECONDS.
NUM_TIMED_STEPS, MAX_TIMING_SECONDS = 30 * PERIOD, 0.5

# Blocks gain nothing if a row of all lanes takes more than this share of the time of one single step per lane.
MIN_GAIN = 0.8

# Compilation time for many lanes relative to one lane, and seconds that a run in blocks takes in addition to its rows.
COMPILATION_RATIO, OVERHEAD_SECONDS = 2.0, 0.2

# Rows of the stretch on which pairs of lanes are first compared, to find whether rounding keeps them apart.
NOISE_ROWS = 64

# The warning for an algorithm whose steps cannot be batched over lanes.
WITHOUT_BATCHING = (
    "This chain will be evaluated sequentially: its log density calls back to Python and has no batching rule. Try: "
    f"{BATCHING_REMEDY}"
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
        sequence = sequence_of(dynamics, num_steps, state, rng_key)
        lanes, records = ChainLanes.of(dynamics, state, sequence)
        words = jax.tree.map(lambda leaf: leaf[None], jax.device_get(as_words(state)))
        return cls(lanes, records, words, jax.device_get(as_words(sequence)), mesh)

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return len(jax.tree.leaves(self.sequence)[0])

    def check_state(self, states: PyTree) -> None:
        """Raise unless the recomputed fields of a state, with a leading axis of 1, are those that it carries."""
        state = as_keys(jax.tree.map(lambda leaf: leaf[0], states), self.lanes.state_kinds)
        if isinstance(self.lanes.dynamics, AlgorithmDynamics):
            check_determined_fields(self.lanes.dynamics, state, AFTER_STEPS)

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


class SolutionBuilder:
    """Collects outputs and certificate of a chain, segment by segment.

    Attributes
    ----------
    run
        The chain after the segments added so far: the next one starts there.
    """

    def __init__(self, num_steps: int, run: Run, check: Callable[[PyTree], None]) -> None:
        self.run, self.num_steps, self._check = run, num_steps, check
        self.exact_prefix, self.num_sweeps, self.num_evaluations = 0, 0, 0
        self.outputs: PyTree = None
        self.status, self.defect, self.block_defects = Status.CONVERGED, 0.0, np.zeros((0, 1))
        self.defect_history: list[float] = []

    def add(self, segment: Segment) -> None:
        """Add the next segment, if its last state is what it should be; outputs beyond the last step are dropped."""
        self._check(segment.final)
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
        self.run = self.run.after(segment)

    @property
    def num_left(self) -> int:
        """Number of steps left; 0 if the last segment went beyond the end of the chain."""
        return max(self.num_steps - self.run.num_steps_done, 0)

    def solution(self, state_kinds: Kinds, output_kinds: Kinds) -> Solution:
        """The solution with outputs, final state and certificate.

        `evals_per_step` divides all evaluations by the steps asked for. Steps beyond the last one are evaluations, but
        do not count as steps, which they do in `Segment.evals_per_step`.
        """
        dtype = self.last_segment.path.dtype
        is_complete = self.status in (Status.CONVERGED, Status.SEQUENTIAL)
        outputs = as_keys(jax.device_put(self.outputs), output_kinds)
        final = as_keys(jax.device_put(jax.tree.map(lambda leaf: leaf[0], self.last_segment.final)), state_kinds)
        certificate = {
            "block_ends": np.array(self.last_segment.path[0, -1:]),
            "status": np.array(int(self.status)),
            "defect": np.array(self.defect, dtype),
            "num_iters": np.array(self.num_sweeps),
            "evals_per_step": np.array(self.num_evaluations / self.num_steps, dtype),
            "defect_history": np.array(self.defect_history, dtype),
            "merit_history": np.zeros(0, dtype),
            "prefix_history": np.zeros(0, int),
            "exact_prefix": np.array(self.num_steps if is_complete else self.exact_prefix),
            "block_defects": self.block_defects.astype(dtype),
        }
        return Solution(states=None, outputs=outputs, final=final, **jax.device_put(certificate))


def evaluate_chain(
    dynamics: Dynamics, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None, *, may_end_blocks: bool
) -> Solution:
    """Evaluate the chain in blocks; with `may_end_blocks`, step by step as soon as that is expected to be faster."""
    chain = Chain.of(dynamics, state, rng_key, num_steps, mesh)
    program, single_lane = chain.program(default_num_lanes()), chain.program(1)
    builder = SolutionBuilder(num_steps, chain.run(program), chain.check_state)
    if may_end_blocks:
        _add_timed_steps(builder, single_lane, chain)
    # Each process times the single lane by itself, so all processes use the times of the first.
    times = np.array([single_lane.seconds_to_compile, single_lane.seconds_per_row])
    compile_seconds, seconds_per_step = (float(value) for value in broadcast_from_first(mesh, times))
    if not may_end_blocks or _may_pay(program, compile_seconds, builder.num_left * seconds_per_step):
        try:
            _add_blocks(builder, program, seconds_per_step if may_end_blocks else math.inf)
        except NotImplementedError as error:
            warn_user(f"{WITHOUT_BATCHING} ({error}).", ParallelStallWarning)
    _add_steps(builder, single_lane, chain, builder.num_left)
    return builder.solution(chain.lanes.state_kinds, chain.lanes.output_kinds)


def _add_timed_steps(builder: SolutionBuilder, single_lane: LaneProgram, chain: Chain) -> None:
    """Add the first steps, taken one by one to measure the time per step."""
    # The first call compiles.
    _add_steps(builder, single_lane, chain, PERIOD)
    begin = time.perf_counter()
    _add_steps(builder, single_lane, chain, PERIOD)
    elapsed = broadcast_from_first(chain.mesh, np.float64(time.perf_counter() - begin))
    if elapsed < MAX_TIMING_SECONDS:
        _add_steps(builder, single_lane, chain, NUM_TIMED_STEPS)


def _add_steps(builder: SolutionBuilder, single_lane: LaneProgram, chain: Chain, num_steps: int) -> None:
    """Add the next `num_steps` steps one by one, in segments of at most as many rows as the program records."""
    end = min(builder.run.num_steps_done + num_steps, chain.num_steps)
    inputs = chain.run(single_lane).inputs
    while builder.run.num_steps_done < end:
        num_rows = min(end - builder.run.num_steps_done, single_lane.num_rows)
        builder.add(step_by_step(single_lane, builder.run._replace(inputs=inputs), num_rows))


def _may_pay(program: LaneProgram, compile_seconds: float, sequential_seconds: float) -> bool:
    """Whether blocks could be faster than single steps, which take `sequential_seconds` for the rest of the chain.

    The time per row of all lanes is unknown before their program is compiled, which takes longer than the
    `compile_seconds` of one lane.
    """
    is_compiled = math.isfinite(program.seconds_to_compile)
    overhead = OVERHEAD_SECONDS if is_compiled else COMPILATION_RATIO * compile_seconds
    return overhead + sequential_seconds / (DEFAULT_SINGLE_STEP_COST * program.num_lanes) < sequential_seconds


@dataclass(frozen=True)
class Budget:
    """Limits of a segment in blocks, beyond which it is given up.

    Attributes
    ----------
    max_rows, max_seconds
        Rows of all its sweeps, and seconds that they take.
    """

    max_rows: float
    max_seconds: float

    @classmethod
    def of_first_segment(cls, num_lanes: int, block_size: int, num_left: int, seconds_per_step: float) -> "Budget":
        """Limits before rows have been timed, by the default cost of a single step; `num_left` steps are left."""
        max_rows = MAX_COST_RATIO * DEFAULT_SINGLE_STEP_COST * num_lanes * block_size
        max_seconds = OVERHEAD_SECONDS + MAX_FIRST_SHARE * num_left * seconds_per_step
        return cls(math.inf if math.isinf(seconds_per_step) else max_rows, max_seconds)

    @classmethod
    def from_times(cls, program: LaneProgram, block_size: int, seconds_per_step: float) -> "Budget":
        """Limits by the measured times of a row of all lanes and of a single step."""
        max_rows = MAX_COST_RATIO * seconds_per_step / program.seconds_per_row * program.num_lanes * block_size
        return cls(max_rows, math.inf)


def _add_blocks(builder: SolutionBuilder, program: LaneProgram, seconds_per_step: float) -> None:
    """Add blocks, until the chain ends, blocks stall, or single steps of `seconds_per_step` are faster."""
    atol, is_noise_known = MEETING_DISTANCE[str(program.dtype)], False
    guesses = jax.tree.map(lambda leaf: np.repeat(leaf, program.num_lanes, axis=0), builder.run.states)
    block_size = min(FIRST_BLOCK, _block_size(program, builder.num_left))
    budget = Budget.of_first_segment(program.num_lanes, block_size, builder.num_left, seconds_per_step)
    while builder.num_left:
        segment, guesses = evaluate_segment(
            program, builder.run, guesses, block_size, atol, budget.max_rows, budget.max_seconds
        )
        builder.add(segment)
        if segment.status is Status.STALLED:
            larger_atol = None if is_noise_known else _larger_tolerance(program, builder.run, guesses, atol, budget)
            if larger_atol is None:
                # Blocks do not meet in time, and a larger tolerance would not help.
                return
            atol, is_noise_known = larger_atol, True
            continue
        num_left = builder.num_left
        block_size = _block_size(program, num_left)
        if _seconds_left(program, segment, block_size, num_left) > num_left * seconds_per_step:
            # Blocks meet, but single steps are expected to be faster.
            _warn_of_little_gain(program, seconds_per_step)
            return
        budget = Budget.from_times(program, block_size, seconds_per_step)


def _larger_tolerance(program: LaneProgram, run: Run, states: PyTree, atol: float, budget: Budget) -> float | None:
    """A tolerance above `atol` that allows for rounding errors of the steps, measured on pairs of lanes from `states`.

    None if rounding is not what keeps lanes apart, or if the measurement would take too long.
    """
    if program.num_rows * program.seconds_per_row > budget.max_seconds:
        return None
    size = min(NOISE_ROWS, program.num_rows)
    lanes = np.arange(program.num_lanes)
    inputs = run.inputs(0 * lanes, run.num_steps_done + size * lanes)
    stretch = stretch_of(program, run.parameters, inputs, states, size)
    scale = program.dynamics.with_estimated_scale(run.parameters, lambda: stretch.records[0])
    meeting = meeting_times(program, stretch._replace(parameters=scale), program.num_rows, atol)
    tolerance = meeting.tolerance(atol)
    return tolerance if tolerance > atol else None


def _block_size(program: LaneProgram, num_steps: int) -> int:
    return block_size_of(max(num_steps, 1), program.num_lanes, program.num_rows, 1)


def _seconds_left(program: LaneProgram, segment: Segment, block_size: int, num_left: int) -> float:
    """Expected seconds for the last `num_left` steps in blocks, if lanes meet as soon as in `segment`."""
    rows_to_meet = segment.num_evaluations / program.num_lanes - segment.block_size
    num_segments = math.ceil(num_left / (block_size * program.num_lanes))
    return num_segments * (block_size + rows_to_meet) * program.seconds_per_row


def _warn_of_little_gain(program: LaneProgram, seconds_per_step: float) -> None:
    """Warn if a step of all lanes takes almost as long as the same steps one by one."""
    if program.seconds_per_row > MIN_GAIN * program.num_lanes * seconds_per_step:
        ratio = program.seconds_per_row / seconds_per_step
        warn_user(
            "The rest of this chain will be evaluated sequentially: a step of all lanes takes "
            f"{ratio:.3g} times as long as one step, so blocks gain nothing. Try: a device with more parallel "
            "capacity.",
            ParallelStallWarning,
        )
