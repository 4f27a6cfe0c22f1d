"""The block sweep: every block run from its start at once, one step of all blocks after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.linearize import Linearization, Tangents, Zero, push_forward
from parsample.transition import Inputs, Transition, Vector, entry, take, write


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
        limit = self.atol * self.scale[None] + self.rtol * jnp.abs(state)
        return jnp.all((jnp.abs(difference) <= limit) & jnp.isfinite(difference), axis=-1)

    def vouches(self, difference: Float[Array, "C D"], state: Float[Array, "C D"]) -> Bool[Array, " C"]:
        """`accepts`, by a scale that is not trusted beyond ten times the size of the state: for verdicts."""
        size = jnp.max(jnp.abs(state) / self.scale[None], axis=-1, keepdims=True)
        limit = self.atol * self.scale[None] * jnp.minimum(10 * size, 1) + self.rtol * jnp.abs(state)
        return jnp.all((jnp.abs(difference) <= limit) & jnp.isfinite(difference), axis=-1)

    def size(self, difference: Float[Array, "C D"]) -> Float[Array, " C"]:
        """Largest coordinate of each difference in units of the scale."""
        return jnp.max(jnp.abs(difference) / self.scale[None], axis=-1)


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
class Grid:
    """T steps cut into C blocks of b steps, the last one perhaps shorter."""

    num_steps: int
    block_size: int

    @property
    def num_blocks(self) -> int:
        """C."""
        return -(-self.num_steps // self.block_size)

    @property
    def is_ragged(self) -> bool:
        """Whether the last block is shorter."""
        return self.num_steps % self.block_size != 0

    def steps(self) -> Int[Array, "b C"]:
        """Step number of every entry; beyond T where the last block is shorter."""
        return jnp.arange(self.block_size)[:, None] + self.block_size * jnp.arange(self.num_blocks)[None]

    def arrange(self, tree: PyTree) -> PyTree:
        """Leading axis T to leading axes (b, C); what lies beyond T repeats the last entry."""
        return take(tree, jnp.minimum(self.steps(), self.num_steps - 1))

    def flatten(self, tree: PyTree) -> PyTree:
        """Leading axes (b, C) to leading axis T."""

        def one(leaf: Array) -> Array:
            return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[: self.num_steps]

        return jax.tree.map(one, tree)


@dataclass(frozen=True)
class Sweep:
    """One chain's block sweep, ready to be run from any block starts.

    Attributes
    ----------
    transition, linearization, inputs, grid
        The chain, what to learn of its block maps, what drives it, and how it is cut.
    seeds
        Tangents to push through every block, shape (P, D).
    everywhere
        Combines a flag over chains solved in lockstep.
    """

    transition: Transition
    linearization: Linearization
    inputs: Inputs
    grid: Grid
    seeds: Tangents
    everywhere: Callable[[Array], Array]

    def __call__(
        self, starts: Float[Array, "C D"], lanes: Lanes, tolerance: Tolerance, min_steps: Int[Array, ""] | int = 0
    ) -> tuple[Lanes, Splice]:
        """Run all blocks from `starts`, over the lanes of the sweep before (at first, `blank` ones).

        With `Zero`, the sweep ends as soon as every new path is within tolerance of the old one, but runs at least
        `min_steps` steps.
        """
        local = self.grid.arrange(self.inputs.sequence)
        may_meet = isinstance(self.linearization, Zero)

        def unfinished(loop: tuple) -> Array:
            step, met = loop[0], loop[1]
            return (step < self.grid.block_size) & ~(met & (step >= min_steps))

        def advance(loop: tuple) -> tuple:
            step, _, _, _, moving, path, outputs = loop
            carries, images, output = self._step(moving, entry(local, step), step)
            states = jax.vmap(self.transition.reduce)(carries)
            # The old path is read from its own buffer: reading the one being written would copy it at every step.
            difference = states - entry(lanes.path, step)
            met = self.everywhere(tolerance.accepts(difference, states).all()) if may_meet else jnp.asarray(False)
            path, outputs = write((path, outputs), (states, output), step)
            return step + 1, met, difference, states, (carries, images), path, outputs

        begin = (jnp.asarray(0), jnp.asarray(False), jnp.full_like(starts, jnp.nan), starts, self._enter(starts))
        step, _, difference, states, moving, path, outputs = jax.lax.while_loop(
            unfinished, advance, (*begin, lanes.path, lanes.outputs)
        )
        # Blocks that were left early end where they ended before.
        to_the_end = step == self.grid.block_size
        old = (lanes.carries, lanes.images)
        new = (moving[0], self._reduced_images(*moving))
        carries, images = jax.tree.map(lambda a, b: jnp.where(to_the_end, a, b), new, old)
        splice = Splice(step, jnp.where(to_the_end, 0, difference), states)
        return Lanes(path, outputs, carries, images), splice

    def _enter(self, starts: Float[Array, "C D"]) -> tuple[PyTree, list]:
        def one(start: Array) -> tuple[PyTree, list]:
            carry, tangents, _ = push_forward(lambda x: (self.transition.restore(x), None), start, [self.seeds])
            return carry, tangents

        return jax.vmap(one)(starts)

    def _step(self, moving: tuple[PyTree, list], local: PyTree, step: Array) -> tuple[PyTree, list, PyTree]:
        shared = entry(self.inputs.shared, step % self.inputs.period)

        def one(carry: PyTree, tangents: list, local_input: PyTree) -> tuple[PyTree, list, PyTree]:
            return push_forward(lambda c: self.transition.step(c, (local_input, shared)), carry, tangents)

        carries, tangents, outputs = jax.vmap(one)(*moving, local)
        if self.grid.is_ragged:
            # The last block stands still once the chain is over.
            running = jnp.arange(self.grid.num_blocks) * self.grid.block_size + step < self.grid.num_steps
            carries, tangents = jax.tree.map(
                lambda new, old: jnp.where(running.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                (carries, tangents),
                moving,
            )
        return carries, tangents, outputs

    def _reduced_images(self, carries: PyTree, tangents: list) -> Float[Array, "C P D"]:
        def one(carry: PyTree, lane_tangents: list) -> Array:
            return push_forward(lambda c: (self.transition.reduce(c), None), carry, lane_tangents)[1][0]

        return jax.vmap(one)(carries, tangents)

    def blank(self, starts: Float[Array, "C D"]) -> Lanes:
        """Lanes that no path has met yet: NaN, so that nothing compares as equal."""

        def shapes(x: Array) -> tuple[PyTree, PyTree, Array]:
            moving = self._enter(x)
            local = self.grid.arrange(self.inputs.sequence)
            carries, tangents, output = self._step(moving, entry(local, 0), jnp.asarray(0))
            return output, carries, self._reduced_images(carries, tangents)

        output, carries, images = jax.eval_shape(shapes, starts)
        b = self.grid.block_size
        return Lanes(
            path=jnp.full((b, *starts.shape), jnp.nan, starts.dtype),
            outputs=jax.tree.map(lambda leaf: _zeros((b, *leaf.shape), leaf.dtype), output),
            carries=jax.tree.map(lambda leaf: _zeros(leaf.shape, leaf.dtype), carries),
            images=_zeros(images.shape, images.dtype),
        )


def in_lockstep(axis_name: str | None) -> Callable[[Array], Array]:
    """The smallest value of a flag or count over a vmapped axis of chains, which then stop together.

    Without it, vmapping a loop masks all that it writes, at the price of rewriting whole paths at every step.
    """
    if axis_name is None:
        return lambda value: value
    return lambda value: jax.lax.pmin(value.astype(jnp.int32), axis_name).astype(value.dtype)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    return jnp.zeros(shape, dtype)
