"""Draws as an ArviZ DataTree, in memory and in files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import arviz
import h5netcdf
import jax
import numpy as np
import pandas
import xarray
from jaxtyping import PyTree

from parsample.draws.names import check_variables
from parsample.draws.outputs import checked_out, consolidating
from parsample.draws.store import release, reserve
from parsample.internal.arithmetic import ceil_div
from parsample.internal.files import replaced
from parsample.internal.trees import leaf_names

# Groups whose arrays have no leading axes (chain, draw).
WITHOUT_DRAWS = ("observed_data", "constant_data")

# Groups of statistics, whose variables have no dimensions but chain and draw.
STATISTICS = ("sample_stats", "warmup_sample_stats")

# Bytes of a range of draws, over all variables and chains, that makes up one chunk of every variable in a file; and the
# number of such ranges written at once.
CHUNK_BYTES = 8 * 2**20
CHUNKS_AT_ONCE = 4


def datatree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    attributes: dict[str, str | float],
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> xarray.DataTree:
    """A DataTree of groups of arrays.

    Parameters
    ----------
    groups
        Arrays by name for each group, with leading axes (chain, draw) unless the group is in `WITHOUT_DRAWS`.
    attributes
        Attributes of the root: strings and numbers, which netCDF and zarr preserve.
    dims
        Names of the dimensions of each variable, without chain and draw.
    coords
        Labels along those dimensions.

    Raises
    ------
    ValueError
        If ArviZ or files could not hold these names, dimensions or labels.
    """
    labels = {name: list(of_variable) for name, of_variable in (dims or {}).items()}
    _check(groups, labels, coords or {})
    tree = xarray.DataTree()
    tree.attrs = {**attributes}
    for group, arrays in groups.items():
        if not arrays:
            continue
        # An array of draw numbers would take 8 bytes per draw.
        numbers = {} if group in WITHOUT_DRAWS or not arrays else {"draw": pandas.RangeIndex(_num_draws(arrays))}
        labelled = {**numbers, **(coords or {})}
        part = arviz.from_dict({group: dict(arrays)}, dims=labels, coords=labelled, save_warmup=True)
        tree[group] = part[group]
    return tree


def opened(path: Path) -> xarray.DataTree:
    """The tree in a zarr directory, whose values are read when they are used."""
    return xarray.open_datatree(path, engine="zarr")


def save(tree: xarray.DataTree, path: Path) -> None:
    """Write a DataTree as netCDF (.nc) or zarr (.zarr, a directory); an existing one is replaced at the end.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left of it then.
    """
    path = cast(Path, checked_out(path, overwrite=True))
    try:
        _save(tree, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written, and holds what it held before: {error.strerror or error}.") from error


def _save(tree: xarray.DataTree, path: Path) -> None:
    """Create the file with the first `CHUNKS_AT_ONCE` chunks of draws; pieces of that size are appended to it."""
    tree = tree.map_over_datasets(lambda group: group.drop_encoding())  # of the file that it was read from
    variables = _by_draw(tree)
    with replaced(path) as beside:
        num_draws = max((variable.sizes["draw"] for variable in variables.values()), default=0)
        num_bytes = sum(variable.nbytes for variable in variables.values())
        chunk = ceil_div(num_draws, ceil_div(max(num_bytes, 1), CHUNK_BYTES))
        length = chunk * CHUNKS_AT_ONCE
        _save_head(tree.isel(draw=slice(0, length), missing_dims="ignore"), beside, max(chunk, 1))
        # One draw is a view of all draws that are mapped from files.
        release(*(variable.isel(draw=slice(0, 1)).to_numpy() for variable in variables.values() if variable.ndim > 1))
        if length < num_draws:
            if path.suffix != ".zarr":
                with beside.open("ab") as head:  # HDF5 gives back what it does not need
                    reserve(head, ceil_div(num_bytes * (num_draws - length), num_draws) + 2 * CHUNK_BYTES)
            with (_resized_zarr if path.suffix == ".zarr" else _resized_netcdf)(beside, variables) as file:
                for first in range(length, num_draws, length):
                    _write(file, variables, slice(first, first + length))


def _by_draw(tree: xarray.DataTree) -> dict[str, xarray.Variable]:
    """All variables with a draw dimension, by their name in a file (``group/name``)."""
    return {
        f"{group.name}/{name}": variable
        for group in tree.children.values()
        for name, variable in group.dataset.variables.items()
        if "draw" in variable.dims
    }


def _save_head(tree: xarray.DataTree, path: Path, chunk: int) -> None:
    """Write a tree as a file that can grow along draw, in chunks of `chunk` draws."""
    key = "chunks" if path.suffix == ".zarr" else "chunksizes"
    encoding: dict[str, Any] = {f"/{group}": {} for group in tree.children}
    for name, variable in _by_draw(tree).items():
        group, _, short = name.partition("/")
        encoding[f"/{group}"][short] = {key: tuple({**variable.sizes, "draw": chunk}.values())}
    if path.suffix == ".zarr":
        with consolidating():
            tree.to_zarr(path, mode="w", zarr_format=3, encoding=encoding, consolidated=True)
    else:
        growing = {group: ["draw"] for group in encoding}
        # Through memory: HDF5 crashes the interpreter when it closes a file on a full disk.
        path.write_bytes(tree.to_netcdf(engine="h5netcdf", encoding=encoding, unlimited_dims=growing))


@contextmanager
def _resized_netcdf(path: Path, variables: dict[str, xarray.Variable]) -> Iterator[Any]:
    """The open file, resized to hold all draws."""
    with h5netcdf.File(path, "r+") as file:
        for name, variable in variables.items():
            file[name.partition("/")[0]].resize_dimension("draw", variable.sizes["draw"])
        yield file


@contextmanager
def _resized_zarr(path: Path, variables: dict[str, xarray.Variable]) -> Iterator[Any]:
    """The open directory, resized to hold all draws."""
    import zarr  # noqa: PLC0415 - an extra

    file = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    for name, variable in variables.items():
        file[name].resize(variable.shape)
    yield file
    with consolidating():
        zarr.consolidate_metadata(path, zarr_format=3)


def _write(file: Any, variables: dict[str, xarray.Variable], draws: slice) -> None:
    """Write the range `draws` of every variable to the same range of the file."""
    for name, variable in variables.items():
        key = tuple(draws if dim == "draw" else slice(None) for dim in variable.dims)
        values, target = variable[key].to_numpy(), file[name]
        target[key] = values.astype(target.dtype, copy=False)  # netCDF has no bool
        release(values)


def named_leaves(positions: PyTree, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Leaves by name: `names` in order, or else dict keys joined by dots, and x for a position that is a bare array."""
    pairs = zip(names or leaf_names(positions), jax.tree.leaves(positions), strict=True)
    return {name: np.asarray(leaf) for name, leaf in pairs}


def _num_draws(arrays: Mapping[str, np.ndarray]) -> int:
    return next(iter(arrays.values())).shape[1]


def _check(
    groups: Mapping[str, Mapping[str, np.ndarray]], dims: dict[str, list[str]], coords: Mapping[str, Any]
) -> None:
    shapes, others = {}, {}
    for group, arrays in groups.items():
        for name, values in arrays.items() if group not in STATISTICS else ():
            if group in WITHOUT_DRAWS:
                others[name] = np.shape(values)
            else:
                shapes[name] = values.shape[2:]
    check_variables(shapes, dims, coords, others)
