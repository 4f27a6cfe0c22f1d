"""Devices that evaluate lanes side by side, and the collectives through which they exchange results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt8

# Name of the mesh axis, and how arrays that are split along their first or second axis, or not at all, lie on it.
DEVICES = "devices"


SPLIT, SPLIT_SECOND, WHOLE = PartitionSpec(DEVICES), PartitionSpec(None, DEVICES), PartitionSpec()


def mesh_of(devices: Any) -> Mesh | None:
    """The mesh of `devices`; None if there is but one, which needs none.

    Raises
    ------
    ValueError, TypeError
        If `devices` is not a sequence of distinct JAX devices of one platform, some of them of this process.
    """
    chosen = default_devices() if devices is None else list(devices) if np.iterable(devices) else []
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise TypeError(f"devices must be a sequence of JAX devices, such as jax.devices(); got {devices!r}.")
    if len(set(chosen)) < len(chosen) or len({device.platform for device in chosen}) > 1:
        raise ValueError(f"devices must be distinct and of one platform; got {chosen}.")
    if all(device.process_index != jax.process_index() for device in chosen):
        raise ValueError(f"devices must include some of this process, {jax.local_devices()}; got {chosen}.")
    return Mesh(np.array(chosen), (DEVICES,)) if chosen != jax.local_devices()[:1] else None


def default_devices() -> list[jax.Device]:
    """All that this process can use."""
    return jax.local_devices()


@dataclass(frozen=True)
class Collectives:
    """Devices that evaluate side by side and act on common verdicts.

    Attributes
    ----------
    mesh
        The devices over which blocks are spread; None: one device.
    """

    mesh: Mesh | None = None

    @property
    def num_devices(self) -> int:
        """Devices in the mesh."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def rank(self) -> Int[Array, ""] | int:
        """Place of this device in the mesh."""
        return 0 if self.mesh is None else jax.lax.axis_index(DEVICES)

    def all_gather(self, tree: PyTree) -> PyTree:
        """What every device holds, along a new leading axis."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: leaf[None], tree)
        # As bytes, all leaves travel in one message; every message costs a rendezvous of all devices.
        leaves, structure = jax.tree.flatten(tree)
        summaries = jax.lax.all_gather(jnp.concatenate([_to_bytes(leaf) for leaf in leaves]), DEVICES)
        ends = np.cumsum([leaf.size * leaf.dtype.itemsize for leaf in leaves])[:-1]
        parts = zip(leaves, jnp.split(summaries, ends, axis=1), strict=True)
        return jax.tree.unflatten(structure, [_from_bytes(part, leaf) for leaf, part in parts])

    def spread(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function`, run by every device on its part of the arguments."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _to_bytes(leaf: Array) -> UInt8[Array, " B"]:
    words = leaf.astype(np.uint8) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, np.uint8)
    return words.reshape(-1)


def _from_bytes(part: UInt8[Array, "N B"], leaf: Array) -> Array:
    """One row of bytes per device, each back to an array like `leaf`."""
    width = leaf.dtype.itemsize
    words = part.reshape(part.shape[0], *leaf.shape, *([width] if width > 1 else []))
    return words.astype(bool) if leaf.dtype == bool else jax.lax.bitcast_convert_type(words, leaf.dtype)
