"""Lanes side by side, as compilers like them best: along one axis, and in loops that all leave together.

Under ``jax.vmap`` a loop whose condition differs from lane to lane rewrites all that it carries, in every round, for
the lanes that are done. `in_lockstep` lets lanes ask each other, so that conditions are common, and the function itself
says what a lane that is done keeps. Under two of them, as for blocks of chains, lanes lie along two axes, and a product
of a matrix with all of them takes several times as long as along one. `side_by_side` makes one of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

# Whether a flag is set in any lane: the same answer in all of them.
Anyone = Callable[[Bool[Array, ""]], Bool[Array, ""]]


class _Axis(NamedTuple):
    """An axis of lanes, or of several tangents of each.

    Attributes
    ----------
    name
        By which lanes ask each other; None: they are no lanes.
    arguments, results
        Their places along it, as ``jax.vmap`` takes them.
    """

    name: str | None
    arguments: tuple
    results: Any


def in_lockstep(function: Callable) -> Callable:
    """``function(anyone, *arguments)`` as a function of `arguments`, whose lanes under ``jax.vmap`` are in lockstep.

    With tangents (forward mode) too. Arrays that `function` closes over must be the same in all lanes.
    """

    def pushed(anyone: Anyone, primals: tuple, moving: list) -> tuple[PyTree, list]:
        value, tangent = jax.jvp(partial(function, anyone), primals, _with_moving(primals, moving))
        return value, _moving(value, tangent)

    def axis_of_pushed(name: str, places: tuple) -> _Axis:
        if jax.tree.leaves(places[0]):
            return _Axis(name, places, 0)
        return _Axis(None, places, (None, 0))

    evaluate = jax.custom_jvp(_along(function, lambda name, places: _Axis(name, places, 0), ()))

    @evaluate.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
        # Tangents of whole numbers and keys are of no type that lanes could exchange: they stay outside.
        value, moving = _along(pushed, axis_of_pushed, ())(primals, _moving(primals, tangents))
        return value, _with_moving(value, moving)

    return evaluate


def _along(function: Callable, axis_of: Callable[[str, tuple], _Axis], axes: tuple[_Axis, ...]) -> Callable:
    """`function` along `axes`; `axis_of` makes one more of them, from a name and the places of arguments along it."""
    names = tuple(axis.name for axis in axes if axis.name is not None)

    def anyone(flag: Bool[Array, ""]) -> Bool[Array, ""]:
        return jax.lax.pmax(flag.astype(jnp.int32), names) > 0 if names else flag

    lanes: Callable = partial(function, anyone)
    for axis in axes:
        lanes = jax.vmap(lanes, in_axes=axis.arguments, out_axes=axis.results, axis_name=axis.name)
    together = custom_vmap(lanes)

    @together.def_vmap
    def _(_: int, in_batched: list, *arguments: Any) -> tuple[PyTree, PyTree]:
        places = tuple(jax.tree.map(lambda batched: 0 if batched else None, tree) for tree in in_batched)
        axis = axis_of(f"lockstep_{len(axes)}", places)
        results = _along(function, axis_of, (*axes, axis))(*arguments)
        has_place = jax.tree.map(lambda place: place is not None, axis.results, is_leaf=lambda place: place is None)
        return results, jax.tree.broadcast(has_place, results)

    return together


def side_by_side(function: Callable, tile: int | None = None) -> Callable:
    """``jax.vmap(function)``, whose lanes lie along one axis, under however many more ``jax.vmap`` it is called.

    On a CPU at most `tile` of them are evaluated at a time, so that what they pass from one operation to the next stays
    in its cache; None: all.
    """

    def lanes(*arguments: PyTree) -> PyTree:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), arguments)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*one)
        # What `function` closes over may differ from chain to chain, and then must travel as arguments do.
        lanes_of = _merged(closed.jaxpr, [None] * len(closed.consts), tile)
        results = lanes_of(closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return lanes


def _merged(jaxpr: Any, places: list[int | None], tile: int | None) -> Callable:
    """`jaxpr` in lanes; of its constants, those with a place have an entry for each of them."""

    def at_once(constants: list[Array], leaves: list[Array]) -> list[Array]:
        return jax.vmap(lambda held, lane: jax.core.eval_jaxpr(jaxpr, held, *lane), in_axes=(places, 0))(
            constants, leaves
        )

    def tile_by_tile(tile: int, constants: list[Array], leaves: list[Array]) -> list[Array]:
        with_lanes = [leaf for leaf, place in zip(constants, places, strict=True) if place == 0]

        def one_tile(part: tuple[list[Array], list[Array]]) -> list[Array]:
            own = iter(part[0])
            held = [leaf if place is None else next(own) for leaf, place in zip(constants, places, strict=True)]
            return at_once(held, part[1])

        num_lanes = leaves[0].shape[0]
        num_tiles = -(-num_lanes // tile)
        # Lanes that fill the last tile do what the last one does.
        lane = jnp.minimum(jnp.arange(num_tiles * tile), num_lanes - 1).reshape(num_tiles, tile)
        tiles = jax.tree.map(lambda leaf: leaf[lane], (with_lanes, leaves))
        return [leaf.reshape(-1, *leaf.shape[2:])[:num_lanes] for leaf in jax.lax.map(one_tile, tiles)]

    @custom_vmap
    def together(constants: list[Array], leaves: list[Array]) -> list[Array]:
        if tile is None or leaves[0].shape[0] <= tile:
            return at_once(constants, leaves)
        return jax.lax.platform_dependent(constants, leaves, cpu=partial(tile_by_tile, tile), default=at_once)

    @together.def_vmap
    def _(size: int, in_batched: list, constants: list[Array], leaves: list[Array]) -> tuple[list, list]:
        constants_batched, leaves_batched = in_batched
        num_lanes = leaves[0].shape[1 if leaves_batched[0] else 0]

        def merged(leaf: Array, is_batched: bool, has_lanes: bool) -> Array:
            leaf = leaf if is_batched else leaf[None]
            leaf = leaf if has_lanes else leaf[:, None]
            shape = leaf.shape[2:]
            return jnp.broadcast_to(leaf, (size, num_lanes, *shape)).reshape(size * num_lanes, *shape)

        now = [0 if batched else place for batched, place in zip(constants_batched, places, strict=True)]
        held = [
            leaf if there is None else merged(leaf, batched, place is not None)
            for leaf, batched, place, there in zip(constants, constants_batched, places, now, strict=True)
        ]
        all_lanes = [merged(leaf, batched, True) for leaf, batched in zip(leaves, leaves_batched, strict=True)]
        results = _merged(jaxpr, now, tile)(held, all_lanes)
        results = [leaf.reshape(size, num_lanes, *leaf.shape[1:]) for leaf in results]
        return results, [True] * len(results)

    return together


def _is_smooth(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _moving(primals: PyTree, tangents: PyTree) -> list[Array]:
    """The tangents of what has any."""
    pairs = zip(jax.tree.leaves(primals), jax.tree.leaves(tangents), strict=True)
    return [tangent for primal, tangent in pairs if _is_smooth(primal)]


def _with_moving(primals: PyTree, moving: list[Array]) -> PyTree:
    """Tangents of all of `primals`, of which those that have any are given."""
    left = iter(moving)
    return jax.tree.map(
        lambda leaf: next(left) if _is_smooth(leaf) else np.zeros(leaf.shape, jax.dtypes.float0), primals
    )
