"""Arrays with a header of plain values, as bytes in NumPy's file format, which executes nothing when it is read."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

# Name of the header among the arrays.
HEADER = "header"


def to_bytes(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A header that JSON can hold, and arrays by name, as bytes."""
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{HEADER: text}, **arrays)
    return buffer.getvalue()


def from_bytes(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays.

    Raises
    ------
    ValueError
        If these are not such bytes.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop(HEADER).tobytes()), arrays
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError("these bytes are no record.") from error


def packed(name: str, tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves of a pytree as arrays by name."""
    return {f"{name}.{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(tree))}


def unpacked(name: str, arrays: Mapping[str, np.ndarray], like: PyTree) -> Any:
    """The pytree of `packed`, with the structure of `like`."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [arrays[f"{name}.{number}"] for number in range(len(leaves))])
