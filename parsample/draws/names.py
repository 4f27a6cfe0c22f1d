"""Names, dimensions and labels of variables: checks that ArviZ and files can hold them, before anything long runs."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    for name, shape in shapes.items():
        if 0 in shape:
            raise ValueError(f"variable {name!r} has shape {shape}, so no elements: leave it out, by keep=.")
    all_shapes = {**(others or {}), **shapes}
    sizes: dict[str, int] = {}
    for name, labels in dims.items():
        if name not in all_shapes:
            raise ValueError(f"dims names a variable {name!r}; the variables are {sorted(all_shapes)}.")
        shape = all_shapes[name]
        if len(labels) != len(shape):
            raise ValueError(
                f"dims[{name!r}] = {list(labels)} names {len(labels)} dimensions; {name} has {len(shape)}."
            )
        for label, size in zip(labels, shape, strict=True):
            _check_label(name, label, size, coords)
            # Each group has its own dimensions.
            if name in shapes and sizes.setdefault(label, size) != size:
                raise ValueError(f"dims gives the name {label!r} to dimensions of sizes {sizes[label]} and {size}.")


def _check_label(name: str, label: str, size: int, coords: Mapping[str, Any]) -> None:
    """Raise unless a dimension of a variable may have this name and its labels."""
    if label in (*DRAW_AXES, name):
        raise ValueError(
            f"dims[{name!r}] names a dimension {label!r}, like an axis of all draws or the variable itself."
        )
    num_labels = len(coords[label]) if label in coords else size
    if num_labels != size:
        raise ValueError(f"coords[{label!r}] has {num_labels} labels; that dimension of {name} has size {size}.")
