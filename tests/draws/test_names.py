"""Names and labels that neither ArviZ nor files can hold are refused."""

import arviz
import numpy as np
import pytest
import xarray

from parsample.draws.names import check_elements, check_names, check_variables


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/b"], r"files cannot hold a variable named 'a/b'\. Rename it: pass names="),
        ([""], "cannot hold a variable named ''"),
        ([".hidden"], "cannot hold a variable named '.hidden'"),
        ([3], "cannot hold a variable named 3"),
        (["draw"], "a variable cannot be named 'draw', like an axis of all draws"),
        (["x", "chain"], "a variable cannot be named 'chain'"),
        (["a.b", "c", "a.b"], r"two variables are named 'a\.b'"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_names_that_cannot_be_are_refused(names, words):
    with pytest.raises(ValueError, match=words):
        check_names(names)


SHAPES = {"x": (2,), "y": (2, 3), "z": ()}
OTHERS = {"data": (5,)}


@pytest.mark.parametrize(
    ("dims", "coords", "words"),
    [
        ({"w": ["a"]}, {}, r"dims names a variable 'w'; the variables are \['data', 'x', 'y', 'z'\]"),
        ({"x": ["a", "b"]}, {}, r"dims\['x'\] = \['a', 'b'\] names 2 dimensions; x has 1"),
        ({"data": []}, {}, r"names 0 dimensions; data has 1"),
        ({"x": ["x"]}, {}, "names a dimension 'x', like an axis of all draws or the variable itself"),
        ({"x": ["draw"]}, {}, "names a dimension 'draw', like an axis"),
        ({"x": ["z"]}, {}, "names a dimension 'z', like another variable"),
        ({"x": ["a/b"]}, {}, "files cannot hold a dimension named 'a/b'"),
        ({"y": ["a", "a"]}, {}, "names two dimensions alike"),
        ({"x": ["a"], "y": ["b", "a"]}, {}, "dims gives the name 'a' to dimensions of sizes 2 and 3"),
        ({"x": ["a"]}, {"a": [1, 2, 3]}, r"coords\['a'\] has 3 labels; that dimension of x has size 2"),
        ({"x": ["a"]}, {"a": 3}, r"coords\['a'\] must be a sequence of labels; got 3"),
        ({}, {"chain": [1, 2]}, "coords names 'chain', an axis of all draws"),
    ],
)
def test_labels_that_cannot_be_are_refused(dims, coords, words):
    with pytest.raises(ValueError, match=words):
        check_variables(SHAPES, dims, coords, OTHERS)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("labels", ["ab", 3])
def test_dims_are_sequences_of_names(labels):
    with pytest.raises(TypeError, match=r"dims\['x'\] must be a sequence of names, one per dimension; got"):
        check_variables(SHAPES, {"x": labels}, {})


def test_variables_named_like_the_dimensions_of_others_are_refused():
    shapes = {"x": (2,), "x_dim_0": ()}
    with pytest.raises(ValueError, match="a variable is named 'x_dim_0', like a dimension of x"):
        check_variables(shapes, {}, {})
    check_variables(shapes, {"x": ["a"]}, {})


def test_variables_without_elements_are_refused():
    with pytest.raises(ValueError, match=r"variable 'x' has shape \(2, 0\), so no elements"):
        check_elements({"y": (), "x": (2, 0)})


def test_what_passes_is_held_by_trees_and_files(tmp_path):
    shapes = {"a.b": (2,), "tau²": (), "y": (2, 3), "plain": (4,)}
    dims = {"a.b": ["side"], "y": ["side", None], "data": ["case"]}
    coords = {"side": ["left", "right"], "unused": [1, 2, 3]}
    check_variables(shapes, dims, coords, {"data": (5,)})
    posterior = {name: np.ones((1, 4, *shape)) for name, shape in shapes.items()}
    labels = {name: dims[name] for name in ("a.b", "y")}
    arviz.from_dict({"posterior": posterior}, dims=labels, coords=coords).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf"
    )
    with xarray.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree["posterior"].data_vars) == set(shapes)
        assert tree["posterior"]["y"].dims == ("chain", "draw", "side", "y_dim_0")


@pytest.mark.parametrize("labels", [3, "ab", np.zeros((2, 2))])
def test_labels_must_be_a_sequence(labels):
    with pytest.raises(ValueError, match=r"coords\['a'\] must be a sequence of labels"):
        check_variables({"x": (2,)}, {"x": ["a"]}, {"a": labels})
