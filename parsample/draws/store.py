"""Draws in memory while they are few, in nameless files where they would fill it; numpy arrays either way."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from parsample.internal.arithmetic import ceil_div

# Arrays that are larger than this together go to files, if there is a directory for them.
MAX_BYTES_IN_MEMORY = 64 * 2**20

# How much of a chain's draws is read before the memory it was seen through is given back.
PIECE_BYTES = 16 * 2**20


class Store:
    """The output: one host array per field of a draw, allocated when the first draws show its shapes.

    Parameters
    ----------
    num_chains, num_samples
        Leading axes of every array.
    scratch_dir
        As for `allocate`.
    """

    def __init__(self, num_chains: int, num_samples: int, scratch_dir: Path | None = None) -> None:
        self.num_chains, self.num_samples, self.scratch_dir = num_chains, num_samples, scratch_dir
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, first: int, draws: dict[str, np.ndarray]) -> None:
        """Store draws, leading axes (chain, draw), from the `first` on; what lies beyond the last sample is dropped."""
        if not self.arrays:
            one_draw = {name: values[0, 0] for name, values in draws.items()}
            self.arrays = allocate(one_draw, (self.num_chains, self.num_samples), self.scratch_dir)
        for name, values in draws.items():
            last = min(first + values.shape[1], self.num_samples)
            self.arrays[name][:, first:last] = np.asarray(values)[:, : last - first]
        release(*self.arrays.values())

    def truncate(self, num_draws: int) -> None:
        """Keep the leading draws only."""
        self.arrays = {name: array[:, :num_draws] for name, array in self.arrays.items()}


def checked_scratch_dir(directory: str | Path | None) -> Path | None:
    """A directory in which files can be made, or None."""
    if directory is None:
        return None
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ValueError(
            f"scratch_dir must be a directory that can be written to; got {str(directory)!r}: {error.strerror}."
        ) from error
    return Path(directory)


def allocate(one_draw: dict[str, Any], lead: tuple[int, int], scratch_dir: Path | None) -> dict[str, np.ndarray]:
    """Arrays for so many draws of so many chains, not yet filled.

    Parameters
    ----------
    one_draw
        Anything that has the ``shape`` and ``dtype`` of one draw, by name.
    lead
        Numbers of chains and of draws.
    scratch_dir
        Where arrays of more than `MAX_BYTES_IN_MEMORY` lie, in files without names that vanish with the arrays, however
        the process ends. None: in memory, whatever their size.

    Raises
    ------
    OSError
        If the directory cannot be written to or has no room.
    """
    num_bytes = math.prod(lead) * sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in one_draw.values())
    if scratch_dir is None or num_bytes <= MAX_BYTES_IN_MEMORY:
        return {name: np.empty((*lead, *entry.shape), entry.dtype) for name, entry in one_draw.items()}
    try:
        return {name: _in_file((*lead, *entry.shape), entry.dtype, scratch_dir) for name, entry in one_draw.items()}
    except OSError as error:
        needed = f"{num_bytes / 2**20:,.0f} MiB of draws"
        raise OSError(f"{scratch_dir}: no place for {needed}: {error.strerror}.") from error


def release(*arrays: np.ndarray) -> None:
    """Give back the memory through which arrays in files were seen; what they hold, and other arrays, stay as they are.

    The system would do the same as soon as memory runs short, but not before, and would count it as the process's until
    then.
    """
    for array in arrays:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        # In mode "c" what was written is in memory only; and some systems take no such advice.
        if isinstance(owner, np.memmap) and owner.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            cast(mmap.mmap, owner.base).madvise(mmap.MADV_DONTNEED)


def pieces(draws: np.ndarray) -> Iterator[slice]:
    """Consecutive ranges of draws; after each, the memory through which it was seen is given back."""
    length = max(1, PIECE_BYTES // max(1, draws.strides[1]))
    for first in range(0, draws.shape[1], length):
        yield slice(first, first + length)
        release(draws)


def copied(draws: np.ndarray) -> np.ndarray:
    """A copy in memory of an array (chain, draw, ...): never more than that and one piece."""
    copy = np.empty(draws.shape, draws.dtype)
    for piece in pieces(draws):
        copy[:, piece] = draws[:, piece]
    return copy


def _in_file(shape: tuple[int, ...], dtype: np.dtype, directory: Path) -> np.ndarray:
    num_bytes = max(1, math.prod(shape) * dtype.itemsize)  # an empty file cannot be mapped
    with tempfile.TemporaryFile(dir=directory) as file:
        _reserve(file, num_bytes)
        return np.asarray(np.memmap(file, dtype, mode="r+", shape=shape))


def _reserve(file: IO[bytes], num_bytes: int) -> None:
    """Take the space on disk now: a full disk is an error here, where it would end the process later on."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return
    zeros = bytes(min(num_bytes, PIECE_BYTES))
    for _ in range(ceil_div(num_bytes, len(zeros))):
        file.write(zeros)
    file.flush()
