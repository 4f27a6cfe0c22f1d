"""Names, dimensions and labels of variables: checks that ArviZ and files can hold them, before anything long runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Names of the axes that all draws have.
DRAW_AXES = ("chain", "draw")


def check_names(names: Sequence[str]) -> None:
    """Raise unless ArviZ and files can hold variables of these names."""
    for name in names:
        remedy = "Rename it: pass names= to parsample.Model, or return another name from constrain."
        if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
            raise ValueError(f"files cannot hold a variable named {name!r}. {remedy}")
        if name in DRAW_AXES:
            raise ValueError(f"a variable cannot be named {name!r}, like an axis of all draws. {remedy}")
        if names.count(name) > 1:
            raise ValueError(f"two variables are named {name!r}. {remedy}")


def check_variables(
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Any],
    others: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raise unless ArviZ and files can hold these variables under these labels.

    Parameters
    ----------
    shapes
        Shape of one draw of each variable.
    dims, coords
        Names of the dimensions of each variable, and labels along them.
    others
        Shapes of variables without draws, which `dims` may name too.
    """
    check_names(list(shapes))
    for label in DRAW_AXES:
        if label in coords:
            raise ValueError(f"coords names {label!r}, an axis of all draws, which is numbered from 0: leave it out.")
    all_shapes = {**(others or {}), **shapes}
    _check_default_labels(shapes, dims)
    sizes: dict[str, int] = {}
    for name, labels in dims.items():
        if name not in all_shapes:
            raise ValueError(f"dims names a variable {name!r}; the variables are {sorted(all_shapes)}.")
        _check_labels(name, labels, all_shapes[name], coords)
        # Each group has its own variables and dimensions.
        for label, size in zip(labels, all_shapes[name], strict=True) if name in shapes else ():
            if label in shapes:
                raise ValueError(f"dims[{name!r}] names a dimension {label!r}, like another variable: rename one.")
            if label is not None and sizes.setdefault(label, size) != size:
                raise ValueError(f"dims gives the name {label!r} to dimensions of sizes {sizes[label]} and {size}.")


def check_elements(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise if a variable of these has no elements, of which files hold none."""
    for name, shape in shapes.items():
        if 0 in shape:
            raise ValueError(f"variable {name!r} has shape {shape}, so no elements: leave it out, by keep=.")


def _check_default_labels(shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, Sequence[str]]) -> None:
    """Raise if ArviZ would name a dimension like a variable, which would then be missing from the tree."""
    for name, shape in shapes.items():
        for label in () if name in dims else (f"{name}_dim_{number}" for number in range(len(shape))):
            if label in shapes:
                raise ValueError(
                    f"a variable is named {label!r}, like a dimension of {name}: rename it, or name that dimension "
                    "by dims=."
                )


def _check_labels(name: str, labels: Sequence[str | None], shape: tuple[int, ...], coords: Mapping[str, Any]) -> None:
    """Raise unless the dimensions of a variable may have these names; ArviZ finds one for None."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise TypeError(f"dims[{name!r}] must be a sequence of names, one per dimension; got {labels!r}.")
    if len(labels) != len(shape):
        raise ValueError(f"dims[{name!r}] = {list(labels)} names {len(labels)} dimensions; {name} has {len(shape)}.")
    named = [label for label in labels if label is not None]
    if len(set(named)) < len(named):
        raise ValueError(f"dims[{name!r}] = {list(labels)} names two dimensions alike.")
    for label, size in zip(labels, shape, strict=True):
        if label is not None:
            _check_label(name, label, size, coords)


def _check_label(name: str, label: str, size: int, coords: Mapping[str, Any]) -> None:
    """Raise unless a dimension of a variable may have this name and its labels."""
    if not isinstance(label, str) or not label or "/" in label:
        raise ValueError(f"dims[{name!r}]: files cannot hold a dimension named {label!r}.")
    if label in (*DRAW_AXES, name):
        raise ValueError(
            f"dims[{name!r}] names a dimension {label!r}, like an axis of all draws or the variable itself."
        )
    if label in coords and np.ndim(coords[label]) != 1:
        raise ValueError(f"coords[{label!r}] must be a sequence of labels; got {coords[label]!r}.")
    num_labels = len(coords[label]) if label in coords else size
    if num_labels != size:
        raise ValueError(f"coords[{label!r}] has {num_labels} labels; that dimension of {name} has size {size}.")
