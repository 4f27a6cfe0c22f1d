"""Runs that survive: killed or interrupted at any point, they go on bitwise as if they had not been."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from parsample import Covariance, Model, Moments, StopAt, resume, sample
from parsample.draws.run_store import RunStore
from parsample.internal import files

SCALES = np.array([0.5, 1.0, 2.0])
RUN: dict[str, Any] = {"num_samples": 700, "num_chains": 2, "num_lanes": 8, "progress_bar": False}


def logdensity(x: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((x / SCALES) ** 2)


def start() -> jax.Array:
    return jnp.zeros(3)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six segments or more in a run, in chunks that segments share."""
    monkeypatch.setattr("parsample.samplers.schedule.block_size_of", lambda *_: 32)
    monkeypatch.setattr("parsample.samplers.schedule._max_steps", lambda *_: 128)
    monkeypatch.setattr("parsample.draws.run_store.MIN_CHUNK_BYTES", 40_000)


class Killed(BaseException):
    """Stands for the end of the process: no code of ours handles it."""


def killed_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process die before its file operation of this number."""
    count = itertools.count()

    def counted(function: Callable) -> Callable:
        def operation(*arguments: Any) -> Any:
            if next(count) >= number:
                raise Killed
            return function(*arguments)

        return operation

    monkeypatch.setattr("parsample.draws.run_store.write_atomically", counted(files.write_atomically))
    monkeypatch.setattr("parsample.draws.run_store.delete", counted(files.delete))
    monkeypatch.setattr("parsample.draws.run_store.move", counted(files.move))


def draws_in(out: Path) -> dict[str, np.ndarray]:
    """Variables and statistics in a store, by group and name."""
    with xarray.open_datatree(out, engine="zarr") as tree:
        return {
            f"{group}/{name}": values.to_numpy()
            for group in ("posterior", "sample_stats")
            for name, values in tree[group].data_vars.items()
        }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """All draws of `found` are the first of `expected`, bit by bit."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name][:, : values.shape[1]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The draws of a run that nothing interrupted, of default segments."""
    result = sample(jax.random.key(3), logdensity, start(), **RUN)
    statistics = {f"sample_stats/{name}": values for name, values in result.sample_stats.items()}
    step_size = np.full((2, 700), np.float32(np.mean(result.adaptation.parameters.step_size)))
    return {"posterior/x": result.positions, **statistics, "sample_stats/step_size": step_size}


@pytest.mark.parametrize("method", ["auto", "sequential"])
def test_a_store_holds_what_memory_would(tmp_path, whole, method):
    result = sample(jax.random.key(3), logdensity, start(), method=method, out=tmp_path / "run.zarr", **RUN)
    assert_same(draws_in(tmp_path / "run.zarr"), whole)
    tree = result.to_arviz()
    assert tree["posterior"]["x"].shape == (2, 700, 3)
    assert (tree.attrs["complete"], tree.attrs["num_draws"], tree.attrs["status"]) == (1, 700, result.status.name)
    assert tree.attrs["certificate"] == result.certificate
    assert len(result.segments) >= 3
    assert result.positions is None
    assert not list(tmp_path.glob(".*"))


def test_a_run_killed_before_any_file_operation_goes_on_bitwise(tmp_path, monkeypatch, whole):
    number, ends = 0, set()
    while True:
        out = tmp_path / f"run{number}.zarr"
        with monkeypatch.context() as patch:
            killed_after(patch, number)
            try:
                sample(jax.random.key(3), logdensity, start(), out=out, **RUN)
                break
            except Killed:
                pass
        if out.exists():
            found = draws_in(out)
            assert_same(found, whole)
            with xarray.open_datatree(out, engine="zarr") as tree:
                assert tree.attrs["num_draws"] == found["posterior/x"].shape[1]
                assert "certificate" in tree.attrs
            ends.add(found["posterior/x"].shape[1])
            result = resume(out, logdensity, start(), progress_bar=False)
            assert result.num_draws == 700
            assert_same(draws_in(out), whole)
            shutil.rmtree(out)
        number += 14  # of 13 operations per segment, so that every kind has its turn
    assert number > 60
    assert len(ends) >= 3


