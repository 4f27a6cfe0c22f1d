"""Storage of draws as NumPy arrays: in memory if they are small, else mapped to unnamed temporary files."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from parsample.internal.arithmetic import ceil_div
from parsample.internal.validation import checked_path

# Arrays whose total size exceeds this go to files, if a scratch directory is given.
MAX_BYTES_IN_MEMORY = 64 * 2**20

# Bytes of a chain's draws to read before the mapped memory is released.
PIECE_BYTES = 16 * 2**20


class Store:
    """One host array per field of a draw, allocated when the first draws are stored, which give the shapes.

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
        """Store draws, leading axes (chain, draw), from index `first` on; draws beyond the last sample are dropped."""
        if not self.arrays:
            one_draw = {name: values[0, 0] for name, values in draws.items()}
            self.arrays = allocate(one_draw, (self.num_chains, self.num_samples), self.scratch_dir)
        for name, values in draws.items():
            last = min(first + values.shape[1], self.num_samples)
            self.arrays[name][:, first:last] = np.asarray(values)[:, : last - first]
        release(*self.arrays.values())

    def truncate(self, num_draws: int) -> None:
        """Keep the first `num_draws` draws only."""
        self.arrays = {name: array[:, :num_draws] for name, array in self.arrays.items()}


def checked_scratch_dir(directory: str | Path | None) -> Path | None:
    """The path of a directory in which files can be created; None for None."""
    if directory is None:
        return None
    directory = checked_path("scratch_dir", directory)
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ValueError(
            f"scratch_dir must be a directory that can be written to; got {str(directory)!r}: {error.strerror}."
        ) from error
    return directory


def allocate(one_draw: dict[str, Any], lead: tuple[int, int], scratch_dir: Path | None) -> dict[str, np.ndarray]:
    """Uninitialized arrays by name, each of shape (chains, draws, ...).

    Parameters
    ----------
    one_draw
        Objects with the ``shape`` and ``dtype`` of one draw, by name.
    lead
        Numbers of chains and of draws.
    scratch_dir
        Directory for arrays of more than `MAX_BYTES_IN_MEMORY` in total, as unnamed files that vanish with the arrays,
        however the process ends. None: arrays of any size are in memory.

    Raises
    ------
    OSError
        If the directory cannot be written to, or its disk is full.
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
    """Release the memory pages of file-backed arrays; their contents, and other arrays, are unaffected.

    The system itself would release them only when memory runs short, and would count them as the process's memory until
    then.
    """
    for array in arrays:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        # In mode "c" (copy on write), changes exist in memory only. Some systems do not support this advice.
        if isinstance(owner, np.memmap) and owner.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            cast(mmap.mmap, owner.base).madvise(mmap.MADV_DONTNEED)


def pieces(draws: np.ndarray) -> Iterator[slice]:
    """Consecutive ranges of draws; after each, the memory pages of `draws` are released."""
    length = max(1, PIECE_BYTES // max(1, draws.strides[1]))
    for first in range(0, draws.shape[1], length):
        yield slice(first, first + length)
        release(draws)


def copied(draws: np.ndarray) -> np.ndarray:
    """A copy in memory of an array (chain, draw, ...), made with at most one more piece in memory."""
    copy = np.empty(draws.shape, draws.dtype)
    for piece in pieces(draws):
        copy[:, piece] = draws[:, piece]
    return copy


def _in_file(shape: tuple[int, ...], dtype: np.dtype, directory: Path) -> np.ndarray:
    num_bytes = max(1, math.prod(shape) * dtype.itemsize)  # an empty file cannot be mapped
    with tempfile.TemporaryFile(dir=directory) as file:
        reserve(file, num_bytes)
        return np.asarray(np.memmap(file, dtype, mode="r+", shape=shape))


def reserve(file: IO[bytes], num_bytes: int) -> None:
    """Allocate space on disk behind the position in a file now: a full disk would end the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), file.tell(), num_bytes)
        return
    zeros = bytes(min(num_bytes, PIECE_BYTES))
    for _ in range(ceil_div(num_bytes, len(zeros))):
        file.write(zeros)
    file.flush()
