"""Arrays in memory or in unnamed files: their values are equal, and their memory is released."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped import lies_in_a_file, linux_only, mapped

from parsample.draws.store import Store, allocate, checked_scratch_dir, copied, pieces, release

ROOT = Path(__file__).parents[2]


@pytest.fixture
def all_in_files(monkeypatch):
    monkeypatch.setattr("parsample.draws.store.MAX_BYTES_IN_MEMORY", 0)


def draws(first: int, count: int) -> dict[str, np.ndarray]:
    """Draws of two chains, numbered from `first`; those of the second chain are negative."""
    numbers = np.arange(first, first + count) * np.array([[1.0], [-1.0]])
    return {"position": np.stack([numbers, 2 * numbers], axis=-1), "lp": numbers, "energy": numbers}


@pytest.mark.usefixtures("all_in_files")
@pytest.mark.parametrize("in_files", [False, True])
def test_store_puts_segments_in_their_place_and_drops_what_is_beyond(tmp_path, in_files):
    store = Store(2, 10, tmp_path if in_files else None)
    store.put(0, draws(0, 4))
    store.put(4, draws(4, 4))
    store.put(8, draws(8, 4))
    assert {lies_in_a_file(array) for array in store.arrays.values()} == {in_files}
    assert store.arrays["position"].shape == (2, 10, 2)
    np.testing.assert_array_equal(store.arrays["lp"], np.arange(10) * np.array([[1], [-1]]))
    np.testing.assert_array_equal(store.arrays["position"][1, :, 1], -2 * np.arange(10))
    store.truncate(3)
    assert {array.shape[1] for array in store.arrays.values()} == {3}
    np.testing.assert_array_equal(store.arrays["energy"][0], [0, 1, 2])


def test_only_what_is_large_goes_to_files(monkeypatch, tmp_path):
    like = {"x": np.zeros(3, np.float32), "n": np.int32(0)}
    monkeypatch.setattr("parsample.draws.store.MAX_BYTES_IN_MEMORY", 2 * 5 * 16)
    for num_draws, in_files in ((5, False), (6, True)):
        arrays = allocate(like, (2, num_draws), tmp_path)
        assert [lies_in_a_file(array) for array in arrays.values()] == [in_files] * 2
        assert [(array.shape, array.dtype) for array in arrays.values()] == [
            ((2, num_draws, 3), np.float32),
            ((2, num_draws), np.int32),
        ]
    assert not lies_in_a_file(allocate(like, (2, 6), None)["x"])


@pytest.mark.usefixtures("all_in_files")
def test_files_have_no_names_and_an_array_may_be_empty(tmp_path):
    arrays = allocate({"x": np.zeros(3), "nothing": np.zeros(0)}, (2, 5), tmp_path)
    arrays["x"][:] = 1.5
    assert lies_in_a_file(arrays["x"])
    assert (arrays["x"].sum(), arrays["nothing"].shape) == (45.0, (2, 5, 0))
    assert list(tmp_path.iterdir()) == []


@linux_only
@pytest.mark.usefixtures("all_in_files")
def test_memory_is_given_back_after_each_segment_and_each_piece(monkeypatch, tmp_path):
    store = Store(2, 100_000, tmp_path)
    store.put(0, draws(0, 100_000))
    assert mapped(tmp_path) == [0] * 3
    column = store.arrays["position"][..., 1]
    assert column[1].sum() == -9_999_900_000
    assert sum(mapped(tmp_path)) >= 1_600_000 // 1024
    np.testing.assert_array_equal(copied(column), 2 * np.arange(100_000) * np.array([[1], [-1]]))
    assert mapped(tmp_path) == [0] * 3
    monkeypatch.setattr("parsample.draws.store.PIECE_BYTES", 2**20)
    resident = []
    for piece in pieces(column):
        assert column[:, piece].sum() == 0
        resident.append(sum(mapped(tmp_path)))
    assert len(resident) == 2
    assert 1024 <= resident[1] < resident[0] < 3 * 1024  # of 3125 KiB
    del store, column
    assert mapped(tmp_path) == []


def test_to_release_changes_no_values(tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(80))
    private = np.memmap(tmp_path / "zeros", dtype=float, mode="c")
    ordinary = np.arange(10.0)
    private[:] = ordinary
    release(private[2:], ordinary, np.broadcast_to(1.0, (2, 3)))
    np.testing.assert_array_equal(private, ordinary)
    np.testing.assert_array_equal(ordinary, np.arange(10.0))


@pytest.mark.parametrize("stride", [1, 7])
def test_copies_are_equal_and_contiguous(monkeypatch, stride):
    monkeypatch.setattr("parsample.draws.store.PIECE_BYTES", 1000)
    values = np.random.default_rng(0).normal(size=(3, 500, 4))
    for view in (values[:, ::stride], values[:, ::stride, 2], np.broadcast_to(1.0, (3, 500))):
        copy = copied(view)
        assert copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, view)


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("all_in_files")
def test_a_full_disk_is_an_error_when_the_first_draws_come(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    store = Store(2, 2**20, tmp_path)
    with pytest.raises(OSError, match=r": no place for 64 MiB of draws: No space left on device\.$"):
        store.put(0, draws(0, 4))


@pytest.mark.usefixtures("all_in_files")
def test_space_is_taken_where_systems_have_no_call_for_it(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr("parsample.draws.store.PIECE_BYTES", 1000)
    array = allocate({"x": np.zeros(3)}, (2, 500), tmp_path)["x"]
    assert lies_in_a_file(array)
    np.testing.assert_array_equal(array, np.zeros((2, 500, 3)))


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path):
    assert checked_scratch_dir(None) is None
    assert checked_scratch_dir(str(tmp_path)) == tmp_path
    (tmp_path / "file").touch()
    for name, words in (("missing", "No such file or directory"), ("file", "Not a directory")):
        with pytest.raises(ValueError, match=rf"scratch_dir must be a directory .*; got '.*{name}': {words}\.$"):
            checked_scratch_dir(tmp_path / name)


PEAK = """
import resource, sys
from parsample.cli.main import main
code = main(["sample", sys.argv[1], "--num-samples", sys.argv[2], "--num-chains", "1", "--num-warmup", "300",
             "--method", "sequential", "--no-progress", "--out", sys.argv[3]])
print("peak", code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@linux_only
@pytest.mark.parametrize(
    "name",
    [pytest.param("draws.nc", marks=pytest.mark.slow), pytest.param("draws.zarr", marks=pytest.mark.exhaustive)],
)
def test_memory_of_a_command_does_not_grow_with_the_draws(tmp_path, name):
    model = tmp_path / "a_gaussian.py"
    model.write_text("import numpy as np\ninitial_position = np.zeros(3)\ndef logdensity(x): return -(x @ x) / 2\n")
    peaks = []
    for num_samples in ("2000000", "8000000"):
        command = [sys.executable, "-c", PEAK, str(model), num_samples, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        label, code, mebibytes = done.stdout.split()[-3:]
        assert (label, code) == ("peak", "0")
        peaks.append(int(mebibytes))
    # The summary holds one column, 4 bytes a draw: 23 MiB more. The draws themselves would be 206 MiB more.
    assert peaks[1] - peaks[0] < 60