def test_a_finished_run_is_extended_bitwise(tmp_path, whole):
    out = tmp_path / "run.zarr"
    sample(jax.random.key(3), logdensity, start(), out=out, **{**RUN, "num_samples": 300})
    first = draws_in(out)
    for num_samples in (310, 310, 700):
        result = resume(out, logdensity, start(), num_samples=num_samples, progress_bar=False)
        assert result.num_draws == num_samples
        assert_same(draws_in(out), whole)
    assert_same(first, whole)
    assert result.certificate.startswith("certified")
    with pytest.raises(ValueError, match="already holds 700 draws per chain"):
        resume(out, logdensity, start(), num_samples=500, progress_bar=False)


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Press Ctrl-C before this segment is written."""
    count, append = itertools.count(), RunStore.append

    def appended(*arguments: Any) -> None:
        if next(count) == number:
            raise KeyboardInterrupt
        append(*arguments)

    monkeypatch.setattr(RunStore, "append", appended)


def test_an_interrupted_run_says_what_is_there_and_goes_on(tmp_path, monkeypatch, whole):
    out = tmp_path / "run.zarr"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        result = sample(jax.random.key(3), logdensity, start(), out=out, **RUN)
    assert result.interrupted
    num_draws = result.to_arviz()["posterior"].sizes["draw"]
    assert 0 < num_draws == result.num_draws < 700
    assert len(result.segments) == 2
    assert result.to_arviz().attrs["complete"] == 0
    assert_same(draws_in(out), whole)
    assert resume(out, logdensity, start(), progress_bar=False).num_draws == 700
    assert_same(draws_in(out), whole)


def test_an_interrupt_before_any_draws_leaves_a_run_to_begin(tmp_path, monkeypatch, whole):
    out = tmp_path / "run.zarr"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            sample(jax.random.key(3), logdensity, start(), out=out, **RUN)
    assert draws_in(out)["posterior/x"].shape == (2, 0, 3)
    assert resume(out, logdensity, start(), progress_bar=False).num_draws == 700
    assert_same(draws_in(out), whole)


@pytest.mark.parametrize(
    "kernel", ["metropolis", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nuts", "mala"))]
)
def test_every_kernel_goes_on_bitwise(tmp_path, monkeypatch, kernel):
    settings = {**RUN, "kernel": kernel, "num_samples": 300}
    expected = sample(jax.random.key(1), logdensity, start(), **settings).positions
    out = tmp_path / "run.zarr"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 1)
        sample(jax.random.key(1), logdensity, start(), out=out, **settings)
    resume(out, logdensity, start(), progress_bar=False)
    np.testing.assert_array_equal(draws_in(out)["posterior/x"], expected)


def test_blocks_that_meet_within_a_tolerance_go_on_bitwise(tmp_path, monkeypatch):
    settings = {**RUN, "exact_meeting": False, "method": "deer"}
    expected = sample(jax.random.key(1), logdensity, start(), **settings)
    assert expected.defect > 0
    out = tmp_path / "run.zarr"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 1)
        sample(jax.random.key(1), logdensity, start(), out=out, **settings)
    result = resume(out, logdensity, start(), progress_bar=False)
    np.testing.assert_array_equal(draws_in(out)["posterior/x"], expected.positions)
    assert (result.defect, result.evals_per_step) == (expected.defect, expected.evals_per_step)


def total(variables: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"total": variables["x"].sum()}


def test_thinned_draws_summaries_and_early_stops_go_on(tmp_path, monkeypatch):
    reduce = {"moments": Moments(), "covariance": Covariance()}
    settings = {**RUN, "thin": 3, "keep": total, "reduce": reduce, "num_samples": 600, "stop_at": StopAt(ess=300)}
    expected = sample(jax.random.key(1), logdensity, start(), **settings, out=tmp_path / "one.zarr")
    assert expected.stopped_early
    assert 100 < expected.num_draws < 600
    out = tmp_path / "two.zarr"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 1)
        sample(jax.random.key(1), logdensity, start(), **settings, out=out)
    with pytest.raises(ValueError, match="begun with a function as keep=; pass it again"):
        resume(out, logdensity, start(), reduce=reduce, progress_bar=False)
    with pytest.raises(ValueError, match="begun with reduce=; pass it again"):
        resume(out, logdensity, start(), keep=total, progress_bar=False)
    found = resume(out, logdensity, start(), keep=total, reduce=reduce, progress_bar=False)
    assert_same(draws_in(out), draws_in(tmp_path / "one.zarr"))
    assert found.num_draws == expected.num_draws
    jax.tree.map(np.testing.assert_array_equal, found.reductions, expected.reductions)


def test_another_run_is_refused_by_what_differs(tmp_path):
    out, data = tmp_path / "run.zarr", np.array([1.0, 2.0])

    def with_data(x: jax.Array, y: jax.Array) -> jax.Array:
        return logdensity(x) - 0.5 * jnp.sum((y - x[0]) ** 2)

    model = Model(with_data, start(), data=data)
    sample(jax.random.key(3), model, out=out, **{**RUN, "num_samples": 100})
    with pytest.raises(ValueError, match="the run had another model: pass the model and the data"):
        resume(out, model.with_data(data + 1), progress_bar=False)
    with pytest.raises(ValueError, match="the run had another model"):
        resume(out, Model(lambda x, y: 2 * with_data(x, y), start(), data=data), progress_bar=False)
    with pytest.raises(ValueError, match="the run had another position"):
        resume(out, Model(lambda x, y: with_data(x[0], y), start()[None], data=data), progress_bar=False)
    with pytest.raises(ValueError, match="the run had another variables"):
        resume(out, model, keep=lambda variables: {"y": variables["x"]}, progress_bar=False)
    assert resume(out, model.with_data(data.copy()), progress_bar=False).num_draws == 100


@pytest.mark.parametrize(
    ("target", "value", "remedy"),
    [("parsample.samplers.checkpoint.CHAIN_VERSION", 99, "version of parsample"), ("jax.__version__", "9", "of JAX")],
)
def test_other_versions_are_refused(tmp_path, monkeypatch, target, value, remedy):
    out = tmp_path / "run.zarr"
    sample(jax.random.key(3), logdensity, start(), out=out, **{**RUN, "num_samples": 100})
    monkeypatch.setattr(target, value)
    with pytest.raises(ValueError, match=f"the run had another .*{remedy}"):
        resume(out, logdensity, start(), progress_bar=False)


def test_only_runs_are_resumed_and_by_one_process(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.zarr is not the zarr directory of a run"):
        resume(tmp_path / "missing.zarr", logdensity, start())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine is not the zarr directory of a run"):
        resume(tmp_path / "mine", logdensity, start())
    out = tmp_path / "run.zarr"
    sample(jax.random.key(3), logdensity, start(), out=out, **{**RUN, "num_samples": 100})
    busy = RunStore(out)
    with pytest.raises(BlockingIOError, match="another process is writing"):
        resume(out, logdensity, start(), num_samples=200)
    busy.close()
    assert resume(out, logdensity, start(), num_samples=200, progress_bar=False).num_draws == 200


def test_nothing_is_destroyed_by_a_run_that_fails(tmp_path, monkeypatch, whole):
    out = tmp_path / "run.zarr"
    sample(jax.random.key(3), logdensity, start(), out=out, **RUN)
    with pytest.raises(FileExistsError, match=r"go on with it by parsample.resume .* or replace it by overwrite=True"):
        sample(jax.random.key(4), logdensity, start(), out=out, **RUN)
    with monkeypatch.context() as patch:
        patch.setattr("parsample.samplers.running.prepare", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sample(jax.random.key(4), logdensity, start(), out=out, overwrite=True, **RUN)
    assert_same(draws_in(out), whole)
    assert not list(tmp_path.glob(".*"))
    sample(jax.random.key(4), logdensity, start(), out=out, overwrite=True, **RUN)
    assert not np.array_equal(draws_in(out)["posterior/x"], whole["posterior/x"])
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(FileExistsError, match="that parsample did not write"):
        sample(jax.random.key(4), logdensity, start(), out=tmp_path / "mine.zarr", overwrite=True, **RUN)
