"""A store that grows: what was appended is what is read, at every moment and after it is opened again."""

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from parsample.draws.datatree import datatree
from parsample.draws.outputs import ROOT_METADATA
from parsample.draws.run_store import RunStore, checkpoint_of

LIBRARY = {"inference_library": "parsample"}


def invented(*names: str) -> xarray.DataTree:
    """A tree with an array x of three components, and flags without any."""
    shapes = {"x": ((2, 2, 3), np.float32), "flag": ((2, 2), bool)}
    posterior = {name: np.zeros(*shapes[name]) for name in names}
    groups = {"posterior": posterior, "observed_data": {"data": np.arange(4.0)}}
    return datatree({name: found for name, found in groups.items() if found}, LIBRARY)


def draws(first: int, end: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, end) + 100 * np.arange(2)[:, None]
    x = np.stack([numbers, -numbers, numbers % 7], axis=-1).astype(np.float32)
    return {"posterior/x": x, "posterior/flag": numbers % 2 == 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def read(path: Path) -> xarray.DataTree:
    with xarray.open_datatree(path, engine="zarr") as tree:
        return tree.load()


def assert_holds(path: Path, num_draws: int) -> None:
    tree = read(path)
    for name, values in draws(0, num_draws).items():
        np.testing.assert_array_equal(tree[name], values)
    np.testing.assert_array_equal(tree["posterior/draw"], np.arange(num_draws))
    np.testing.assert_array_equal(tree["observed_data/data"], np.arange(4.0))
    assert tree.attrs["num_draws"] == num_draws


@pytest.mark.parametrize(("segment_size", "length"), [(1, 1), (5, 5), (16, 16), (1000, 10)])
def test_segments_of_any_size_share_chunks_of_any_size(monkeypatch, path, segment_size, length):
    monkeypatch.setattr("parsample.draws.run_store.MIN_CHUNK_BYTES", 0)
    monkeypatch.setattr("parsample.draws.run_store.MAX_CHUNK_BYTES", 26 * (length if segment_size == 1000 else 100))
    store = RunStore.create(path, invented("x", "flag"), b"begin", segment_size)
    assert read(path)["posterior/x"].encoding["chunks"] == (2, length, 3)
    assert_holds(path, 0)
    ends = (0, 1, 5, 5, 16, 17)
    for first, end in itertools.pairwise(ends):
        store.append(draws(first, end), end - first, {**LIBRARY, "end": end}, b"checkpoint %d" % end)
        assert_holds(path, end)
        assert read(path).attrs["end"] == store.attributes["end"] == end
        assert checkpoint_of(path) == b"checkpoint %d" % end
    for name, values in store.draws("posterior").items():
        np.testing.assert_array_equal(values, draws(0, 17)[f"posterior/{name}"])
    store.close()


def test_a_store_that_is_opened_again_goes_on(path):
    RunStore.create(path, invented("x", "flag"), b"", 10).close()
    for first, end in itertools.pairwise((0, 3, 10, 11)):
        store = RunStore(path)
        assert store.num_draws == first
        store.append(draws(first, end), end - first, LIBRARY, b"")
        store.close()
    assert_holds(path, 11)


@pytest.mark.parametrize("length", [1, 3, 4, 1000])
def test_a_partly_filled_chunk_is_completed_after_the_store_was_opened_anew(monkeypatch, path, length):
    monkeypatch.setattr("parsample.draws.run_store.MIN_CHUNK_BYTES", 1)
    monkeypatch.setattr("parsample.draws.run_store.MAX_CHUNK_BYTES", 10**6)
    RunStore.create(path, invented("x", "flag"), b"", length).close()
    assert read(path)["posterior/x"].encoding["chunks"] == (2, length, 3)
    rng = np.random.default_rng(0)
    # Any bits, also those of NaN, infinities and negative zeros.
    bits = rng.integers(0, 2**32, (2, 11, 3), np.uint32)
    bits[0, :3, 0] = np.array([np.nan, -np.inf, -0.0], np.float32).view(np.uint32)
    whole = {"posterior/x": bits.view(np.float32), "posterior/flag": rng.random((2, 11)) < 0.5}
    for first, end in itertools.pairwise((0, 2, 5, 6, 11)):
        store = RunStore(path)
        store.append({name: values[:, first:end] for name, values in whole.items()}, end - first, LIBRARY, b"")
        store.close()
        tree = read(path)
        found = tree["posterior/x"].to_numpy()
        assert (found.dtype, found.shape) == (np.float32, (2, end, 3))
        np.testing.assert_array_equal(found.view(np.uint32), bits[:, :end])
        assert tree["posterior/flag"].dtype == bool
        np.testing.assert_array_equal(tree["posterior/flag"], whole["posterior/flag"][:, :end])


def test_what_a_killed_process_left_is_deleted(path):
    store = RunStore.create(path, invented("x", "flag"), b"", 10)
    store.append(draws(0, 3), 3, LIBRARY, b"three")
    store.close()
    left = [
        path / "posterior/x/c/0/0/.0.unfinished",
        path / "posterior/x/c/0/0/.1.unfinished",
        path / "posterior/x/.zarr.unfinished.json",
        path / "posterior/flag/c/0/.0.unfinished",
        path / ".parsample/checkpoint-9-a.npz",
        path / ".zarr.unfinished.json",
    ]
    for file in left:
        file.write_bytes(b"half")
    RunStore(path).close()
    assert not any(file.exists() for file in left)
    assert checkpoint_of(path) == b"three"
    assert_holds(path, 3)


def test_readers_that_ignore_consolidated_metadata_see_all_draws_after_close(path):
    store = RunStore.create(path, invented("x", "flag"), b"", 5)
    for first, end in itertools.pairwise((0, 3, 7)):
        store.append(draws(first, end), end - first, LIBRARY, b"")
    store.close()
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    for name, values in draws(0, 7).items():
        np.testing.assert_array_equal(group[name][:], values)
    np.testing.assert_array_equal(group["posterior/draw"][:], np.arange(7))
    with xarray.open_dataset(path, engine="zarr", group="posterior", consolidated=False) as posterior:
        assert posterior.sizes["draw"] == 7


@pytest.mark.parametrize("num_draws", [0, 4])
def test_a_discarded_store_is_deleted_and_leaves_the_one_before(path, num_draws):
    store = RunStore.create(path, invented("x", "flag"), b"", 5)
    store.append(draws(0, num_draws), num_draws, LIBRARY, b"")
    store.close(discard=True)
    assert list(path.parent.iterdir()) == []
    store = RunStore.create(path, invented("x", "flag"), b"", 5)
    store.append(draws(0, 4), 4, LIBRARY, b"")
    store.close()
    RunStore.create(path, invented("x", "flag"), b"", 5).close(discard=True)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.zarr"]
    assert_holds(path, 4)


def test_one_checkpoint_is_kept_and_the_next_has_another_name(path):
    store, names = RunStore.create(path, invented("x", "flag"), b"", 10), []
    for number in range(4):  # without new draws, names would be the same
        store.append({}, 0, LIBRARY, b"%d" % number)
        names.append(store.attributes["checkpoint"])
        assert [file.name for file in (path / ".parsample").glob("*.npz")] == [Path(names[-1]).name]
    assert all(one != other for one, other in itertools.pairwise(names))
    store.close()


def test_a_store_is_locked_until_it_is_closed(path):
    store = RunStore.create(path, invented("x"), b"", 10)
    with pytest.raises(BlockingIOError, match="another process is writing to this run"):
        RunStore(path)
    store.close()
    RunStore(path).close()


def test_a_store_without_variables_counts_draws(path):
    store = RunStore.create(path, invented(), b"", 10)
    store.append({}, 5, LIBRARY, b"checkpoint")
    store.close()
    store = RunStore(path)
    assert (store.num_draws, store.draws("posterior"), checkpoint_of(path)) == (5, {}, b"checkpoint")
    store.close()


def test_a_store_is_replaced_once_the_new_one_has_draws(path):
    first = RunStore.create(path, invented("x", "flag"), b"", 10)
    first.append(draws(0, 5), 5, LIBRARY, b"old")
    first.close()
    for num_draws in (0, 2):
        store = RunStore.create(path, invented("x", "flag"), b"", 10)
        store.append(draws(0, num_draws), num_draws, LIBRARY, b"new")
        if num_draws:
            store.append(draws(2, 4), 2, LIBRARY, b"newer")
        store.close()
        assert_holds(path, 4 if num_draws else 5)
        assert [entry.name for entry in path.parent.iterdir()] == ["run.zarr"]


def test_draws_that_could_not_be_written_are_not_there(monkeypatch, path):
    store = RunStore.create(path, invented("x", "flag"), b"begin", 10)
    store.append(draws(0, 5), 5, LIBRARY, b"five")
    with monkeypatch.context() as patch:

        def no_room(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("parsample.draws.run_store.write_atomically", no_room)
        with pytest.raises(OSError, match="No space"):
            store.append(draws(5, 9), 4, LIBRARY, b"nine")
    assert_holds(path, 5)
    assert checkpoint_of(path) == b"five"
    store.close()
    store = RunStore(path)
    store.append(draws(5, 8), 3, LIBRARY, b"eight")
    store.close()
    assert_holds(path, 8)


def test_only_directories_of_runs_have_checkpoints(path):
    with pytest.raises(ValueError, match="is not the zarr directory of a run"):
        checkpoint_of(path)
    path.mkdir()
    for text in ("{}", '{"attributes": {}}', "nonsense", '{"attributes": {"checkpoint": "missing.npz"}}'):
        (path / ROOT_METADATA).write_text(text)
        with pytest.raises(ValueError, match="is not the zarr directory of a run"):
            checkpoint_of(path)
    (path / ROOT_METADATA).write_text(json.dumps({"attributes": {"checkpoint": "there.npz"}}))
    (path / "there.npz").write_bytes(b"content")
    assert checkpoint_of(path) == b"content"
