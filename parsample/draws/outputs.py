"""Where draws go: checks of a path, of what is there, and of the space on its disk, before anything long runs."""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Endings of files of draws: netCDF and zarr.
FILE_SUFFIXES = (".nc", ".zarr")

# The file of a zarr directory that holds its attributes and the consolidated metadata of all arrays.
ROOT_METADATA = "zarr.json"


def checked_out(out: str | Path | None, *, overwrite: bool) -> Path | None:
    """The path of the draws, if they can be written there; None for None.

    Raises
    ------
    ValueError
        If the name has another ending, its directory is missing or cannot be written to, or zarr is not installed.
    FileExistsError
        If there is something already, unless it is replaced by `overwrite`; what parsample did not write never is.
    """
    if out is None:
        return None
    path = Path(out)
    if path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"{path}: the name must end in one of {', '.join(FILE_SUFFIXES)}.")
    if path.suffix == ".zarr":
        check_extra("zarr", "zarr", str(path))
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}; create it first.")
    check_writable(path.parent, str(path))
    if path.exists() or path.is_symlink():
        _check_replaceable(path, overwrite)
    return path


def is_own_zarr(path: Path) -> bool:
    """Whether parsample wrote this directory."""
    try:
        attributes = json.loads((path / ROOT_METADATA).read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return attributes.get("inference_library") == "parsample"


@contextmanager
def consolidating() -> Iterator[None]:
    """Without the warning that other software may not read consolidated metadata of format 3: it ignores them then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        yield


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if path.is_dir() and not is_own_zarr(path):
        raise FileExistsError(
            f"{path} is a directory that parsample did not write, so it is not replaced: name another."
        )
    if path.suffix == ".zarr" and not path.is_dir():
        raise FileExistsError(f"{path} is not a directory of draws, so it is not replaced: name another.")
    if not overwrite:
        go_on = ", go on with it by parsample.resume (--resume)," if path.suffix == ".zarr" else ": name another,"
        raise FileExistsError(f"{path} exists{go_on} or replace it by overwrite=True (--overwrite).")


def check_space(path: Path, num_bytes: int) -> None:
    """Raise unless the disk of `path` has room for so many bytes."""
    free = shutil.disk_usage(path.parent).free
    if num_bytes > free:
        raise ValueError(
            f"{path}: these draws take {num_bytes / 2**20:,.0f} MiB on the disk; "
            f"{free / 2**20:,.0f} MiB are free. Keep fewer: thin=, keep=, or statistics=."
        )


def check_extra(module: str, extra: str, purpose: str) -> None:
    """Raise unless an optional package is installed."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{purpose} needs {module}, which is not installed: pip install 'parsample[{extra}]'.")


def check_writable(directory: Path, purpose: str) -> None:
    """Raise unless files can be made in a directory."""
    probe = directory / ".parsample-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{purpose}: cannot write to {directory}: {error.strerror}.") from error
