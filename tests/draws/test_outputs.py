"""Where draws go: paths, what is there already, and space, all checked before a run."""

import importlib.util
import json
import os
from types import SimpleNamespace

import pytest

from parsample.draws.outputs import (
    ROOT_METADATA,
    check_extra,
    check_space,
    check_writable,
    checked_out,
    is_own_zarr,
)


def own(path):
    """A directory as parsample writes it."""
    path.mkdir()
    (path / ROOT_METADATA).write_text(json.dumps({"attributes": {"inference_library": "parsample"}}))
    return path


def test_new_paths_are_returned_and_nothing_is_made(tmp_path):
    assert checked_out(None, overwrite=False) is None
    for name in ("a.nc", "a.zarr"):
        assert checked_out(str(tmp_path / name), overwrite=False) == tmp_path / name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.csv", r"a\.csv: the name must end in one of \.nc, \.zarr"),
        ("a", "the name must end in one of"),
        ("missing/a.nc", "there is no directory .*missing; create it first"),
    ],
)
def test_paths_that_cannot_be_are_refused(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        checked_out(tmp_path / name, overwrite=True)


def test_zarr_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"a\.zarr needs zarr, which is not installed: pip install 'parsample\[zarr\]"):
        checked_out(tmp_path / "a.zarr", overwrite=False)
    assert checked_out(tmp_path / "a.nc", overwrite=False) is not None
    with pytest.raises(ValueError, match=r"pictures needs matplotlib.*parsample\[plots\]"):
        check_extra("matplotlib", "plots", "pictures")


def test_only_what_parsample_wrote_is_replaced_and_only_if_asked(tmp_path):
    ours, file = own(tmp_path / "run.zarr"), tmp_path / "run.nc"
    file.touch()
    for path, words in ((ours, "go on with it by parsample.resume"), (file, "exists: name another")):
        with pytest.raises(FileExistsError, match=rf"{words}.*or replace it by overwrite=True \(--overwrite\)"):
            checked_out(path, overwrite=False)
        assert checked_out(path, overwrite=True) == path
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "text.zarr").touch()
    (tmp_path / "broken.zarr").symlink_to(tmp_path / "nowhere")
    for name in ("mine.zarr", "text.zarr", "broken.zarr"):
        with pytest.raises(FileExistsError, match="so it is not replaced: name another"):
            checked_out(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"attributes": {"inference_library": "other"}}'])
def test_other_directories_are_not_ours(tmp_path, text):
    path = own(tmp_path / "run.zarr")
    assert is_own_zarr(path)
    (path / ROOT_METADATA).write_text(text)
    assert not is_own_zarr(path)
    assert not is_own_zarr(tmp_path / "missing")


def test_draws_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("parsample.draws.outputs.shutil.disk_usage", lambda _: SimpleNamespace(free=2**21))
    check_space(tmp_path / "a.nc", 2**21)
    with pytest.raises(ValueError, match=r"take 3 MiB on the disk; 2 MiB are free\. Keep fewer: thin=, keep=, or stat"):
        check_space(tmp_path / "a.nc", 3 * 2**20)


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    check_writable(tmp_path, "out")
    assert list(tmp_path.iterdir()) == []

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("pathlib.Path.touch", denied)
    with pytest.raises(ValueError, match=r"a.nc: cannot write to .*: Permission denied"):
        checked_out(tmp_path / "a.nc", overwrite=False)
