"""The block sweep: every block run from its start at once, one step of all blocks after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.grid import Grid, Team, ceil_div
from parsample.lanes import side_by_side
from parsample.linearize import Linearization, Tangents, Zero, push_forward
from parsample.transition import Inputs, Transition, Vector, entry, write, zeros

# Devices that share a sweep tell each other so many times that they are at work: XLA ends a process in which one waits
# for another for a minute.
NUM_STRETCHES = 8

# Lanes with tangents are evaluated on a CPU so many at a time, tangents counted: a step of thousands, each of them with
# as many intermediate values as there are data, would go through main memory at every operation.
EVALUATIONS_AT_ONCE = 512


class Tolerance(NamedTuple):
    """When two states count as the same: ``|difference| <= atol * scale + rtol * |state|``, coordinate by coordinate.

    Attributes
    ----------
    scale
        Standard deviation of the chain in each coordinate.
    atol
        In units of `scale`.
    rtol
        In units of the state itself: a few units of its rounding, below which nothing can be asked.
    """

    scale: Float[Array, " D"]
    atol: Float[Array, ""]
    rtol: Float[Array, ""]

    def accepts(self, difference: Float[Array, "C D"], state: Float[Array, "C D"]) -> Bool[Array, " C"]:
        """Whether each state is met in all its coordinates (never where the difference is NaN)."""
        return self._bounds(difference, state, self.scale[None])

    def vouches(self, difference: Float[Array, "C D"], state: Float[Array, "C D"]) -> Bool[Array, " C"]:
        """`accepts`, by a scale that is not trusted beyond ten times the size of the state: for verdicts."""
        return self._bounds(difference, state, self.scale[None] * jnp.minimum(10 * self.size(state)[:, None], 1))

    def _bounds(self, difference: Array, state: Array, unit: Array) -> Bool[Array, " C"]:
        limit = self.atol * unit + self.rtol * jnp.abs(state)
        return jnp.all((jnp.abs(difference) <= limit) & jnp.isfinite(difference), axis=-1)

    def size(self, difference: Float[Array, "C D"]) -> Float[Array, " C"]:
        """Largest coordinate of each difference in units of the scale."""
        return largest_coordinate(difference, self.scale)


def largest_coordinate(difference: Float[Array, "C D"], scale: Vector) -> Float[Array, " C"]:
    """Largest coordinate of each difference in units of `scale`."""
    return jnp.max(jnp.abs(difference) / scale[None], axis=-1)


def default_tolerance(scale: Vector, atol: float | None = None, rtol: float | None = None) -> Tolerance:
    """The tolerance within which two states of a chain of this scale count as the same.

    Defaults: `atol` 1e-10 in float64 and 1e-5 in float32, in units of `scale`; `rtol` 8 units of rounding.
    """
    if atol is None:
        atol = 1e-10 if scale.dtype == jnp.float64 else 1e-5
    if rtol is None:
        rtol = 8 * float(jnp.finfo(scale.dtype).eps)
    return Tolerance(scale, jnp.asarray(atol, scale.dtype), jnp.asarray(rtol, scale.dtype))


class Lanes(NamedTuple):
    """What a sweep leaves behind, C blocks of b steps side by side.

    Attributes
    ----------
    path
        Reduced state after each step, shape (b, C, D).
    outputs
        Outputs of each step, leading axes (b, C).
    carries
        Carry at the end of each block, leading axis C.
    images
        Tangents of the block ends in the reduced state, shape (C, P, D).
    """

    path: Float[Array, "b C D"]
    outputs: PyTree
    carries: PyTree
    images: Float[Array, "C P D"]


class Splice(NamedTuple):
    """Where a sweep that ended early left the new paths for the old ones.

    Attributes
    ----------
    step
        Number of steps of each block that are new.
    difference
        New minus old state of each block after that step, shape (C, D); 0 if the sweep ran to the end.
    state
        New state of each block after that step, shape (C, D).
    """

    step: Int[Array, ""]
    difference: Float[Array, "C D"]
    state: Float[Array, "C D"]


@dataclass(frozen=True)
class Sweep:
    """One chain's block sweep on one device, ready to be run from any block starts.

    Attributes
    ----------
    transition, linearization
        The chain, and what to learn of its block maps.
    inputs
        What drives the lanes of this device: a sequence with leading axes (b, C), and what is shared.
    grid, team
        How the chain is cut, and who else evaluates it.
    seeds
        Tangents to push through every block, shape (P, D).
    num_stretches
        How often, in a sweep, devices tell each other that they are at work.
    """

    transition: Transition
    linearization: Linearization
    inputs: Inputs
    grid: Grid
    team: Team
    seeds: Tangents
    num_stretches: int = NUM_STRETCHES

    @property
    def first_lane(self) -> Int[Array, ""] | int:
        """Number of the first block of this device."""
        return self.team.rank * self.grid.lanes_per_device

    @property
    def _tile(self) -> int | None:
        num_tangents = self.seeds.shape[0]
        return max(1, EVALUATIONS_AT_ONCE // (1 + num_tangents)) if num_tangents else None

    def __call__(
        self, starts: Float[Array, "C D"], lanes: Lanes, tolerance: Tolerance, min_steps: Int[Array, ""] | int = 0
    ) -> tuple[Lanes, Splice]:
        """Run all blocks from `starts`, over the lanes of the sweep before (at first, `blank` ones).

        With `Zero`, the sweep ends as soon as every new path is within tolerance of the old one, but runs at least
        `min_steps` steps.
        """
        may_meet = isinstance(self.linearization, Zero)

        def unfinished(loop: tuple) -> Array:
            step, met = loop[0], loop[1]
            return (step < self.grid.block_size) & ~(met & (step >= min_steps))

        def advance(loop: tuple) -> tuple:
            step, _, _, _, moving, path, outputs = loop
            carries, images, output = self._step(moving, step)
            states = jax.vmap(self.transition.reduce)(carries)
            # The old path is read from its own buffer: reading the one being written would copy it at every step.
            difference = states - entry(lanes.path, step)
            met = self.team.least(tolerance.accepts(difference, states).all()) if may_meet else jnp.asarray(False)
            path, outputs = write((path, outputs), (states, output), step)
            return step + 1, met, difference, states, (carries, images), path, outputs

        begin = (jnp.asarray(0), jnp.asarray(False), jnp.full_like(starts, jnp.nan), starts, self._enter(starts))
        step, _, difference, states, moving, path, outputs = self._together(
            unfinished, advance, (*begin, lanes.path, lanes.outputs)
        )
        # Blocks that were left early end where they ended before.
        to_the_end = step == self.grid.block_size
        old = (lanes.carries, lanes.images)
        new = (moving[0], self._reduced_images(*moving))
        carries, images = jax.tree.map(lambda a, b: jnp.where(to_the_end, a, b), new, old)
        splice = Splice(step, jnp.where(to_the_end, 0, difference), states)
        return Lanes(path, outputs, carries, images), splice

    def _together(self, unfinished: Callable, advance: Callable, begin: tuple) -> tuple:
        """``jax.lax.while_loop``; each device ends its own, but none hears nothing of the others for long."""
        if self.team.mesh is None or self.num_stretches == 1:
            return jax.lax.while_loop(unfinished, advance, begin)
        stretch = ceil_div(self.grid.block_size, self.num_stretches)

        def one_stretch(loop: tuple) -> tuple:
            end = loop[1][0] + stretch
            reached = jax.lax.while_loop(lambda inner: unfinished(inner) & (inner[0] < end), advance, loop[1])
            return self.team.gather(unfinished(reached)).any(), reached

        return jax.lax.while_loop(lambda loop: loop[0], one_stretch, (jnp.asarray(True), begin))[1]

    def _enter(self, starts: Float[Array, "C D"]) -> tuple[PyTree, list]:
        def one(start: Array) -> tuple[PyTree, list]:
            carry, tangents, _ = push_forward(lambda x: (self.transition.restore(x), None), start, [self.seeds])
            return carry, tangents

        return side_by_side(one, self._tile)(starts)

    def _step(self, moving: tuple[PyTree, list], step: Array) -> tuple[PyTree, list, PyTree]:
        local, shared = self.inputs.at(step)

        def one(carry: PyTree, tangents: list, local_input: PyTree) -> tuple[PyTree, list, PyTree]:
            return push_forward(lambda c: self.transition.step(c, (local_input, shared)), carry, tangents)

        carries, tangents, outputs = side_by_side(one, self._tile)(*moving, local)
        if self.grid.is_ragged:
            # Idle lanes stand still.
            running = self.grid.running(self.first_lane, step)
            carries, tangents = jax.tree.map(
                lambda new, old: jnp.where(running.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                (carries, tangents),
                moving,
            )
        return carries, tangents, outputs

    def _reduced_images(self, carries: PyTree, tangents: list) -> Float[Array, "C P D"]:
        def one(carry: PyTree, lane_tangents: list) -> Array:
            return push_forward(lambda c: (self.transition.reduce(c), None), carry, lane_tangents)[1][0]

        return side_by_side(one)(carries, tangents)

    def blank(self, starts: Float[Array, "C D"]) -> Lanes:
        """Lanes that no path has met yet: NaN, so that nothing compares as equal."""

        def shapes(x: Array) -> tuple[PyTree, PyTree, Array]:
            carries, tangents, output = self._step(self._enter(x), jnp.asarray(0))
            return output, carries, self._reduced_images(carries, tangents)

        output, carries, images = jax.eval_shape(shapes, starts)
        b = self.grid.num_rows
        return Lanes(
            path=jnp.full((b, *starts.shape), jnp.nan, starts.dtype),
            outputs=jax.tree.map(lambda leaf: zeros((b, *leaf.shape), leaf.dtype), output),
            carries=jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), carries),
            images=zeros(images.shape, images.dtype),
        )
