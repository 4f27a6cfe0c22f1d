"""Conversion of random keys to plain words and back, for arrays that pass through NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from parsample.internal.trees import on_device

# The implementation of every leaf's keys; None: the leaf holds no keys.
Kinds = tuple[Any, ...]


def is_key(leaf: Any) -> bool:
    """Whether an array, or a `jax.ShapeDtypeStruct`, has a dtype of typed keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def kinds_of(tree: PyTree) -> Kinds:
    """The key implementation of every leaf, None for leaves without keys; hashable."""
    return tuple(jax.random.key_impl(leaf) if is_key(leaf) else None for leaf in jax.tree.leaves(tree))


def as_words(tree: PyTree) -> PyTree:
    """The tree with keys replaced by their words."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def as_keys(tree: PyTree, kinds: Kinds) -> PyTree:
    """The inverse of `as_words`: words replaced by keys of the given `kinds`, as `kinds_of` returned them."""
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, kinds, strict=True)
    wrapped = [leaf if kind is None else jax.random.wrap_key_data(on_device(leaf), impl=kind) for leaf, kind in pairs]
    return jax.tree.unflatten(structure, wrapped)
