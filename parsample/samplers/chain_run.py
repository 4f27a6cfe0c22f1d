"""A user's chain in blocks, evaluated until they meet; step by step where that is faster, or blocks do not meet.

Nothing is run for the plan alone. The first steps are taken one by one and timed; the first segment of blocks shows how
long a row of lanes takes, and how soon lanes meet.
"""

import math
import time
import warnings
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
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.meeting import MEETING_DISTANCE, meeting_times, stretch_of
from parsample.lanes.program import PERIOD, LaneProgram, default_num_lanes
from parsample.lanes.segments import Run, Segment, evaluate_segment, step_by_step
from parsample.planning.plan import SHARE_OF_OVERHEAD, block_size_of
from parsample.solver.solution import Solution, sequential_solution
from parsample.solver.status import ParallelStallWarning, Status

# Steps of a block in the first segment, which shows how soon lanes meet.
FIRST_BLOCK = 64

# A segment is given up once it has taken this multiple of the time that single steps are expected to take; the first
# one also after this share of the time that they need for the whole rest of the chain.
PATIENCE, MAX_SHARE_OF_FIRST = 2.0, 0.2

# Single steps taken first, in three rounds: to compile, to find how many fit into a call, to time them. After
# this many seconds no further round begins.
TIMED_STEPS, SECONDS_TO_TIME = (PERIOD, PERIOD, 30 * PERIOD), 0.5

# A row of lanes that takes more than this share of the time of as many single steps gains nothing.
MIN_GAIN = 0.8

# Time to compile many lanes over that for one lane; and seconds that a run in blocks takes beside its rows.
COMPILATION_RATIO, SECONDS_BESIDE = 2.0, 0.2

# Rows after which pairs of lanes are compared for the first time, to see whether rounding keeps them apart.
NOISE_ROWS = 64


# The warning for an algorithm whose steps cannot be evaluated side by side.
WITHOUT_BATCHING = (
    "This chain will be evaluated sequentially: its log density calls back to Python and has no batching rule. Try: "
    "jax.pure_callback(..., vmap_method='expand_dims') and a function that takes leading axes"
)


@dataclass(frozen=True)
class Chain:
    """A user's chain, as lanes take it.

    Attributes
    ----------
    lanes
        What they evaluate.
    records
        Shapes of what a row of a lane leaves.
    state
        The initial state, with keys as words and a leading axis of 1.
    sequence
        Inputs of all steps, with keys as words, on the host.
    mesh
        Devices that share the lanes.
    """

    lanes: ChainLanes
    records: tuple[Any, PyTree]
    state: PyTree
    sequence: PyTree
    mesh: Mesh | None

    @classmethod
    def of(cls, dynamics: Dynamics, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None) -> "Chain":
        """The chain of `rng_key` from `state`."""
        sequence = _sequence(dynamics, num_steps, state, rng_key)
        lanes, records = ChainLanes.of(dynamics, state, sequence)
        words = jax.tree.map(lambda leaf: np.asarray(leaf)[None], as_words(state))
        return cls(lanes, records, words, jax.tree.map(np.asarray, as_words(sequence)), mesh)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(jax.tree.leaves(self.sequence)[0])

    def program(self, num_lanes: int) -> LaneProgram:
        """The compiled program for `num_lanes` lanes."""
        return LaneProgram(self.lanes, num_lanes, self.mesh if num_lanes > 1 else None, self.records)

    def run(self, program: LaneProgram) -> Run:
        """The chain at its first step."""

        def inputs(_: np.ndarray, first_steps: np.ndarray) -> PyTree:
            steps = first_steps[:, None] + np.arange(program.num_rows)
            words = jax.tree.map(lambda leaf: leaf[np.minimum(steps, self.num_steps - 1)], self.sequence)
            return words, steps < self.num_steps

        return Run(np.ones(self.records[0].shape, program.dtype), inputs, self.state)


@jit_with_xla_options(0, 1)
def _sequence(dynamics: Dynamics, num_steps: int, state: PyTree, rng_key: Array) -> PyTree:
    return dynamics(state, rng_key, num_steps)[1].sequence


