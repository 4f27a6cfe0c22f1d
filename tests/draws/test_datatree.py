"""Export: groups, names and labels of the DataTree, and round trips through files."""

import dataclasses
import functools
import json
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from chains import gaussian, gaussian_start
from mapped import lies_in_a_file, linux_only, mapped
from marks import slow

from parsample import Status, __version__
from parsample.draws.datatree import named_leaves, save
from parsample.draws.store import allocate, release
from parsample.draws.summary import summary_table
from parsample.samplers.plots import plot_draws
from parsample.samplers.result import SampleResult
from parsample.samplers.sample import sample


@functools.cache
def result() -> SampleResult:
    kwargs = {"num_samples": 1000, "num_warmup": 300, "num_chains": 2, "progress_bar": False}
    return sample(jax.random.key(0), gaussian, gaussian_start(), kernel="hmc", method="sequential", **kwargs)


def constrain(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"scale": jnp.exp(position["x"]), "total": position["x"].sum() + position["y"][0, 0]}


def test_groups_variables_and_dimensions():
    tree = result().to_arviz()
    assert set(tree.children) == {"posterior", "sample_stats"}
    posterior, stats = tree["posterior"], tree["sample_stats"]
    assert dict(posterior.sizes) == {"chain": 2, "draw": 1000, "x_dim_0": 2, "y_dim_0": 1, "y_dim_1": 1}
    assert posterior["x"].dims == ("chain", "draw", "x_dim_0")
    for name in ("x", "y"):
        np.testing.assert_array_equal(posterior[name], result().positions[name])
    names = {"lp", "acceptance_rate", "diverging", "n_steps", "energy", "step_size"}
    assert set(stats.data_vars) == names
    assert {variable.dims for variable in stats.data_vars.values()} == {("chain", "draw")}
    assert stats["diverging"].dtype == bool
    np.testing.assert_allclose(stats["step_size"], result().adaptation.parameters.step_size, rtol=1e-6)


def test_dims_and_coords_label_the_draws():
    tree = result().to_arviz(dims={"x": ["axis"]}, coords={"axis": ["left", "right"]})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "axis")
    right = tree["posterior"]["x"].sel(axis="right")
    np.testing.assert_array_equal(right, result().positions["x"][..., 1])


def test_constrain_makes_the_variables():
    tree = result().to_arviz(constrain=constrain, dims={"scale": ["axis"]}, coords={"axis": [0, 1]})
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == {"scale", "total"}
    assert (posterior["scale"].shape, posterior["total"].shape) == ((2, 1000, 2), (2, 1000))
    x, y = result().positions["x"], result().positions["y"]
    np.testing.assert_allclose(posterior["scale"], np.exp(x), rtol=1e-12)
    np.testing.assert_allclose(posterior["total"], x.sum(-1) + y[..., 0, 0], rtol=1e-10, atol=1e-12)


def test_attributes_tell_what_the_draws_are():
    attributes = result().to_arviz().attrs
    assert attributes["inference_library"] == "parsample"
    assert attributes["inference_library_version"] == __version__
    assert attributes["certificate"] == result().certificate
    assert attributes["status"] == Status.SEQUENTIAL.name
    assert (attributes["defect"], attributes["evals_per_step"]) == (0, 1)
    settings = json.loads(attributes["settings"])
    assert (settings["num_samples"], settings["num_chains"], settings["kernel"]) == (1000, 2, "hmc")
    assert {"jax", "blackjax", "arviz"} <= set(settings["versions"])
    assert settings["seconds"]["sampling"] == pytest.approx(attributes["sampling_time"])
    assert attributes["tuning_steps"] == result().adaptation.num_steps > 0


@pytest.mark.parametrize(("name", "engine"), [("draws.nc", "h5netcdf"), ("draws.zarr", "zarr")])
def test_everything_survives_a_file(tmp_path, name, engine):
    tree = result().to_arviz(dims={"x": ["axis"]}, coords={"axis": ["left", "right"]})
    save(tree, tmp_path / name)
    save(tree, tmp_path / name)  # and again, over the existing file
    read = xarray.open_datatree(tmp_path / name, engine=engine)
    for group in ("posterior", "sample_stats"):
        xarray.testing.assert_equal(read[group].to_dataset().load(), tree[group].to_dataset())
    assert read["posterior"]["x"].dtype == np.float64
    assert list(read["posterior"]["axis"].values) == ["left", "right"]
    assert dict(read.attrs) == tree.attrs
    assert "certified" in read.attrs["certificate"]
    assert json.loads(read.attrs["settings"])["num_samples"] == 1000
    read.close()


