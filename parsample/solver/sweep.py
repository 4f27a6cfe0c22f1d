"""The block sweep: all blocks run in parallel from their starts, in lockstep."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Inputs, Transition
from parsample.internal.arithmetic import ceil_div
from parsample.internal.devices import Collectives
from parsample.internal.trees import entry, write, zeros
from parsample.solver.grid import Grid
from parsample.solver.linearization import Linearization, Tangents, Zero, push_forward
from parsample.solver.tolerance import Tolerance

# Devices that share a sweep synchronise this many times in it: XLA ends a process in which one device waits for another
# for a minute.
NUM_STRETCHES = 8

# On a CPU, lanes with tangents are evaluated in tiles of this many evaluations, tangents included: a step of thousands
# of lanes, each with one intermediate value per datum, would go through main memory at every operation.
EVALUATIONS_AT_ONCE = 512


class Lanes(NamedTuple):
    """Result of a sweep over C blocks of b steps.

    Attributes
    ----------
    path
        Reduced state after each step, shape (b, C, D).
    outputs
        Outputs of each step, leading axes (b, C).
    carries
        Carry at the end of each block, leading axis C.
    output_tangents
        Tangents of the block ends in the reduced state, shape (C, P, D).
    """

    path: Float[Array, "b C D"]
    outputs: PyTree
    carries: PyTree
    output_tangents: Float[Array, "C P D"]


class Join(NamedTuple):
    """Step at which each block stopped re-evaluating and kept the previous sweep's path.

    Attributes
    ----------
    step
        Number of re-evaluated leading steps of each block, shape (C,).
    difference
        New minus old state of each block after that step, shape (C, D); 0 if there is no jump.
    state
        New state of each block after that step, shape (C, D).
    """

    step: Int[Array, " C"]
    difference: Float[Array, "C D"]
    state: Float[Array, "C D"]

    @classmethod
    def none(cls, starts: Float[Array, "C D"]) -> "Join":
        """The join of blocks that were never left early."""
        return cls(jnp.zeros(starts.shape[:1], int), jnp.zeros_like(starts), starts)

    @property
    def join_step(self) -> Int[Array, " C"]:
        """Steps before the jump; 0 if there is none."""
        return jnp.where(jnp.any(self.difference != 0, axis=-1), self.step, 0)

    def updated(self, step: Int[Array, ""], difference: Float[Array, "C D"], state: Float[Array, "C D"]) -> "Join":
        """The join of blocks left at `step`; blocks that reproduced the old path up to there keep their later join."""
        stays = jnp.all(difference == 0, axis=-1) & (step <= self.join_step)
        return _where(stays, self, Join(jnp.full_like(self.step, step), difference, state))


def _where(flags: Bool[Array, " C"], chosen: PyTree, other: PyTree) -> PyTree:
    """Entries of `chosen` where flags along the leading axis are set, entries of `other` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(flags.reshape(-1, *[1] * (a.ndim - 1)), a, b), chosen, other)


def _side_by_side(function: Callable, tile: int | None, *arguments: PyTree) -> Any:
    """`function` mapped over all lanes at once; on a CPU, over at most `tile` lanes at a time (None: all)."""
    if tile is None or jax.tree.leaves(arguments)[0].shape[0] <= tile:
        return jax.vmap(function)(*arguments)

    def in_tiles(*arguments: PyTree) -> Any:
        return jax.lax.map(lambda lane: function(*lane), arguments, batch_size=tile)

    return jax.lax.platform_dependent(*arguments, cpu=in_tiles, default=jax.vmap(function))


class _Run(NamedTuple):
    """State of a sweep after `step` steps of every block."""

    step: Int[Array, ""]
    left: Bool[Array, ""]  # whether all blocks were left early
    met: Bool[Array, " C"]  # whether each block may be left
    difference: Float[Array, "C D"]  # new minus old states
    states: Float[Array, "C D"]
    moving: tuple[PyTree, list]  # carries and tangents
    path: Float[Array, "b C D"]
    outputs: PyTree


