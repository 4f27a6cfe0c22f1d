"""Entries of pytrees of arrays along their leading axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def on_device(tree: PyTree, dtype: Any = None) -> PyTree:
    """The tree as JAX arrays, of `dtype` if given; host arrays are placed explicitly (``jax.transfer_guard``)."""

    def one(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array):
            return leaf if dtype is None else jnp.asarray(leaf, dtype)
        if dtype is None and isinstance(leaf, bool | int | float | complex):
            with jax.transfer_guard("allow"):
                return jnp.asarray(leaf)  # weakly typed
        return jax.device_put(np.asarray(leaf, jnp.result_type(leaf) if dtype is None else dtype))

    return jax.tree.map(one, tree)


def take(tree: PyTree, indices: Any) -> PyTree:
    """Entries `indices` along the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[indices], tree)


def entry(tree: PyTree, index: Array | int) -> PyTree:
    """Entry `index` along the leading axis of every leaf, as a slice, which is cheaper than a gather."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def write(tree: PyTree, values: PyTree, *index: Array | int) -> PyTree:
    """The tree with entry `index` of every leaf replaced; in a loop the compiler does this in place."""

    def one(leaf: Array, value: Any) -> Array:
        block = jnp.reshape(jnp.asarray(value, leaf.dtype), (*[1] * len(index), *leaf.shape[len(index) :]))
        return jax.lax.dynamic_update_slice(leaf, block, (*index, *[0] * (leaf.ndim - len(index))))

    return jax.tree.map(one, tree, values)


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where `condition` holds and `no` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def leaf_names(tree: PyTree) -> list[str]:
    """Names of the leaves: dict keys joined by dots; a bare array is named x."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "x" for path in paths]


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to be overwritten: zeros, or placeholder keys if `dtype` is a key type."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    return jnp.zeros(shape, dtype)
