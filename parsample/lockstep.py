"""Loops that lanes leave together.

Under ``jax.vmap`` a loop whose condition differs from lane to lane rewrites all that it carries, in every round, for
the lanes that are done; and an index that advances alike in all of them becomes a gather or a scatter. Here lanes ask
each other, so that conditions and counters are common, and the function itself says what a lane that is done keeps.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int, PyTree

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


def row(rows: Array, place: Int[Array, ""]) -> Array:
    """Entry `place` along the leading axis: a slice where lanes have that in common, for which JAX would gather."""
    return _sliced(0)(rows, place)


def with_row(rows: Array, value: Array, place: Int[Array, ""]) -> Array:
    """The rows with entry `place` replaced: in place where lanes have that in common, for which JAX would scatter."""
    return _updated(0)(rows, value, place)


@cache
def _sliced(axis: int) -> Callable:
    def sliced(rows: Array, place: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(rows, place, axis, keepdims=False)

    return _with_common_place(sliced, _sliced, axis)


@cache
def _updated(axis: int) -> Callable:
    def updated(rows: Array, value: Array, place: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(rows, value, place, axis)

    return _with_common_place(updated, _updated, axis)


def _with_common_place(function: Callable, along: Callable[[int], Callable], axis: int) -> Callable:
    """`function`, of which lanes side by side with a common place, the last argument, are that along the next axis."""
    together = custom_vmap(function)

    @together.def_vmap
    def _(axis_size: int, in_batched: list[bool], *arguments: Array) -> tuple[Array, bool]:
        *batched, place_is_batched = in_batched
        if all(batched) and not place_is_batched:
            return along(axis + 1)(*arguments), True
        if not any(in_batched):  # where only tangents are
            return function(*arguments), False
        places = tuple(0 if here else None for here in in_batched)
        return jax.vmap(function, in_axes=places, axis_size=axis_size)(*arguments), True

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
