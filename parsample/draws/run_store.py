"""A zarr directory that grows with a run: at every moment it holds exactly the finished draws.

One file, the metadata of the root, holds the number of draws of every variable, the certificate and the name of the
checkpoint. It is replaced as a whole, after everything that it names is on the disk. A process that is killed at any
instant leaves the draws up to the last segment that it finished writing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parsample.draws.outputs import ROOT_METADATA, consolidating
from parsample.internal.files import UNFINISHED, beside_of, delete, move, sync, write_atomically

if TYPE_CHECKING:
    import xarray

# Directory, inside that of the draws, of checkpoint and lock; zarr ignores it.
PRIVATE = ".parsample"

# Level of compression. zarr's default takes twice as long, and its files of draws are as large to within a percent.
ZSTD_LEVEL = 1

# Bytes of a range of draws, over all variables and chains, that makes up one chunk of every variable.
CHUNK_BYTES = 8 * 2**20


class RunStore:
    """The draws of a run on disk, open for writing by one process.

    Attributes
    ----------
    path
        The zarr directory.
    num_draws
        Finished draws of each chain.
    attributes
        Attributes of the root.
    """

    def __init__(self, path: Path, target: Path | None = None) -> None:
        self.path, self._target = path, target or path
        self._lock = _locked(path)
        self._metadata = json.loads((path / ROOT_METADATA).read_text())
        arrays = [name for name, node in self._nodes.items() if node["node_type"] == "array"]
        self._names = [name for name in arrays if "draw" in self._dimensions(name)]
        self._arrays = self._opened()
        self.num_draws = int(self.attributes["num_draws"])
        self._tidy()

    @classmethod
    def create(cls, path: Path, tree: "xarray.DataTree", checkpoint: bytes) -> "RunStore":
        """A store without draws.

        Parameters
        ----------
        path
            The zarr directory. An existing one stays until the first draws are written.
        tree
            A tree of a few invented draws, which gives names, shapes, labels and attributes.
        checkpoint
            What is needed to begin the run.
        """
        from zarr.codecs import ZstdCodec  # noqa: PLC0415 - an extra

        new = beside_of(path, UNFINISHED)
        by_draw = [
            array for group in tree.children.values() for array in group.data_vars.values() if "draw" in array.dims
        ]
        chunk = max(1, CHUNK_BYTES // max(1, sum(array.nbytes // array.sizes["draw"] for array in by_draw)))
        encoding = {
            f"/{group.name}": {
                name: {
                    "chunks": tuple({**variable.sizes, "draw": chunk}.values()),
                    "compressors": (ZstdCodec(level=ZSTD_LEVEL),),
                }
                for name, variable in group.dataset.variables.items()
                if "draw" in variable.dims
            }
            for group in tree.children.values()
        }
        empty = tree.isel(draw=slice(0, 0))
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
        """Delete what a killed process left: files that zarr had not finished, and checkpoints that are not valid."""
        valid = self.path / self.attributes["checkpoint"]
        for file in [*self.path.rglob("*.partial"), *(self.path / PRIVATE).glob("*checkpoint-*")]:
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
        if num_draws > 0 and self.path != self._target:
            # Now that there are draws, the former store can go.
            move(self.path, self._target)
            self.path = self._target
            self._arrays = self._opened()

    def _write(self, draws: dict[str, np.ndarray], first: int, end: int) -> None:
        """Write these draws of every variable; nobody reads them before the metadata are replaced."""
        numbers = {name: np.arange(first, end) for name in self._names if name.endswith("/draw")}
        for name, array in self._arrays.items():
            axis = self._draw_axis(name)
            array.resize(tuple(end if at == axis else size for at, size in enumerate(array.shape)))
            array[(*[slice(None)] * axis, slice(first, end))] = {**draws, **numbers}[name]
            for file in self._chunk_files(name, first, end):
                sync(file)

    def draws(self, group: str) -> dict[str, np.ndarray]:
        """Finished draws of the variables of a group, with leading axes (chain, draw)."""
        names = [name for name in self._names if name.startswith(f"{group}/") and not name.endswith("/draw")]
        return {name.partition("/")[2]: self._arrays[name][:, : self.num_draws] for name in names}

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root."""
        return self._metadata["attributes"]

    def close(self) -> None:
        """Let other processes write; a store without draws that was to replace another is deleted."""
        if self._lock is not None:
            self._lock.close()
        if self.path != self._target:
            delete(self.path)

    def _opened(self) -> dict[str, Any]:
        """Arrays with a draw dimension, by name."""
        import zarr  # noqa: PLC0415 - an extra

        root = zarr.open_group(self.path, mode="r+", zarr_format=3, use_consolidated=False)
        return {name: root[name] for name in self._names}

    @property
    def _nodes(self) -> dict[str, Any]:
        return self._metadata["consolidated_metadata"]["metadata"]

    def _dimensions(self, name: str) -> list[str]:
        return self._nodes[name]["dimension_names"]

    def _draw_axis(self, name: str) -> int:
        return self._dimensions(name).index("draw")

    def _chunk_files(self, name: str, first: int, end: int) -> list[Path]:
        """Files that hold these draws of an array: chunks are whole in all dimensions but draw."""
        dimensions = self._dimensions(name)
        length = self._nodes[name]["chunk_grid"]["configuration"]["chunk_shape"][self._draw_axis(name)]
        files = []
        for number in range(first // length, (end - 1) // length + 1):
            key = [str(number) if dimension == "draw" else "0" for dimension in dimensions]
            files.append(self.path.joinpath(name, "c", *key))
        return [file for file in files if file.exists()]  # zarr writes no chunks of zeros only


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
    except (OSError, KeyError, TypeError) as error:
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
