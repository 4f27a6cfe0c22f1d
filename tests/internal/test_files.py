"""Files and directories that are replaced as a whole: the old content or the new one, never a part of either."""

from pathlib import Path

import pytest

from parsample.internal.files import FORMER, UNFINISHED, beside_of, delete, move, replaced, write_atomically


def directory(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "content").write_text(text)
    return path


def test_a_file_is_written_and_replaced_without_leftovers(tmp_path):
    path = tmp_path / "a.txt"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def no_room(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parsample.internal.files.sync", no_room)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_takes_its_place_only_if_no_error_occurs(tmp_path):
    path = directory(tmp_path / "run.zarr", "old")

    def fails() -> None:
        with replaced(path) as beside:
            directory(beside, "broken")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (path / "content").read_text() == "old"
    with replaced(path) as beside:
        directory(beside, "new")
        assert (path / "content").read_text() == "old"
    assert (path / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    path = directory(tmp_path / "run.zarr", "old")
    for mark in (UNFINISHED, FORMER):
        directory(beside_of(path, mark), "left")
    with replaced(path) as beside:
        assert not beside.exists()
        directory(beside, "new")
    assert (path / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_moved_leaves_the_old_one(tmp_path):
    path = directory(tmp_path / "run.zarr", "old")
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "missing", path)
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_beside_are_hidden_and_keep_their_ending():
    assert beside_of(Path("dir/run.zarr"), UNFINISHED) == Path("dir/.run.unfinished.zarr")


def test_deleting_takes_files_directories_and_nothing(tmp_path):
    (tmp_path / "file").touch()
    directory(tmp_path / "directory", "")
    for name in ("file", "directory", "missing"):
        delete(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
