"""Positions as flat vectors, and back."""

import jax
import numpy as np

from parsample.draws.layout import Layout

POSITION = {"a": np.arange(6.0).reshape(2, 3), "b": (np.array(6.0), np.array([7.0, 8.0]))}


def test_a_position_lies_flat_leaf_after_leaf():
    layout = Layout.of(POSITION)
    assert (layout.dimension, layout.shapes, layout.dtype) == (9, ((2, 3), (), (2,)), np.dtype(float))
    np.testing.assert_array_equal(layout.ravel(POSITION), np.arange(9.0))


def test_vectors_with_leading_axes_become_positions_with_the_same_axes():
    layout, vectors = Layout.of(POSITION), np.arange(180.0).reshape(4, 5, 9)
    found = layout.unravel(vectors)
    assert jax.tree.structure(found) == jax.tree.structure(POSITION)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(4, 5, 2, 3), (4, 5), (4, 5, 2)]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(layout.ravel(jax.tree.map(lambda leaf: leaf[3, 1], found)), vectors[3, 1])


def test_positions_of_the_same_shapes_have_the_same_layout():
    layout = Layout.of(POSITION)
    same = Layout.of(jax.tree.map(np.zeros_like, POSITION))
    assert (same, hash(same)) == (layout, hash(layout))
    assert Layout.of({**POSITION, "a": np.zeros((3, 2))}) != layout
    assert Layout.of({**POSITION, "c": np.zeros(0)}) != layout
    assert Layout.of(jax.tree.map(np.float32, POSITION)) != layout
