"""Files and directories that are replaced as a whole, and survive a crash of the machine once they are written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Mark files and directories that are not yet, or no longer, in their place.
UNFINISHED, FORMER = "unfinished", "former"


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a directory, to the disk."""
    if os.name == "nt" and path.is_dir():  # directories cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, or replace it: at every moment its content is the old one or the new one."""
    with replaced(path) as beside:
        beside.write_bytes(content)
        sync(beside)
    sync(path.parent)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path` for a new file or directory, which takes the place of `path` if no error occurs."""
    beside = beside_of(path, UNFINISHED)
    delete(beside)  # left by a process that was killed
    try:
        yield beside
        move(beside, path)
    finally:
        delete(beside)


def beside_of(path: Path, mark: str) -> Path:
    """The hidden name beside `path` with this mark and the same ending."""
    return path.with_name(f".{path.stem}.{mark}{path.suffix}")


def move(source: Path, target: Path) -> None:
    """Move a file or a directory to `target`; what was there is deleted once the new one is in its place."""
    if not target.is_dir():
        source.replace(target)
        return
    former = beside_of(target, FORMER)
    delete(former)
    target.rename(former)
    try:
        source.rename(target)
    except BaseException:
        former.rename(target)
        raise
    delete(former)


def delete(path: Path) -> None:
    """Delete a file or a directory, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
