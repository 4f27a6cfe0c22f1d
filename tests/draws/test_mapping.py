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


RESULTS = {
    "an array": (lambda position: position["x"], TypeError, "must return a dict of arrays by name; it returned"),
    "a dict in a dict": (lambda position: {"a": position}, TypeError, "it returned dict as 'a': give each array"),
    "a list in a dict": (lambda position: {"a": [position["x"]]}, TypeError, "it returned list as 'a'"),
    "nothing in a dict": (lambda position: {"a": None}, TypeError, "it returned NoneType as 'a'"),
    "text": (lambda position: {"a": "text"}, ValueError, "cannot be evaluated at a position .*'text'"),
    "an error": (
        lambda position: position["y"],
        ValueError,
        r"cannot be evaluated at a position .*\[3\].*KeyError: 'y'",
    ),
}


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("case", RESULTS)
def test_results_must_be_a_dict_of_arrays(case):
    function, error, words = RESULTS[case]
    with pytest.raises(error, match=f"log_likelihood .*{words}"):
        map_draws(function, POSITIONS, name="log_likelihood")
