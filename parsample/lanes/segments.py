"""Chains in blocks: one segment of every chain at once, one block per lane, repeated until the blocks meet.

All blocks of a segment are evaluated from guesses of their first states. A block that did not start where the one
before it ended is run again from there, over its old path, until it meets that path; the rest of the old path is kept.
When every block starts where the one before it ends, the segment is one chain. After k sweeps the first k blocks are
exact for any guesses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from parsample.internal.trees import take
from parsample.lanes.program import AdvanceResult, LaneProgram, Rows, where_lanes
from parsample.solver.status import Status

# Number of first sweeps whose block defects are kept, for the plot of the advancing exact front.
NUM_RECORDED_SWEEPS = 8


class Segment(NamedTuple):
    """Consecutive steps of all chains.

    Attributes
    ----------
    first, num_steps
        Number of steps of each chain before the segment, and in it.
    path
        Positions, shape (chains, steps, D).
    outputs
        Outputs of the steps, leading axes (chains, steps).
    final
        State of each chain after the segment, leading axis (chains,).
    status
        CONVERGED; STALLED if blocks were given up and only the exact part is kept; else SEQUENTIAL or NON_FINITE.
    defect
        Largest jump between or inside blocks, in standard deviations.
    num_sweeps
        Number of sweeps over the blocks.
    num_evaluations
        Number of steps evaluated, over all lanes.
    block_defects
        Jump at the start of each block of the first chain after each of the first sweeps, shape (sweeps, blocks).
    block_size
        Steps per block; the whole segment if sequential.
    """

    first: int
    num_steps: int
    path: Float[np.ndarray, "K n D"]
    outputs: PyTree
    final: PyTree
    status: Status
    defect: float
    num_sweeps: int
    num_evaluations: int
    block_defects: Float[np.ndarray, "F B"]
    block_size: int

    @property
    def evals_per_step(self) -> float:
        """Evaluations of the kernel per step of the segment; infinite for a segment without exact steps.

        Steps of the last segment may lie beyond the last one asked for. They count as steps here; the `evals_per_step`
        of a `Solution` divides by the steps asked for.
        """
        num_steps = len(self.path) * self.num_steps
        return self.num_evaluations / num_steps if num_steps else math.inf

    def without_draws(self) -> "Segment":
        """The segment without path, outputs and final states, for the record."""
        return self._replace(path=np.empty_like(self.path[:, :0]), outputs=None, final=None)


class Run(NamedTuple):
    """Parameters, inputs and present states of a run of chains.

    Attributes
    ----------
    parameters
        Common to all chains.
    inputs
        ``inputs(chain, first_step)``: inputs of lanes that run these chains from these steps on.
    states
        States of the chains, leading axis K.
    num_steps_done
        Number of steps done.
    """

    parameters: Any
    inputs: Callable[[Int[np.ndarray, " L"], Int[np.ndarray, " L"]], PyTree]
    states: PyTree
    num_steps_done: int = 0

    @property
    def num_chains(self) -> int:
        """Number of chains K."""
        return len(jax.tree.leaves(self.states)[0])

    def after(self, segment: Segment) -> "Run":
        """The run after one more segment."""
        return self._replace(num_steps_done=self.num_steps_done + segment.num_steps, states=segment.final)


def advance_in_chunks(
    program: LaneProgram, parameters: Any, inputs: PyTree, state: PyTree, rows: Rows
) -> AdvanceResult:
    """Evaluate rows of all lanes, without restoring states, in calls short enough for progress and interrupts."""
    running, start = np.ones(program.num_lanes, bool), rows.begin
    ends, distance = np.full(program.num_lanes, start), np.zeros(program.num_lanes)
    while running.any() and start < rows.end:
        stop = min(rows.end, start + program.rows_per_call)
        # Devices that have left get no more rows.
        result = program.advance(parameters, inputs, state, rows._replace(begin=start, end=stop), running)
        state = result.state
        ends, distance = (
            np.where(running, new, old)
            for new, old in zip((result.ends, result.distance), (ends, distance), strict=True)
        )
        running, start = running & ~result.stopped_early, stop
    return AdvanceResult(state, ends, ~running, distance)


class BlockLayout(NamedTuple):
    """Assignment of blocks to lanes: block c of chain k is lane ``k num_blocks + c``.

    Attributes
    ----------
    num_chains, num_blocks, block_size
        Number of chains, blocks per chain in a segment, and steps per block.
    inputs
        Inputs of each lane, leading axis L.
    """

    num_chains: int
    num_blocks: int
    block_size: int
    inputs: PyTree

    @classmethod
    def of(cls, run: Run, num_lanes: int, block_size: int) -> "BlockLayout":
        """The layout of the next segment of a run, with as many blocks as lanes."""
        num_blocks = num_lanes // run.num_chains
        first_steps = run.num_steps_done + block_size * np.tile(np.arange(num_blocks), run.num_chains)
        inputs = run.inputs(np.repeat(np.arange(run.num_chains), num_blocks), first_steps)
        return cls(run.num_chains, num_blocks, block_size, inputs)

    @property
    def first_lanes(self) -> Int[np.ndarray, " K"]:
        """Lane of the first block of each chain."""
        return np.arange(self.num_chains) * self.num_blocks

    def incoming_states(self, run: Run, ends: PyTree) -> PyTree:
        """State at which each block should start: the end of the block before it, or the state of its chain."""

        def one(chain_state: np.ndarray, values: np.ndarray) -> np.ndarray:
            blocks = values.reshape(self.num_chains, self.num_blocks, *values.shape[1:])
            shifted = np.concatenate([chain_state[:, None], blocks[:, :-1]], axis=1)
            return shifted.reshape(values.shape)

        return jax.tree.map(one, run.states, ends)

    def in_chain_order(self, values: np.ndarray) -> np.ndarray:
        """Rearrange rows of lanes, leading axes (n, L), into steps of chains, leading axes (K, B n)."""
        num_rows, _, *rest = values.shape
        lanes = values.reshape(num_rows, self.num_chains, self.num_blocks, *rest)
        return np.moveaxis(lanes, 0, 2).reshape(self.num_chains, self.num_blocks * num_rows, *rest)

    def num_exact(self, met: Bool[np.ndarray, " L"]) -> int:
        """Number of leading blocks that start, in every chain, where the block before them ended."""
        exact = met.reshape(self.num_chains, self.num_blocks).all(0)
        return self.num_blocks if exact.all() else int(np.argmin(exact))


@dataclass
class _Blocks:
    """The blocks of one segment, evaluated in sweeps.

    Attributes
    ----------
    program, run, layout, atol
        As in `evaluate_segment`.
    starts, ends, incoming
        State at which each block starts and ends, and at which it should start, leading axis (L,); the last two are
        None before the first sweep.
    jumps
        Distance of each start from where it should be, for every sweep, each of shape (L,).
    defect
        Largest difference at a step where a sweep met the path of the sweep before.
    num_rows, num_evaluations
        Rows of all sweeps, and steps evaluated over all lanes.
    """

    program: LaneProgram
    run: Run
    layout: BlockLayout
    atol: float
    starts: PyTree
    ends: PyTree | None = None
    incoming: PyTree | None = None
    jumps: list[Float[np.ndarray, " L"]] = field(default_factory=list)
    defect: float = 0.0
    num_rows: int = 0
    num_evaluations: int = 0

    @classmethod
    def of(cls, program: LaneProgram, run: Run, guesses: PyTree, block_size: int, atol: float) -> "_Blocks":
        """The blocks of the next segment of `run`, which start at `guesses`, the first of each chain at its state."""
        layout = BlockLayout.of(run, program.num_lanes, block_size)
        starts = jax.tree.map(np.array, guesses)
        for leaf, chain_state in zip(jax.tree.leaves(starts), jax.tree.leaves(run.states), strict=True):
            leaf[layout.first_lanes] = chain_state
        return cls(program, run, layout, atol, starts)

    def sweep(self, parameters: Any, *, may_stop_early: bool) -> None:
        """Run all blocks from their starts; with `may_stop_early`, until all have met their old paths."""
        size = self.layout.block_size
        rows = Rows(0, size, False, may_stop_early, self.atol)
        result = advance_in_chunks(self.program, parameters, self.layout.inputs, self.starts, rows)
        # A lane that stopped early keeps its old end: it met the path that leads there.
        has_new_end = (result.ends == size) & ~result.stopped_early
        self.ends = result.state if self.ends is None else where_lanes(has_new_end, result.state, self.ends)
        self.defect = max(self.defect, float(np.max(result.distance[result.stopped_early], initial=0)))
        self.num_rows += int(result.ends.max())
        self.num_evaluations += int(result.ends.sum())

    def compare(self, parameters: Any) -> Bool[np.ndarray, " L"]:
        """Whether each block starts where the block before it ended."""
        self.incoming = self.layout.incoming_states(self.run, self.ends)
        jumps, met = self.program.dynamics.joined(parameters, self.atol, self.incoming, self.starts)
        self.jumps.append(jumps)
        return met

    def cannot_meet(self, met: Bool[np.ndarray, " L"]) -> bool:
        """Whether further sweeps cannot help: the exact prefix ends in NaN, or every block has had its sweep."""
        # NaN differs from itself. After k sweeps the first k blocks are exact, unless a state is not finite.
        ends = self._ends_of_exact_prefix(self.layout.num_exact(met))
        has_nan = any(np.isnan(leaf).any() for leaf in jax.tree.leaves(ends) if leaf.dtype.kind == "f")
        return has_nan or len(self.jumps) > self.layout.num_blocks

    def _ends_of_exact_prefix(self, num_blocks: int) -> PyTree:
        """State of each chain after its first `num_blocks` blocks."""
        return take(self.ends, self.layout.first_lanes + num_blocks - 1) if num_blocks else self.run.states

    def restart(self, met: Bool[np.ndarray, " L"]) -> None:
        """Move the starts of blocks that have not met to where the blocks before them ended."""
        # Blocks that start within the tolerance keep their starts: a new start would change paths that have met.
        self.starts = where_lanes(met, self.starts, self.incoming)

    def segment(self, met: Bool[np.ndarray, " L"]) -> Segment:
        """The segment, or its exact part if not all blocks have met."""
        layout, size = self.layout, self.layout.block_size
        num_blocks = layout.num_exact(met)
        path, outputs = jax.tree.map(
            lambda leaf: layout.in_chain_order(leaf)[:, : num_blocks * size], self.program.recorded(0, size)
        )
        return Segment(
            first=self.run.num_steps_done,
            num_steps=num_blocks * size,
            path=path,
            outputs=outputs,
            final=self._ends_of_exact_prefix(num_blocks),
            status=Status.CONVERGED if met.all() else Status.STALLED,
            defect=max(self.defect, float(np.max(self.jumps[-1][met], initial=0))),
            num_sweeps=len(self.jumps),
            num_evaluations=self.num_evaluations,
            block_defects=np.array([jumps[: layout.num_blocks] for jumps in self.jumps[:NUM_RECORDED_SWEEPS]]),
            block_size=size,
        )


def evaluate_segment(
    program: LaneProgram,
    run: Run,
    guesses: PyTree,
    block_size: int,
    atol: float,
    max_rows: float,
    max_seconds: float = math.inf,
) -> tuple[Segment, PyTree]:
    """Evaluate one segment of every chain in blocks.

    Parameters
    ----------
    program
        Program with one lane for each block of all chains.
    run
        The run before the segment.
    guesses
        States typical of the chain, leading axis (L,).
    block_size
        Steps per block.
    atol
        Largest difference of states that count as equal, in standard deviations; 0: bitwise.
    max_rows
        Rows after which a step-by-step evaluation is cheaper: sweeps stop, and only the exact part is returned.
    max_seconds
        The same limit in seconds, for a program whose rows have not been timed before.

    Returns
    -------
    segment
    ends
        States at the block ends, leading axis (L,): guesses for the next segment.
    """
    blocks = _Blocks.of(program, run, guesses, block_size, atol)
    blocks.sweep(run.parameters, may_stop_early=False)
    while True:
        parameters = program.dynamics.with_estimated_scale(run.parameters, lambda: program.path(0, block_size))
        met = blocks.compare(parameters)
        seconds = blocks.num_rows * program.seconds_per_row
        if met.all() or blocks.cannot_meet(met) or blocks.num_rows > max_rows or seconds > max_seconds:
            return blocks.segment(met), blocks.ends
        blocks.restart(met)
        blocks.sweep(parameters, may_stop_early=True)


def step_by_step(program: LaneProgram, run: Run, num_steps: int) -> Segment:
    """Evaluate the next steps of every chain, with one lane per chain."""
    layout = BlockLayout.of(run, program.num_lanes, num_steps)
    rows = Rows(0, num_steps, False, False, 0.0)
    result = advance_in_chunks(program, run.parameters, layout.inputs, run.states, rows)
    path, outputs = jax.tree.map(layout.in_chain_order, program.recorded(0, num_steps))
    finite = np.isfinite(path).all()
    return Segment(
        first=run.num_steps_done,
        num_steps=num_steps,
        path=path,
        outputs=outputs,
        final=result.state,
        status=Status.SEQUENTIAL if finite else Status.NON_FINITE,
        defect=0.0,
        num_sweeps=1,
        num_evaluations=num_steps * run.num_chains,
        block_defects=np.zeros((0, 1)),
        block_size=num_steps,
    )
