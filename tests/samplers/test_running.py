"""Where the draws of a run end up: memory, netCDF, a store; and what is left if a disk is full."""

import errno
import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from small import MODEL, SIZES, bell, small

from parsample import Moments, resume
from parsample.draws.run_store import RunStore

LONGER: dict[str, Any] = {"num_samples": 300, "seed": 1}


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsample.samplers.schedule._max_steps", lambda *_: 64)


def posterior(path: Path) -> dict[str, np.ndarray]:
    with xarray.open_datatree(path) as tree:
        return {str(name): values.to_numpy() for name, values in tree["posterior"].data_vars.items()}


def total(variables: dict[str, Any]) -> dict[str, Any]:
    return {"total": variables["total"] ** 2}


KEEP: dict[str, Any] = {"all": None, "names": ["total"], "none": [], "function": total}
STATISTICS: dict[str, Any] = {"all statistics": None, "lp": ["lp"], "no statistics": []}
# The default run has each choice once.
DEFAULT = [("all", "all statistics"), ("names", "lp"), ("none", "lp"), ("function", "no statistics")]


@pytest.mark.parametrize(
    ("keep", "statistics"),
    [
        pytest.param(KEEP[name], STATISTICS[other], id=f"{other}-{name}", marks=marks)
        for name, other in itertools.product(KEEP, STATISTICS)
        for marks in [[] if (name, other) in DEFAULT else [pytest.mark.slow]]
    ],
)
def test_memory_and_files_hold_the_same(tmp_path, keep, statistics):
    whole = small(MODEL).to_arviz()
    expected = {name: values.to_numpy() for name, values in whole["posterior"].data_vars.items()}
    if keep is total:
        expected = {"total": expected["total"] ** 2}
    elif keep is not None:
        expected = {name: expected[name] for name in keep}
    trees = [small(MODEL, keep=keep, statistics=statistics).to_arviz()]
    for name in ("a.nc", "a.zarr"):
        result = small(MODEL, keep=keep, statistics=statistics, out=tmp_path / name)
        with xarray.open_datatree(tmp_path / name) as file:
            trees.append(file.load())
        assert result.num_draws == 60
    for tree in trees:
        found = tree["posterior"].data_vars if "posterior" in tree.children else {}
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-14)
        names = set() if statistics == [] else {*(statistics or small().sample_stats), "step_size"}
        assert set(tree["sample_stats"].data_vars if "sample_stats" in tree.children else ()) == names
        if statistics != []:
            np.testing.assert_array_equal(tree["sample_stats"]["lp"], whole["sample_stats"]["lp"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a.zarr"]


def test_a_netcdf_file_is_written_at_the_end_and_replaced_only_if_asked(tmp_path):
    path = tmp_path / "a.nc"
    result = small(MODEL, out=path)
    assert result.store is None
    np.testing.assert_array_equal(posterior(path)["x"], result.positions)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match=r"a\.nc exists: name another, or replace it by overwrite=True"):
        small(MODEL, out=path, seed=2)
    np.testing.assert_array_equal(posterior(path)["x"], result.positions)
    other = small(MODEL, out=path, seed=2, overwrite=True)
    np.testing.assert_array_equal(posterior(path)["x"], other.positions)
    assert list(tmp_path.iterdir()) == [path]


def test_results_say_that_their_draws_are_in_a_store(tmp_path):
    out = tmp_path / "a.zarr"
    result = small(MODEL, out=out, thin=2)
    assert repr(result).splitlines()[0] == "2 chains x 60 draws, kernel hmc, 2 steps per draw"
    for shown in (repr(result), result._repr_html_()):
        assert str(out) in shown
        assert "certified: evaluated step by step" in shown
    assert (result.positions, result.variables, result.sample_stats) == (None, None, {})
    assert result.summary().count("\n") == 7  # a header and seven components
    with pytest.raises(ValueError, match="draws in a store have the variables and labels of the model"):
        result.to_arviz(dims={"x": ["row"]})
    assert [row.split()[:2] for row in repr(result).splitlines()[-3:-1]] == [["stored", "in"], ["path", "certified:"]]
    assert "stored in" not in repr(small())


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("place", ["append", "_write"])
def test_a_full_disk_leaves_what_was_finished_and_says_how_to_go_on(tmp_path, monkeypatch, place):
    out, count, original = tmp_path / "a.zarr", itertools.count(), getattr(RunStore, place)

    def full(*arguments: Any) -> None:
        if next(count) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, place, full)
        words = r"a\.zarr: No space left on device; the 128 draws .* make room, and go on by parsample\.resume"
        with pytest.raises(OSError, match=words):
            small(MODEL, out=out, **LONGER)
    expected = small(MODEL, **LONGER).positions
    np.testing.assert_array_equal(posterior(out)["x"], expected[:, :128])
    assert resume(out, MODEL, progress_bar=False).num_draws == 300
    np.testing.assert_array_equal(posterior(out)["x"], expected)


@pytest.mark.usefixtures("short_segments")
def test_a_full_disk_before_the_first_new_draws_leaves_the_former_ones(tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    former = small(MODEL, out=out).to_arviz()["posterior"]["x"].to_numpy()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "append", full)
        with pytest.raises(OSError, match=r"a\.zarr: No space left on device; the former draws stay"):
            small(MODEL, out=out, overwrite=True, **LONGER)
    np.testing.assert_array_equal(posterior(out)["x"], former)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.usefixtures("short_segments")
def test_summaries_of_an_interrupted_run_are_those_of_its_draws(tmp_path, monkeypatch):
    out, count, append = tmp_path / "a.zarr", itertools.count(), RunStore.append

    def interrupted(*arguments: Any) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        append(*arguments)

    monkeypatch.setattr(RunStore, "append", interrupted)
    result = small(MODEL, out=out, reduce=Moments(), **LONGER)
    assert (result.interrupted, result.num_draws) == (True, 128)
    np.testing.assert_allclose(result.reductions["x"]["mean"], posterior(out)["x"].mean((0, 1)), rtol=1e-10)


def nowhere(x: Any) -> Any:
    return jnp.where(x[0] > 100, bell(x), -jnp.inf)


def test_bad_arguments_leave_no_store_behind(tmp_path):
    out = tmp_path / "a.zarr"
    for name, arguments in (("-inf", (nowhere,)), ("adaptation is of kernel", (bell, None))):
        settings = {} if name == "-inf" else {"adaptation": small().adaptation, "kernel": "mala"}
        with pytest.raises(ValueError, match=name):
            small(*arguments, out=out, **settings)
        assert list(tmp_path.iterdir()) == []
    small(MODEL, out=out)
    with pytest.raises(ValueError, match="-inf"):
        small(nowhere, out=out, overwrite=True)
    assert posterior(out)["x"].shape == (2, SIZES["num_samples"], 3)
    assert list(tmp_path.iterdir()) == [out]
