"""The variables that are kept: chosen by name or computed, and refused before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import MODEL, SIZES, bell

from parsample import Model, sample
from parsample.models.variables import Variables

POSITIONS = np.arange(2 * 4 * 3.0).reshape(2, 4, 3) - 5


def variables(keep: Any = None, model: Model = MODEL) -> Variables:
    return Variables.of(model, jnp.zeros(3), keep)


def test_all_variables_are_kept_unasked():
    found = variables()
    assert {name: leaf.shape for name, leaf in found.example.items()} == {"x": (3,), "total": (), "is_positive": (3,)}
    assert found.bytes_per_draw == 3 * 8 + 8 + 3
    assert (found.dims, found.coords) == ({"x": ["axis"]}, {"axis": ["a", "b", "c"]})
    np.testing.assert_array_equal(found.function(POSITIONS)["total"], POSITIONS.sum(-1))


def test_variables_are_kept_by_name_with_their_labels():
    found = variables(["total"])
    assert (list(found.example), found.bytes_per_draw, found.dims) == (["total"], 8, {})
    np.testing.assert_array_equal(found.function(POSITIONS)["total"], POSITIONS.sum(-1))
    assert variables(("x", "total")).dims == {"x": ["axis"]}
    assert list(variables("total").example) == ["total"]
    assert list(variables([]).example) == []


def test_variables_may_be_computed_from_others():
    found = variables(lambda all_: {"largest": jnp.where(all_["is_positive"], all_["x"], 0).max(), "x": all_["x"]})
    np.testing.assert_array_equal(found.function(POSITIONS)["largest"], np.maximum(POSITIONS, 0).max(-1))
    assert found.dims == {"x": ["axis"]}


def test_functions_see_the_data_of_the_model():
    model = Model(
        lambda x, y: bell(x - y),
        np.zeros(3),
        data=np.full(3, 2.0),
        constrain=lambda x, y: {"shifted": x - y},
        observed_data={"seen": np.ones(5)},
        dims={"seen": ["case"]},
    )
    found = variables(lambda all_: {"sum": all_["shifted"].sum()}, model)
    np.testing.assert_array_equal(found.function(POSITIONS)["sum"], (POSITIONS - 2).sum(-1))
    assert found.dims == {"seen": ["case"]}


def test_leaves_are_variables_under_the_names_of_the_model():
    position = {"b": jnp.zeros(2), "a": {"c": jnp.zeros(())}}
    density = lambda p: bell(jnp.append(p["b"], p["a"]["c"]))  # noqa: E731
    assert list(Variables.of(Model(density, position), position).example) == ["a.c", "b"]
    assert list(Variables.of(Model(density, position, names=["one", "two"]), position).example) == ["one", "two"]


def leaves(position: Any) -> jax.Array:
    return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(position))


ZERO, TWO = np.zeros(()), np.zeros(2)
REFUSED: dict[str, tuple[Model, Any, type[Exception], str]] = {
    "a slash": (Model(leaves, {"a/b": ZERO}), None, ValueError, "files cannot hold a variable named 'a/b'"),
    "an axis": (Model(leaves, {"draw": ZERO}), None, ValueError, "a variable cannot be named 'draw'"),
    "another axis": (Model(leaves, TWO, names=["chain"]), None, ValueError, "a variable cannot be named 'chain'"),
    "twice the same": (
        Model(leaves, {"a.b": ZERO, "a": {"b": ZERO}}),
        None,
        ValueError,
        r"two variables are named 'a\.b'",
    ),
    "like a dimension": (Model(leaves, {"x": TWO, "x_dim_0": ZERO}), None, ValueError, "like a dimension of x"),
    "no elements": (Model(leaves, {"x": TWO, "y": np.zeros(0)}), None, ValueError, "variable 'y' has shape"),
    "wrong dims": (MODEL.replace(dims={"x": ["a", "b"]}), None, ValueError, "names 2 dimensions; x has 1"),
    "dims of nothing": (MODEL.replace(dims={"z": []}), None, ValueError, "dims names a variable 'z'"),
    "wrong coords": (MODEL.replace(coords={"axis": [1, 2]}), None, ValueError, "has 2 labels; that dimension of x has"),
    "constrain": (MODEL.replace(constrain=lambda x: x), None, TypeError, "constrain must return a dict"),
    "an unknown name": (
        MODEL,
        ["x", "z"],
        ValueError,
        r"keep names \['z'\], which are not variables of the model; these are: \['is_positive', 'total', 'x'\]",
    ),
    "no dict": (MODEL, lambda all_: all_["x"], TypeError, "keep must return a dict of arrays by name"),
    "a computed slash": (MODEL, lambda all_: {"a/b": all_["x"]}, ValueError, "a variable named 'a/b'"),
    "a computed axis": (MODEL, lambda all_: {"draw": all_["x"]}, ValueError, "cannot be named 'draw'"),
    "dims of another shape": (MODEL, lambda all_: {"x": all_["total"]}, ValueError, "names 1 dimensions; x has 0"),
    "nothing left": (MODEL, lambda all_: {"x": all_["x"][:0]}, ValueError, "no elements: leave it out, by keep="),
    "an unknown key": (MODEL, lambda all_: {"z": all_["z"]}, ValueError, "keep cannot be evaluated.*KeyError: 'z'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", [None, "run.zarr"])
def test_what_cannot_be_kept_is_refused_before_the_run(monkeypatch, tmp_path, case, name):
    monkeypatch.setattr("parsample.samplers.sample.begin", lambda *_, **__: pytest.fail("a run was begun"))
    model, keep, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        sample(jax.random.key(0), model, keep=keep, out=name and tmp_path / name, **SIZES)
    assert list(tmp_path.iterdir()) == []
