"""Random keys as words: nothing is lost on the way to NumPy and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.internal.random_keys import as_keys, as_words, is_key, kinds_of


def test_typed_keys_are_told_from_plain_arrays():
    key = jax.random.key(0)
    assert is_key(key)
    assert is_key(jax.ShapeDtypeStruct((3,), key.dtype))
    assert not any(map(is_key, (jax.random.PRNGKey(0), jnp.zeros(2), np.zeros(2), 1.0, None)))


@pytest.mark.parametrize(("kind", "num_words"), [("threefry2x32", 2), ("rbg", 4)])
def test_keys_become_words_and_the_same_keys_again(kind, num_words):
    tree = {"key": jax.random.key(3, impl=kind), "keys": jax.random.split(jax.random.key(4, impl=kind), 5)}
    words, kinds = as_words(tree), kinds_of(tree)
    assert (words["key"].shape, words["keys"].shape) == ((num_words,), (5, num_words))
    assert {leaf.dtype for leaf in words.values()} == {np.dtype("uint32")}
    again = as_keys(jax.tree.map(np.asarray, words), kinds)
    for name, keys in tree.items():
        assert again[name].dtype == keys.dtype
        np.testing.assert_array_equal(jax.random.key_data(again[name]), jax.random.key_data(keys))


def test_what_is_no_key_stays_as_it_is():
    tree = {"key": jax.random.key(3), "x": jnp.arange(2.0)}
    assert [kind is None for kind in kinds_of(tree)] == [False, True]
    assert {kinds_of(tree)} == {kinds_of({"key": jax.random.key(8), "x": jnp.zeros(7)})}
    assert as_words(tree)["x"] is tree["x"]
    assert as_keys(as_words(tree), kinds_of(tree))["x"] is tree["x"]