@dataclass(frozen=True)
class Sweep:
    """One chain's block sweep on one device, ready to be run from any block starts.

    Attributes
    ----------
    transition, linearization
        The chain, and the approximation of its block Jacobians.
    inputs
        Inputs of this device's lanes: a sequence with leading axes (b, C).
    grid, collectives
        The arrangement of steps in blocks, and the devices that share them.
    tangent_seeds
        Tangents to push through every block, shape (P, D).
    """

    transition: Transition
    linearization: Linearization
    inputs: Inputs
    grid: Grid
    collectives: Collectives
    tangent_seeds: Tangents

    @property
    def first_lane(self) -> Int[Array, ""] | int:
        """Number of the first block of this device."""
        return self.collectives.rank * self.grid.lanes_per_device

    @property
    def _tile(self) -> int | None:
        num_tangents = self.tangent_seeds.shape[0]
        return max(1, EVALUATIONS_AT_ONCE // (1 + num_tangents)) if num_tangents else None

    def __call__(
        self, starts: Float[Array, "C D"], lanes: Lanes, tolerance: Tolerance, join: Join
    ) -> tuple[Lanes, Join, Float[Array, ""]]:
        """Run all blocks from `starts`, given lanes and join of the previous sweep (at first `blank`, `Join.none`).

        With `Zero`, all blocks are left at once when all new paths are within tolerance of the old ones. The third
        result is the number of evaluations per lane.
        """
        begin = _Run(
            step=jnp.asarray(0),
            left=jnp.asarray(False),
            met=jnp.zeros(starts.shape[:1], bool),
            difference=jnp.full_like(starts, jnp.nan),
            states=starts,
            moving=self._enter(starts),
            path=lanes.path,
            outputs=lanes.outputs,
        )
        run = self._run(begin, lanes.path, join, tolerance)
        *ends, new_join = self._ended(run, lanes.carries, lanes.output_tangents, join)
        return Lanes(run.path, run.outputs, *ends), new_join, run.step.astype(starts.dtype)

    def _run(self, begin: _Run, old_path: Float[Array, "b C D"], join: Join, tolerance: Tolerance) -> _Run:
        """Advance all lanes until they may be left or reach the ends of their blocks."""
        may_leave = isinstance(self.linearization, Zero)
        # Ahead of an old jump, a block may be left only if the jump is within tolerance and the path is unchanged.
        jump, may_stay = join.join_step, tolerance.accepts_capped(join.difference, join.state)

        def unfinished(run: _Run) -> Array:
            return (run.step < self.grid.block_size) & ~run.left

        def advance(run: _Run) -> _Run:
            carries, output_tangents, outputs = self._step(run.moving, run.step)
            states = jax.vmap(self.transition.reduce)(carries)
            # The old path is read from its own buffer: reading the one being written would copy it at every step.
            difference = states - entry(old_path, run.step)
            met = tolerance.accepts_capped(difference, states)
            met &= (may_stay & jnp.all(difference == 0, axis=-1)) | (run.step + 1 > jump)
            left = met.all() & may_leave
            path, outputs = write((run.path, run.outputs), (states, outputs), run.step)
            return _Run(run.step + 1, left, met, difference, states, (carries, output_tangents), path, outputs)

        return self._together(unfinished, advance, begin)

    def _ended(
        self, run: _Run, old_carries: PyTree, old_output_tangents: Float[Array, "C P D"], join: Join
    ) -> tuple[PyTree, Float[Array, "C P D"], Join]:
        """Carries and output tangents at the block ends (the old ones if blocks were left early), and the new join."""
        to_the_end = run.step == self.grid.block_size
        carries, output_tangents = jax.tree.map(
            lambda new, old: jnp.where(to_the_end, new, old),
            (run.moving[0], self._reduced_tangents(*run.moving)),
            (old_carries, old_output_tangents),
        )
        return carries, output_tangents, join.updated(run.step, jnp.where(to_the_end, 0, run.difference), run.states)

    def _together(self, unfinished: Callable, advance: Callable, begin: _Run) -> _Run:
        """``jax.lax.while_loop`` whose devices finish independently, but synchronise after every stretch of steps."""
        if self.collectives.mesh is None:
            return jax.lax.while_loop(unfinished, advance, begin)
        stretch = ceil_div(self.grid.block_size, NUM_STRETCHES)

        def one_stretch(loop: tuple) -> tuple:
            end = loop[1].step + stretch
            reached = jax.lax.while_loop(lambda run: unfinished(run) & (run.step < end), advance, loop[1])
            return self.collectives.all_gather(unfinished(reached)).any(), reached

        return jax.lax.while_loop(lambda loop: loop[0], one_stretch, (jnp.asarray(True), begin))[1]

    def _enter(self, starts: Float[Array, "C D"]) -> tuple[PyTree, list]:
        def one(start: Array) -> tuple[PyTree, list]:
            carry, tangents, _ = push_forward(lambda x: (self.transition.restore(x), None), start, [self.tangent_seeds])
            return carry, tangents

        return _side_by_side(one, self._tile, starts)

    def _step(self, moving: tuple[PyTree, list], step: Array) -> tuple[PyTree, list, PyTree]:
        running = self.grid.running(self.first_lane, step)

        def one(carry: PyTree, tangents: list, driven: PyTree) -> tuple[PyTree, list, PyTree]:
            return push_forward(lambda c: self.transition.step(c, driven), carry, tangents)

        carries, tangents, outputs = _side_by_side(one, self._tile, *moving, self.inputs.at(step))
        if self.grid.is_ragged:
            # Idle lanes keep their carries.
            carries, tangents = _where(running, (carries, tangents), moving)
        return carries, tangents, outputs

    def _reduced_tangents(self, carries: PyTree, tangents: list) -> Float[Array, "C P D"]:
        def one(carry: PyTree, lane_tangents: list) -> Array:
            return push_forward(lambda c: (self.transition.reduce(c), None), carry, lane_tangents)[1][0]

        return jax.vmap(one)(carries, tangents)

    def blank(self, starts: Float[Array, "C D"]) -> Lanes:
        """Lanes before the first sweep: the path is NaN, so that no new state compares as equal to it."""

        def shapes(x: Array) -> tuple[PyTree, PyTree, Array]:
            carries, tangents, output = self._step(self._enter(x), jnp.asarray(0))
            return output, carries, self._reduced_tangents(carries, tangents)

        output, carries, output_tangents = jax.eval_shape(shapes, starts)
        b = self.grid.block_size
        return Lanes(
            path=jnp.full((b, *starts.shape), jnp.nan, starts.dtype),
            outputs=jax.tree.map(lambda leaf: zeros((b, *leaf.shape), leaf.dtype), output),
            carries=jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), carries),
            output_tangents=zeros(output_tangents.shape, output_tangents.dtype),
        )
