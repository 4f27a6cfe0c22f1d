"""Entries of pytrees, read, written and chosen."""

import jax
import jax.numpy as jnp
import numpy as np

from parsample.internal.trees import entry, select, take, write, zeros


def test_entries_are_taken_from_every_leaf_in_the_order_asked_for():
    found = take({"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}, np.array([2, 0]))
    assert found["a"].tolist() == [[4, 5], [0, 1]]
    assert found["b"].tolist() == [2, 0]


def test_an_entry_that_was_written_is_read_again_and_the_others_stay():
    tree = {"a": jnp.zeros((3, 2)), "b": jnp.full((3,), 9)}
    written = write(tree, {"a": jnp.array([1.0, 2.0]), "b": 7}, 1)
    assert written["a"].tolist() == [[0, 0], [1, 2], [0, 0]]
    assert written["b"].tolist() == [9, 7, 9]
    read = entry(written, 1)
    assert (read["a"].tolist(), int(read["b"])) == ([1, 2], 7)


def test_an_entry_along_two_axes_is_written_in_the_type_of_the_leaf():
    written = write(jnp.zeros((2, 3), jnp.int32), 5.0, 1, 2)
    assert written.tolist() == [[0, 0, 0], [0, 0, 5]]
    assert written.dtype == jnp.int32


def test_one_of_two_trees_is_selected():
    yes, no = {"a": jnp.ones(2)}, {"a": jnp.zeros(2)}
    assert select(jnp.array(True), yes, no)["a"].tolist() == [1, 1]
    assert select(jnp.array(False), yes, no)["a"].tolist() == [0, 0]


def test_arrays_to_be_written_may_be_of_keys():
    key = jax.random.key(5)
    keys = write(zeros((3,), key.dtype), key, 2)
    assert (keys.shape, keys.dtype) == ((3,), key.dtype)
    np.testing.assert_array_equal(jax.random.key_data(keys[2]), jax.random.key_data(key))
    assert zeros((2, 2), np.dtype("int32")).tolist() == [[0, 0], [0, 0]]
