"""Several processes that make the same calls: one chain for all of them, and the whole of it in each.

A program over devices of several processes runs when all of them launch it, with the same arguments, in the same
order. So whatever leads to a launch, be it an argument, a pilot or a timing, is what the first process says; and what
such a program leaves in pieces is put together in every process. Meshes of one process pass through untouched.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree, UInt8

from parsample.internal.compilation import is_traced
from parsample.internal.devices import DEVICES, SPLIT, WHOLE, Collectives
from parsample.internal.random_keys import is_key


def is_first(mesh: Mesh | None) -> bool:
    """Whether this process is the first of those that share `mesh`."""
    return mesh is None or mesh.devices.flat[0].process_index == jax.process_index()


def broadcast_from_first(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """What the first process holds, in all that share `mesh`: arrays that local and common programs take alike."""
    if not _spans_processes(mesh):
        return tree if mesh is None and _is_on_first_device(tree) else uncommitted(tree)
    leaves, structure = jax.tree.flatten(tree)
    if is_traced(leaves):
        return tree
    # As bytes, all leaves travel in one message.
    values = [_to_host(leaf) for leaf in leaves]
    message = np.frombuffer(b"".join(value.tobytes() for value in values), np.uint8)[None]
    rows = jax.make_array_from_callback((mesh.size, message.size), NamedSharding(mesh, SPLIT), lambda _: message)
    summaries = np.asarray(_first_row(mesh, rows).addressable_data(0))[0]
    parts = np.split(summaries, np.cumsum([value.nbytes for value in values])[:-1])
    heard_values = [
        part.copy().view(value.dtype).reshape(value.shape) for part, value in zip(parts, values, strict=True)
    ]
    return jax.tree.unflatten(structure, map(_from_host, heard_values, leaves))


@partial(jax.jit, static_argnums=0)
def _first_row(mesh: Mesh, rows: UInt8[Array, "N B"]) -> UInt8[Array, "1 B"]:
    collectives = Collectives(mesh)
    return collectives.spread(lambda row: jax.lax.psum(row * (collectives.rank == 0), DEVICES), SPLIT, WHOLE)(rows)


def replicated(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """What a program over `mesh` returned, as arrays of this process; all that share `mesh` must ask for it."""
    if not _spans_processes(mesh) or all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    copies = _everywhere(mesh)(tree)
    return jax.tree.map(lambda leaf: _from_host(_to_host(leaf.addressable_data(0)), leaf), copies)


def on_first_device(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """What is spread over devices of this process, on its first one."""
    return tree if mesh is None or mesh.is_multi_process else jax.device_put(tree, jax.local_devices()[0])


def _is_on_first_device(tree: PyTree) -> bool:
    first = {jax.local_devices()[0]}
    return all(leaf.devices() == first for leaf in jax.tree.leaves(tree) if _is_placed(leaf))


def uncommitted(tree: PyTree) -> PyTree:
    """The tree with its arrays committed to no device; results `on_first_device` and arrays that users placed are."""
    return jax.tree.map(
        lambda leaf: _from_host(_to_host(leaf), leaf) if _is_placed(leaf) and leaf.committed else leaf, tree
    )


@cache
def _everywhere(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, WHOLE))


def _spans_processes(mesh: Mesh | None) -> TypeGuard[Mesh]:
    return mesh is not None and mesh.is_multi_process


def _is_placed(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not is_traced(leaf)


def _to_host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _from_host(value: np.ndarray, like: Any) -> Any:
    """Back to an array like `like`, tied to no device."""
    if is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return jnp.asarray(value) if isinstance(like, jax.Array) else value
