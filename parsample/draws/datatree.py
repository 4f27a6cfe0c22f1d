"""Draws as an ArviZ DataTree, in memory and in files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz
import h5netcdf
import jax
import numpy as np
import pandas
from jaxtyping import PyTree

from parsample.draws.store import allocate, release
from parsample.internal.arithmetic import ceil_div

if TYPE_CHECKING:
    import xarray

# Draws per chain that `constrain` is applied to at once, so that memory stays with the output.
CONSTRAIN_CHUNK = 16_384

# Files consist of chunks of so many bytes, all variables and chains of some draws; so many are written at once.
CHUNK_BYTES = 8 * 2**20
CHUNKS_AT_ONCE = 4


def datatree(
    variables: dict[str, np.ndarray],
    sample_stats: dict[str, np.ndarray],
    attributes: dict[str, str | float],
    dims: dict[str, list[str]] | None = None,
    coords: dict[str, Any] | None = None,
) -> "xarray.DataTree":
    """A DataTree with groups posterior and sample_stats.

    Parameters
    ----------
    variables, sample_stats
        Arrays by name, each with leading axes (chain, draw).
    attributes
        Of the root: strings and numbers, which survive netCDF and zarr.
    dims
        Names of the dimensions of each variable, chain and draw left out.
    coords
        Labels along those dimensions.

    Raises
    ------
    ValueError
        If `dims` names an unknown variable, or a wrong number of dimensions.
    """
    _check_dims(dims or {}, variables)
    num_draws = next(iter(sample_stats.values())).shape[1]
    return arviz.from_dict(
        {"posterior": variables, "sample_stats": sample_stats},
        dims=dims,
        coords={"draw": pandas.RangeIndex(num_draws), **(coords or {})},  # not 8 bytes a draw
        attrs={"/": attributes},
    )


def save(tree: "xarray.DataTree", path: Path) -> None:
    """Write a DataTree as netCDF (.nc) or zarr (.zarr, a directory), replacing what is there.

    xarray sets up the file with as many draws as fit into memory at once; the others, if any, follow piece by piece.
    """
    variables = _by_draw(tree)
    num_draws = max(variable.sizes["draw"] for variable in variables.values())
    num_bytes = sum(variable.nbytes for variable in variables.values())
    chunk = ceil_div(num_draws, ceil_div(num_bytes, CHUNK_BYTES))
    length = chunk * CHUNKS_AT_ONCE
    _save_head(tree.isel(draw=slice(0, length)), path, chunk)
    release(*(variable.data for variable in variables.values() if variable.ndim > 1))
    if length < num_draws:
        with (_grown_zarr if path.suffix == ".zarr" else _grown_netcdf)(path, variables) as file:
            for first in range(length, num_draws, length):
                _write(file, variables, slice(first, first + length))


def _by_draw(tree: "xarray.DataTree") -> dict[str, "xarray.Variable"]:
    """Everything with one entry per draw, by its name in a file."""
    return {
        f"{group.name}/{name}": variable
        for group in tree.children.values()
        for name, variable in group.dataset.variables.items()
        if "draw" in variable.dims
    }


def _save_head(tree: "xarray.DataTree", path: Path, chunk: int) -> None:
    """Write a tree as a file that can grow, in chunks of so many draws."""
    key = "chunks" if path.suffix == ".zarr" else "chunksizes"
    encoding: dict[str, Any] = {f"/{group}": {} for group in tree.children}
    for name, variable in _by_draw(tree).items():
        group, _, short = name.partition("/")
        encoding[f"/{group}"][short] = {key: tuple({**variable.sizes, "draw": chunk}.values())}
    if path.suffix == ".zarr":
        tree.to_zarr(path, mode="w", zarr_format=2, encoding=encoding)  # format 3 cannot yet consolidate metadata
    else:
        growing = {group: ["draw"] for group in encoding}
        tree.to_netcdf(path, engine="h5netcdf", encoding=encoding, unlimited_dims=growing)


@contextmanager
def _grown_netcdf(path: Path, variables: dict[str, "xarray.Variable"]) -> Iterator[Any]:
    """The file, open, with room for all draws."""
    with h5netcdf.File(path, "r+") as file:
        for name, variable in variables.items():
            file[name.partition("/")[0]].resize_dimension("draw", variable.sizes["draw"])
        yield file


@contextmanager
def _grown_zarr(path: Path, variables: dict[str, "xarray.Variable"]) -> Iterator[Any]:
    """The directory, open, with room for all draws."""
    import zarr  # noqa: PLC0415 - an extra

    file = zarr.open_group(path, mode="r+", zarr_format=2, use_consolidated=False)
    for name, variable in variables.items():
        file[name].resize(variable.shape)
    yield file
    zarr.consolidate_metadata(path, zarr_format=2)


def _write(file: Any, variables: dict[str, "xarray.Variable"], draws: slice) -> None:
    """Write some draws of every variable to their place."""
    for name, variable in variables.items():
        key = tuple(draws if dim == "draw" else slice(None) for dim in variable.dims)
        values, target = variable[key].to_numpy(), file[name]
        target[key] = values.astype(target.dtype, copy=False)  # netCDF has no bool
        release(values)


def named_leaves(positions: PyTree) -> dict[str, np.ndarray]:
    """Leaves by name: dict keys joined by dots; a position that is one bare array is called x."""
    leaves = jax.tree_util.tree_leaves_with_path(positions)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "x" for path, _ in leaves]
    return {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def constrained(positions: PyTree, constrain: Callable, scratch_dir: Path | None = None) -> dict[str, np.ndarray]:
    """``constrain(position)``, a dict of arrays, of every draw; large results lie in `scratch_dir`.

    Raises
    ------
    TypeError
        If `constrain` does not return a dict.
    """
    example = jax.eval_shape(constrain, jax.tree.map(lambda leaf: leaf[0, 0], positions))
    if not isinstance(example, dict):
        raise TypeError(f"constrain must return a dict of arrays by name; it returned {type(example).__name__}.")
    apply = jax.jit(jax.vmap(jax.vmap(constrain)))
    leaves = jax.tree.leaves(positions)
    num_chains, num_draws = leaves[0].shape[:2]
    found = allocate(example, (num_chains, num_draws), scratch_dir)
    for first in range(0, num_draws, CONSTRAIN_CHUNK):
        piece = slice(first, first + CONSTRAIN_CHUNK)
        for name, values in apply(jax.tree.map(lambda leaf, at=piece: leaf[:, at], positions)).items():
            found[name][:, piece] = values
        release(*leaves, *found.values())
    return found


def _check_dims(dims: dict[str, list[str]], posterior: dict[str, np.ndarray]) -> None:
    for name, labels in dims.items():
        if name not in posterior:
            raise ValueError(f"dims names a variable {name!r}; the variables are {sorted(posterior)}.")
        if len(labels) != posterior[name].ndim - 2:
            raise ValueError(
                f"dims[{name!r}] = {labels} names {len(labels)} dimensions; {name} has {posterior[name].ndim - 2}."
            )
