"""Functions of single draws applied to all draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mapped import lies_in_a_file

from parsample.draws.mapping import map_draws

POSITIONS = {"x": np.arange(60.0).reshape(2, 10, 3)}


def test_every_draw_is_mapped_with_the_data_in_pieces_of_any_size(monkeypatch):
    def function(position: dict, factor: jax.Array) -> dict[str, jax.Array]:
        return {"total": factor * position["x"].sum(), "x": position["x"]}

    expected = 2 * POSITIONS["x"].sum(-1)
    for num_bytes in (32 * 2**20, 8 * 4 * 2 * 3):  # all draws at once; three draws of two chains
        monkeypatch.setattr("parsample.draws.mapping.PIECE_BYTES", num_bytes)
        found = map_draws(function, POSITIONS, data=(jnp.asarray(2.0),))
        np.testing.assert_array_equal(found["total"], expected)
        np.testing.assert_array_equal(found["x"], POSITIONS["x"])


def test_every_draw_has_its_own_key_in_pieces_of_any_size(monkeypatch):
    def function(rng_key: jax.Array, position: dict) -> dict[str, jax.Array]:
        return {"noise": jax.random.normal(rng_key) + 0 * position["x"][0]}

    whole = map_draws(function, POSITIONS, rng_key=jax.random.key(1))["noise"]
    assert len(np.unique(whole)) == 20
    monkeypatch.setattr("parsample.draws.mapping.PIECE_BYTES", 1)
    np.testing.assert_array_equal(map_draws(function, POSITIONS, rng_key=jax.random.key(1))["noise"], whole)


def test_large_results_lie_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr("parsample.draws.store.MAX_BYTES_IN_MEMORY", 100)
    found = map_draws(lambda position: {"x": position["x"]}, POSITIONS, scratch_dir=tmp_path)
    assert lies_in_a_file(found["x"])
    np.testing.assert_array_equal(found["x"], POSITIONS["x"])


def test_results_must_be_a_dict():
    with pytest.raises(TypeError, match="log_likelihood must return a dict of arrays by name; it returned"):
        map_draws(lambda position: position["x"], POSITIONS, name="log_likelihood")
