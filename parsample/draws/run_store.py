"""A zarr directory that grows with a run: at every moment it holds exactly the finished draws.

One file, the metadata of the root, holds the number of draws of every variable, the certificate and the name of the
checkpoint. It is replaced as a whole, after everything that it names is on the disk. A process that is killed at any
instant leaves the draws up to the last segment that it finished writing.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parsample.draws.outputs import ROOT_METADATA, consolidating
from parsample.internal.arithmetic import ceil_div
from parsample.internal.files import UNFINISHED, beside_of, delete, move, sync, write_atomically

if TYPE_CHECKING:
    import xarray

# Directory, inside that of the draws, of checkpoint and lock; readers of consolidated metadata do not see it.
PRIVATE = ".parsample"

# Level of compression. zarr's default takes twice as long, and its files of draws are as large to within a percent.
ZSTD_LEVEL = 1

# Bytes of a range of draws, over all variables and chains, that makes up one chunk of every variable.
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 2**20, 8 * 2**20

# Variables that are written at the same time.
MAX_THREADS = 16


class RunStore:
    """The draws of a run on disk, open for writing by one process.

    Attributes
    ----------
    path
        The zarr directory.
    target
        Where it will be once it has draws; `path`, unless it replaces another store.
    num_draws
        Finished draws of each chain.
    attributes
        Attributes of the root.
    """

    def __init__(self, path: Path, target: Path | None = None) -> None:
        self.path, self.target = path, target or path
        self._lock = _locked(path)
        self._metadata = json.loads((path / ROOT_METADATA).read_text())
        arrays = [name for name, node in self._nodes.items() if node["node_type"] == "array"]
        self._names = [name for name in arrays if "draw" in self._dimensions(name)]
        self._unfinished: dict[str, tuple[int, np.ndarray]] = {}
        self.num_draws = int(self.attributes["num_draws"])
        self._tidy()

    @classmethod
    def create(cls, path: Path, tree: "xarray.DataTree", checkpoint: bytes, segment_size: int) -> "RunStore":
        """A store without draws.

        Parameters
        ----------
        path
            The zarr directory. An existing one stays until the first draws are written.
        tree
            A tree of a few invented draws, which gives names, shapes, labels and attributes.
        checkpoint
            What is needed to begin the run.
        segment_size
            Draws of each chain that most segments will have. Chunks are as long, or an equal part of it, so that few
            are written twice.
        """
        from zarr.codecs import ZstdCodec  # noqa: PLC0415 - an extra

        new = beside_of(path, UNFINISHED)
        groups = [group for group in tree.children.values() if "draw" in group.sizes]
        bytes_per_draw = sum(array.nbytes // array.sizes["draw"] for group in groups for array in group.values())
        num_chunks = ceil_div(segment_size * bytes_per_draw, MAX_CHUNK_BYTES)
        chunk = max(ceil_div(segment_size, max(num_chunks, 1)), MIN_CHUNK_BYTES // max(1, bytes_per_draw), 1)
        encoding = {
            f"/{group.name}": {
                name: {
                    "chunks": tuple({**variable.sizes, "draw": chunk}.values()),
                    "compressors": ZstdCodec(level=ZSTD_LEVEL),
                }
                for name, variable in group.dataset.variables.items()
                if "draw" in variable.dims
            }
            for group in tree.children.values()
        }
        empty = tree.isel(draw=slice(0, 0), missing_dims="ignore")  # no variables, no draws
        empty.attrs = {**tree.attrs, "num_draws": 0, "checkpoint": _checkpoint_name(0, None)}
        # A store that a killed process left is replaced.
        with consolidating():
            empty.to_zarr(new, mode="w", zarr_format=3, encoding=encoding, consolidated=True)
        (new / PRIVATE).mkdir(exist_ok=True)
        write_atomically(new / empty.attrs["checkpoint"], checkpoint)
        if path.exists():
            return cls(new, path)
        move(new, path)
        return cls(path)

    def _tidy(self) -> None:
        """Delete what a killed process left: files that were not finished, and checkpoints that are not valid."""
        valid = self.path / self.attributes["checkpoint"]
        for file in [*self.path.rglob(f".*.{UNFINISHED}*"), *(self.path / PRIVATE).glob("*checkpoint-*")]:
            if file != valid:
                delete(file)

    def append(self, draws: dict[str, np.ndarray], num_new: int, attributes: dict[str, Any], checkpoint: bytes) -> None:
        """Write the next draws, with the attributes and the checkpoint that go with them.

        Parameters
        ----------
        draws, num_new
            Arrays by name (``group/variable``), with leading axes (chain, draw); and the number of these draws.
        attributes
            New attributes of the root.
        checkpoint
            What is needed to go on from here.
        """
        num_draws = self.num_draws + num_new
        if num_new:
            self._write(draws, self.num_draws, num_draws)
        former = self.attributes["checkpoint"]
        attributes = {**attributes, "num_draws": num_draws, "checkpoint": _checkpoint_name(num_draws, former)}
        write_atomically(self.path / attributes["checkpoint"], checkpoint)
        for name in self._names:
            self._nodes[name]["shape"][self._draw_axis(name)] = num_draws
        self._metadata["attributes"] = attributes
        write_atomically(self.path / ROOT_METADATA, json.dumps(self._metadata, indent=1).encode())
        self.num_draws = num_draws
        delete(self.path / former)
        if num_draws > 0 and not self.is_in_place:
            # Now that there are draws, the former store can go.
            move(self.path, self.target)
            self.path = self.target

    def _write(self, draws: dict[str, np.ndarray], first: int, end: int) -> None:
        """Write these draws of every variable; nobody reads them before the metadata are replaced."""
        numbers = {name: np.arange(first, end) for name in self._names if name.endswith("/draw")}
        values = {**draws, **numbers}
        # Threads compress at once, and wait for the disk together.
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            list(pool.map(lambda name: self._write_variable(name, values[name], first, end), self._names))

    def _write_variable(self, name: str, values: np.ndarray, first: int, end: int) -> None:
        axis, length = self._draw_axis(name), self._chunk_shape(name)[self._draw_axis(name)]
        before = (slice(None),) * axis
        for number in range(first // length, ceil_div(end, length)):
            chunk, begin = self._chunk(name, number), number * length
            low, high = max(first, begin), min(end, begin + length)
            chunk[(*before, slice(low - begin, high - begin))] = values[(*before, slice(low - first, high - first))]
            self._put(name, number, chunk)
            self._unfinished[name] = (number, chunk)

    def _chunk(self, name: str, number: int) -> np.ndarray:
        """A chunk of a variable as it is so far, with zeros where no draws are yet."""
        known, chunk = self._unfinished.get(name, (-1, None))
        if known == number and chunk is not None:
            return chunk
        shape, axis = self._chunk_shape(name), self._draw_axis(name)
        chunk, begin = np.zeros(shape, self._nodes[name]["data_type"]), number * shape[axis]
        if begin < self.num_draws:  # after the store was opened anew
            found = self._read(name)
            before = (slice(None),) * axis
            chunk[(*before, slice(0, self.num_draws - begin))] = found[(*before, slice(begin, self.num_draws))]
        return chunk

    def _put(self, name: str, number: int, chunk: np.ndarray) -> None:
        """Write a chunk as zarr would, which takes longer and does not wait for the disk."""
        from numcodecs.zstd import Zstd  # noqa: PLC0415 - comes with zarr, an extra

        key = [str(number) if dimension == "draw" else "0" for dimension in self._dimensions(name)]
        file = self.path.joinpath(name, "c", *key)
        is_new = not file.parent.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        little_endian = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))
        write_atomically(file, bytes(Zstd(ZSTD_LEVEL).encode(little_endian)))
        for directory in file.parent.parents if is_new else ():
            sync(directory)  # the names of new directories
            if directory == self.path:
                break

    def _read(self, name: str) -> Any:
        """A variable in zarr's hands."""
        import zarr  # noqa: PLC0415 - an extra

        return zarr.open_group(self.path, mode="r", zarr_format=3)[name]

    def draws(self, group: str) -> dict[str, np.ndarray]:
        """Finished draws of the variables of a group, with leading axes (chain, draw)."""
        names = [name for name in self._names if name.startswith(f"{group}/") and not name.endswith("/draw")]
        return {name.partition("/")[2]: self._read(name)[:] for name in names}

    @property
    def is_in_place(self) -> bool:
        """Whether the store is where it was asked for: until it has draws, it may wait beside a former one."""
        return self.path == self.target

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root."""
        return self._metadata["attributes"]

    def close(self, *, discard: bool = False) -> None:
        """Let other processes write; with `discard`, or before it has replaced another, the store is deleted."""
        try:
            if discard or not self.is_in_place:
                delete(self.path)
            else:
                self._write_nodes()
        finally:
            if self._lock is not None:
                self._lock.close()

    def _write_nodes(self) -> None:
        """Write the metadata of every variable, for readers that ignore those of the root."""
        for name in self._names:
            write_atomically(self.path / name / ROOT_METADATA, json.dumps(self._nodes[name], indent=1).encode())

    @property
    def _nodes(self) -> dict[str, Any]:
        return self._metadata["consolidated_metadata"]["metadata"]

    def _dimensions(self, name: str) -> list[str]:
        return self._nodes[name]["dimension_names"]

    def _draw_axis(self, name: str) -> int:
        return self._dimensions(name).index("draw")

    def _chunk_shape(self, name: str) -> list[int]:
        return self._nodes[name]["chunk_grid"]["configuration"]["chunk_shape"]


def checkpoint_of(path: Path) -> bytes:
    """What was written with the last draws of a store.

    Raises
    ------
    ValueError
        If the directory is not such a store.
    """
    try:
        attributes = json.loads((path / ROOT_METADATA).read_text())["attributes"]
        return (path / attributes["checkpoint"]).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the zarr directory of a run, by sample(out=...).") from error


def _checkpoint_name(num_draws: int, former: str | None) -> str:
    """A name other than that of the checkpoint that is still valid."""
    letter = "b" if former is not None and former.endswith("-a.npz") else "a"
    return f"{PRIVATE}/checkpoint-{num_draws}-{letter}.npz"


def _locked(path: Path) -> Any:
    """An open lock, which the system releases when the process ends, however it ends; None where there are none."""
    try:
        import fcntl  # noqa: PLC0415 - POSIX only
    except ImportError:
        return None
    file = (path / PRIVATE / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"{path}: another process is writing to this run.") from None
    except OSError:  # some network file systems have no locks
        pass
    return file
