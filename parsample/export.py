"""Draws as an ArviZ DataTree, with what a reader of the file needs to trust them."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz
import jax
import numpy as np
from jaxtyping import PyTree

from parsample.version import __version__

if TYPE_CHECKING:
    import xarray

    from parsample.sampling import SampleResult

# Draws per chain that `constrain` is applied to at once, so that memory stays with the output.
CONSTRAIN_CHUNK = 16_384

SUFFIXES = (".nc", ".zarr")


def to_arviz(
    result: "SampleResult",
    *,
    dims: dict[str, list[str]] | None = None,
    coords: dict[str, Any] | None = None,
    constrain: Callable | None = None,
) -> "xarray.DataTree":
    """A DataTree with groups posterior and sample_stats.

    Parameters
    ----------
    result
        From `parsample.sample`.
    dims
        Names of the dimensions of each variable, chain and draw left out.
    coords
        Labels along those dimensions.
    constrain
        ``constrain(position) -> dict of arrays``: the variables to store. None: the leaves of the position themselves.

    Returns
    -------
    xarray.DataTree
        Its attributes hold the certificate, the settings and the versions as strings (settings as JSON), which survive
        netCDF and zarr.

    Raises
    ------
    ValueError
        If `dims` names a variable that is not there, or a wrong number of dimensions.
    TypeError
        If `constrain` does not return a dict.
    """
    posterior = named_leaves(result.positions) if constrain is None else _constrained(result.positions, constrain)
    _check_dims(dims or {}, posterior)
    step_size = float(result.adaptation.parameters.step_size)
    shape = result.sample_stats["lp"].shape
    statistics = {**result.sample_stats, "step_size": np.broadcast_to(np.float32(step_size), shape)}
    return arviz.from_dict(
        {"posterior": posterior, "sample_stats": statistics},
        dims=dims,
        coords=coords,
        attrs={"/": attributes(result)},
    )


def attributes(result: "SampleResult") -> dict[str, str | float]:
    """What is known of the run, as strings and numbers."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "blackjax", "arviz")}
    return {
        "inference_library": "parsample",
        "inference_library_version": __version__,
        "certificate": result.certificate,
        "status": result.status.name,
        "defect": float(result.defect),
        "evals_per_step": float(result.evals_per_step),
        "plan": str(result.plan),
        "sampling_time": float(sum(result.seconds.values())),
        "settings": json.dumps({**result.settings, "versions": versions, "seconds": result.seconds}),
    }


def save(tree: "xarray.DataTree", path: Path) -> None:
    """Write a DataTree as netCDF (.nc) or zarr (.zarr, a directory), replacing what is there."""
    if path.suffix == ".zarr":
        tree.to_zarr(path, mode="w", zarr_format=2)  # in format 3 consolidated metadata is still a draft
    else:
        tree.to_netcdf(path, engine="h5netcdf")


def named_leaves(positions: PyTree) -> dict[str, np.ndarray]:
    """Leaves by name: dict keys joined by dots; a position that is one bare array is called x."""
    leaves = jax.tree_util.tree_leaves_with_path(positions)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "x" for path, _ in leaves]
    return {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _constrained(positions: PyTree, constrain: Callable) -> dict[str, np.ndarray]:
    example = jax.eval_shape(constrain, jax.tree.map(lambda leaf: leaf[0, 0], positions))
    if not isinstance(example, dict):
        raise TypeError(f"constrain must return a dict of arrays by name; it returned {type(example).__name__}.")
    apply = jax.jit(jax.vmap(jax.vmap(constrain)))
    num_draws = jax.tree.leaves(positions)[0].shape[1]
    pieces = [
        jax.device_get(apply(jax.tree.map(lambda leaf, at=first: leaf[:, at : at + CONSTRAIN_CHUNK], positions)))
        for first in range(0, num_draws, CONSTRAIN_CHUNK)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in example}


def _check_dims(dims: dict[str, list[str]], posterior: dict[str, np.ndarray]) -> None:
    for name, labels in dims.items():
        if name not in posterior:
            raise ValueError(f"dims names a variable {name!r}; the variables are {sorted(posterior)}.")
        if len(labels) != posterior[name].ndim - 2:
            raise ValueError(
                f"dims[{name!r}] = {labels} names {len(labels)} dimensions; {name} has {posterior[name].ndim - 2}."
            )