def mixed(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {**constrain(position), "positive": position["x"] > 0, "rounded": jnp.round(position["y"]).astype(int)}


@pytest.mark.parametrize(
    ("name", "engine", "function"),
    [
        ("draws.nc", "h5netcdf", mixed),
        ("draws.zarr", "zarr", None),
        slow("draws.nc", "h5netcdf", None),
        slow("draws.zarr", "zarr", mixed),
    ],
)
def test_a_file_is_the_same_if_written_in_pieces(monkeypatch, tmp_path, name, engine, function):
    tree = result().to_arviz(constrain=function)
    save(tree, tmp_path / name)
    with xarray.open_datatree(tmp_path / name, engine=engine) as file:
        expected = file.load()
    monkeypatch.setattr("parsample.draws.datatree.CHUNK_BYTES", 8000)  # of about 130,000 in all
    for path in (tmp_path / name, tmp_path / f"new_{name}"):
        save(tree, path)
        with xarray.open_datatree(path, engine=engine) as read:
            xarray.testing.assert_identical(read.load(), expected)
            assert len(read["posterior"]["draw"]) == 1000
            for group in ("posterior", "sample_stats"):
                for variable, values in tree[group].data_vars.items():
                    np.testing.assert_array_equal(read[group][variable], values)
                    assert read[group][variable].dtype == values.dtype


@linux_only
@pytest.mark.parametrize("chunk_bytes", [2**23, 8000])  # all at once, and in pieces
def test_without_room_for_a_file_there_is_an_error_and_no_file(monkeypatch, tmp_path, chunk_bytes):
    import resource  # noqa: PLC0415 - POSIX only

    monkeypatch.setattr("parsample.draws.datatree.CHUNK_BYTES", chunk_bytes)
    tree = result().to_arviz()
    save(tree, tmp_path / "whole.nc")
    size = (tmp_path / "whole.nc").stat().st_size
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(size // 8, size, size // 8):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, former[1]))
        try:
            with pytest.raises(OSError, match=r"draws.nc cannot be written.*File too large"):
                save(tree, tmp_path / "draws.nc")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.nc"]


@linux_only
@pytest.mark.parametrize("name", ["draws.nc", slow("draws.zarr")])
def test_draws_in_files_are_not_left_in_memory(monkeypatch, tmp_path, name):
    monkeypatch.setattr("parsample.draws.store.MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr("parsample.draws.datatree.CHUNK_BYTES", 8000)
    monkeypatch.setattr("parsample.draws.mapping.PIECE_BYTES", 8000)
    monkeypatch.setattr("parsample.draws.summary.MAX_SUMMARY_VALUES", 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arrays = allocate({"x": np.zeros(2), "y": np.zeros((1, 1)), "lp": np.zeros(())}, (2, 1000), scratch)
    arrays["x"][:], arrays["y"][:], arrays["lp"][:] = *result().positions.values(), result().sample_stats["lp"]
    release(*arrays.values())
    in_files = dataclasses.replace(
        result(),
        positions={name: arrays[name] for name in ("x", "y")},
        sample_stats={**result().sample_stats, "lp": arrays["lp"]},
        scratch_dir=scratch,
    )
    tree = in_files.to_arviz(constrain=constrain)
    assert mapped(scratch) == [0] * 5  # three arrays and two constrained ones
    assert lies_in_a_file(tree["posterior"]["scale"].to_numpy())
    save(tree, tmp_path / name)
    table = summary_table(tree)
    plot_draws(arviz.plot_trace, tree)
    plot_draws(arviz.plot_rank, tree)
    assert mapped(scratch) == [0] * 5
    expected = result().to_arviz(constrain=constrain)
    assert table == summary_table(expected)
    xarray.testing.assert_equal(tree, expected)


def test_arviz_reads_the_file(tmp_path):
    save(result().to_arviz(), tmp_path / "draws.nc")
    read = arviz.from_netcdf(tmp_path / "draws.nc")
    np.testing.assert_array_equal(read["posterior"]["x"], result().positions["x"])
    assert read.attrs["status"] == "SEQUENTIAL"
    read.close()


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"beta": ["axis"]}, r"dims names a variable 'beta'; the variables are \['x', 'y'\]"),
        ({"x": ["row", "column"]}, r"dims\['x'\] = \['row', 'column'\] names 2 dimensions; x has 1"),
        ({"y": ["row"]}, r"names 1 dimensions; y has 2"),
    ],
)
def test_wrong_dims_are_refused(dims, message):
    with pytest.raises(ValueError, match=message):
        result().to_arviz(dims=dims)


@pytest.mark.parametrize("returns", [lambda position: position["x"], lambda position: (position["x"], position["y"])])
def test_constrain_must_return_a_dict(returns):
    with pytest.raises(TypeError, match=r"constrain must return a dict of arrays by name; it returned \w+\."):
        result().to_arviz(constrain=returns)


ONES = np.ones((2, 5, 3))
NAMES: list[tuple[Any, list[str]]] = [
    (ONES, ["x"]),
    ({"b": ONES, "a": ONES}, ["a", "b"]),
    ({"group": {"mu": ONES, "tau": {"log": ONES}}}, ["group.mu", "group.tau.log"]),
    ((ONES, ONES), ["0", "1"]),
]


@pytest.mark.parametrize(("positions", "names"), NAMES)
def test_names_of_leaves(positions, names):
    leaves = named_leaves(positions)
    assert list(leaves) == names
    assert all(leaf.shape == (2, 5, 3) for leaf in leaves.values())
