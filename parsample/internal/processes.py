"""Several processes that make the same calls: they share one chain, and each receives all of it.

A program over devices of several processes runs when all of them launch it, with the same arguments, in the same
order. The inputs to every launch decision (arguments, pilot results, timings) are therefore broadcast from the first
process, and sharded results are replicated in every process. Meshes of one process need no communication.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree, UInt8

from parsample.internal.compilation import is_traced
from parsample.internal.devices import DEVICES, SPLIT, WHOLE, Collectives
from parsample.internal.random_keys import is_key
from parsample.internal.trees import on_device


def is_first(mesh: Mesh | None) -> bool:
    """Whether this process owns the first device of `mesh`."""
    return mesh is None or mesh.devices.flat[0].process_index == jax.process_index()


def broadcast_from_first(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """The first process's values in all processes that share `mesh`, as arrays for local and shared programs."""
    if not _spans_processes(mesh):
        return tree if mesh is None and _is_on_first_device(tree) else uncommitted(tree)
    leaves, structure = jax.tree.flatten(tree)
    if is_traced(leaves):
        return tree
    # As bytes, all leaves travel in one message.
    values = [_to_host(leaf) for leaf in leaves]
    message = np.frombuffer(b"".join(value.tobytes() for value in values), np.uint8)[None]
    rows = jax.make_array_from_callback((mesh.size, message.size), NamedSharding(mesh, SPLIT), lambda _: message)
    received = np.asarray(_first_row(mesh, rows).addressable_data(0))[0]
    parts = np.split(received, np.cumsum([value.nbytes for value in values])[:-1])
    received_values = [
        part.copy().view(value.dtype).reshape(value.shape) for part, value in zip(parts, values, strict=True)
    ]
    return jax.tree.unflatten(structure, map(_from_host, received_values, leaves))


def on_first[Result](mesh: Mesh | None, function: Callable[[], Result]) -> Result | None:
    """Call a function in the first process only; if it fails there, all processes raise.

    Returns its result in the first process, None in others.
    """
    result, error = None, None
    if is_first(mesh):
        try:
            result = function()
        except Exception as raised:
            error = raised
    has_failed = bool(broadcast_from_first(mesh, np.bool_(error is not None)))
    if error is not None:
        raise error
    if has_failed:
        raise RuntimeError("the first process could not go on; its error says why.")
    return result


@partial(jax.jit, static_argnums=0)
def _first_row(mesh: Mesh, rows: UInt8[Array, "N B"]) -> UInt8[Array, "1 B"]:
    collectives = Collectives(mesh)
    return collectives.spread(lambda row: jax.lax.psum(row * (collectives.rank == 0), DEVICES), SPLIT, WHOLE)(rows)


def replicated(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Results of a program over `mesh`, whole in this process; every process that shares `mesh` must call it."""
    if not _spans_processes(mesh) or all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    copies = _replicate(mesh)(tree)
    return jax.tree.map(lambda leaf: _from_host(_to_host(leaf.addressable_data(0)), leaf), copies)


def on_first_device(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """The tree on this process's first device; unchanged if `mesh` is None or spans several processes."""
    return tree if mesh is None or mesh.is_multi_process else jax.device_put(tree, jax.local_devices()[0])


def _is_on_first_device(tree: PyTree) -> bool:
    first = {jax.local_devices()[0]}
    return all(leaf.devices() == first for leaf in jax.tree.leaves(tree) if _is_placed(leaf))


def uncommitted(tree: PyTree) -> PyTree:
    """The tree with no array committed to a device, unlike results of `on_first_device` and arrays placed by users."""
    return jax.tree.map(
        lambda leaf: _from_host(_to_host(leaf), leaf) if _is_placed(leaf) and leaf.committed else leaf, tree
    )


@cache
def _replicate(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, WHOLE))


def _spans_processes(mesh: Mesh | None) -> TypeGuard[Mesh]:
    return mesh is not None and mesh.is_multi_process


def _is_placed(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not is_traced(leaf)


def _to_host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.device_get(jax.random.key_data(leaf) if is_key(leaf) else leaf))


def _from_host(value: np.ndarray, like: Any) -> Any:
    """`value` as an array or key array like `like`, committed to no device."""
    if is_key(like):
        return jax.random.wrap_key_data(on_device(value), impl=jax.random.key_impl(like))
    return on_device(value) if isinstance(like, jax.Array) else value