class Found:
    """The chain as far as it is found: outputs of its steps, and figures for the certificate."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.num_exact, self.num_sweeps, self.num_evaluations = num_steps, 0, 0, 0
        self.outputs: PyTree = None
        self.status, self.defect, self.fronts = Status.CONVERGED, 0.0, np.zeros((0, 1))
        self.defects: list[float] = []

    def add(self, segment: Segment) -> None:
        """Copy the outputs of a segment to their place; what lies beyond the last step is dropped."""
        if self.outputs is None:
            self.outputs = jax.tree.map(
                lambda leaf: np.empty((self.num_steps, *leaf.shape[2:]), leaf.dtype), segment.outputs
            )
        end = min(segment.first + segment.num_steps, self.num_steps)
        for place, leaf in zip(jax.tree.leaves(self.outputs), jax.tree.leaves(segment.outputs), strict=True):
            place[segment.first : end] = leaf[0, : end - segment.first]
        self.status, self.defect = max(self.status, segment.status), max(self.defect, segment.defect)
        self.num_evaluations += segment.num_evaluations
        self.last = segment._replace(path=segment.path[:, -1:], outputs=None)
        if segment.status is not Status.SEQUENTIAL:
            self.num_exact, self.num_sweeps = end, self.num_sweeps + segment.num_sweeps
            self.defects += [float(row.max()) for row in segment.block_defects]
            self.fronts = self.fronts if len(self.fronts) else segment.block_defects

    def solution(self, state_kinds: Kinds, output_kinds: Kinds) -> Solution:
        """The chain and its certificate."""
        dtype = self.last.path.dtype
        is_whole = self.status in (Status.CONVERGED, Status.SEQUENTIAL)
        outputs = as_keys(jax.device_put(self.outputs), output_kinds)
        final = as_keys(jax.device_put(jax.tree.map(lambda leaf: leaf[0], self.last.final)), state_kinds)
        figures = {
            "status": np.array(int(self.status)),
            "defect": np.array(self.defect, dtype),
            "num_iters": np.array(self.num_sweeps),
            "evals_per_step": np.array(self.num_evaluations / self.num_steps, dtype),
            "defect_history": np.array(self.defects, dtype),
            "exact_prefix": np.array(self.num_steps if is_whole else self.num_exact),
            "block_defects": self.fronts.astype(dtype),
        }
        rolled = sequential_solution(jnp.asarray(self.last.path[0, -1]), True, self.num_steps, outputs, final)
        return rolled._replace(**jax.device_put(figures))


def evaluate_chain(
    dynamics: Dynamics, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None, *, may_stop: bool
) -> Solution:
    """The chain in blocks; with `may_stop`, step by step from where that is expected to be faster."""
    chain = Chain.of(dynamics, state, rng_key, num_steps, mesh)
    found = Found(num_steps)
    for segment in _segments(chain, may_stop):
        found.add(segment)
    return found.solution(chain.lanes.state_kinds, chain.lanes.output_kinds)


def _segments(chain: Chain, may_stop: bool) -> Iterator[Segment]:
    """Segments in blocks as long as that goes well, else step by step."""
    program, solo = chain.program(default_num_lanes()), chain.program(1)
    run = chain.run(program)
    if may_stop:
        for segment in _timed_steps(solo, chain, run):
            yield segment
            run = run.after(segment)
    # A lane alone runs in every process by itself: what it took must be agreed on.
    to_compile, per_step = broadcast_from_first(chain.mesh, np.array([solo.seconds_to_compile, solo.seconds_per_row]))
    if not may_stop or _may_pay(program, float(to_compile), (chain.num_steps - run.first) * float(per_step)):
        try:
            for segment in _blocks(program, chain, run, float(per_step) if may_stop else math.inf):
                yield segment
                run = run.after(segment)
        except NotImplementedError as error:
            warnings.warn(f"{WITHOUT_BATCHING} ({error}).", ParallelStallWarning, stacklevel=6)
    yield from _steps(solo, chain, run, chain.num_steps)


def _timed_steps(solo: LaneProgram, chain: Chain, run: Run) -> Iterator[Segment]:
    """The first steps one by one, enough of them to know what one takes."""
    begin = time.perf_counter()
    for num_steps in TIMED_STEPS:
        if (
            run.first == 0
            or broadcast_from_first(chain.mesh, np.float64(time.perf_counter() - begin)) < SECONDS_TO_TIME
        ):
            for segment in _steps(solo, chain, run, num_steps):
                yield segment
                run = run.after(segment)
        begin = time.perf_counter() if run.first == PERIOD else begin


def _may_pay(program: LaneProgram, to_compile_one: float, step_by_step: float) -> bool:
    """Whether blocks could be faster than single steps, which take `step_by_step` seconds for the rest of the chain.

    Seconds of a row of all lanes are not known before these are compiled, which takes longer than `to_compile_one`, the
    seconds for one lane.
    """
    is_compiled = math.isfinite(program.seconds_to_compile)
    beside = SECONDS_BESIDE if is_compiled else COMPILATION_RATIO * to_compile_one
    return beside + step_by_step / (SHARE_OF_OVERHEAD * program.num_lanes) < step_by_step


def _blocks(program: LaneProgram, chain: Chain, run: Run, seconds_per_step: float) -> Iterator[Segment]:
    """Segments in blocks, to the end of the chain or until single steps of `seconds_per_step` are faster."""
    atol, knows_noise = MEETING_DISTANCE[str(program.dtype)], False
    guesses = jax.tree.map(lambda leaf: np.repeat(leaf, program.num_lanes, axis=0), run.states)
    block_size = min(FIRST_BLOCK, _block_size(program, chain.num_steps - run.first))
    limit = math.inf if math.isinf(seconds_per_step) else PATIENCE * SHARE_OF_OVERHEAD * program.num_lanes * block_size
    max_seconds = SECONDS_BESIDE + MAX_SHARE_OF_FIRST * (chain.num_steps - run.first) * seconds_per_step
    while run.first < chain.num_steps:
        segment, guesses = evaluate_segment(program, run, guesses, block_size, atol, limit, max_seconds)
        yield segment
        run = run.after(segment)
        if segment.status is Status.STALLED:
            is_final = knows_noise or program.num_rows * program.seconds_per_row > max_seconds
            tolerance = atol if is_final else _noise_tolerance(program, run, guesses, atol)
            if tolerance == atol:
                return
            atol, knows_noise = tolerance, True
            continue
        num_left = max(chain.num_steps - run.first, 0)
        block_size = _block_size(program, num_left)
        seconds_in_blocks = _seconds_left(program, segment, block_size, num_left)
        if seconds_in_blocks > num_left * seconds_per_step:
            if program.seconds_per_row > MIN_GAIN * program.num_lanes * seconds_per_step:
                _warn_of_little_gain(program.seconds_per_row / seconds_per_step)
            return
        limit = PATIENCE * seconds_per_step / program.seconds_per_row * program.num_lanes * block_size
        max_seconds = math.inf


def _block_size(program: LaneProgram, num_steps: int) -> int:
    return block_size_of(max(num_steps, 1), program.num_lanes, program.num_rows, 1)


def _seconds_left(program: LaneProgram, segment: Segment, block_size: int, num_left: int) -> float:
    """Expected seconds for the rest in blocks, if lanes meet as soon as in the last segment."""
    rows_to_meet = segment.num_evaluations / program.num_lanes - segment.block_size
    num_segments = math.ceil(num_left / (block_size * program.num_lanes))
    return num_segments * (block_size + rows_to_meet) * program.seconds_per_row


def _steps(solo: LaneProgram, chain: Chain, run: Run, num_steps: int) -> Iterator[Segment]:
    """The next `num_steps` steps one by one, in segments of at most as many rows as the program records."""
    end = min(run.first + num_steps, chain.num_steps)
    run = run._replace(inputs=chain.run(solo).inputs)
    while run.first < end:
        segment = step_by_step(solo, run, min(end - run.first, solo.num_rows))
        yield segment
        run = run.after(segment)


def _noise_tolerance(program: LaneProgram, run: Run, states: PyTree, atol: float) -> float:
    """The tolerance that the rounding of this kernel's steps asks for, by pairs of lanes from these states."""
    size = min(NOISE_ROWS, program.num_rows)
    lanes = np.arange(program.num_lanes)
    stretch = stretch_of(program, run.parameters, run.inputs(0 * lanes, run.first + size * lanes), states, size)
    scale = program.dynamics.rescaled(run.parameters, lambda: stretch.records[0])
    return meeting_times(program, stretch._replace(parameters=scale), program.num_rows, atol).tolerance(atol)


def _warn_of_little_gain(ratio: float) -> None:
    warnings.warn(
        "The rest of this chain will be evaluated sequentially: a step of all lanes takes "
        f"{ratio:.3g} times as long as one step, and blocks gain nothing. Try: a device with more parallel capacity.",
        ParallelStallWarning,
        stacklevel=8,
    )
