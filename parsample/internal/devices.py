"""Devices that evaluate lanes side by side, and the collectives through which they exchange results."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt8

# Name of the mesh axis, and partition specs of arrays split along their first axis, their second axis, or not at all.
DEVICES = "devices"
SPLIT, SPLIT_SECOND, WHOLE = PartitionSpec(DEVICES), PartitionSpec(None, DEVICES), PartitionSpec()


def mesh_of(devices: Any) -> Mesh | None:
    """The mesh of `devices`; None for the first device of this process alone, which needs no mesh.

    Raises
    ------
    ValueError, TypeError
        If `devices` is not a sequence of distinct JAX devices of one platform, at least one of them of this process.
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
    """The devices of this process."""
    return jax.local_devices()


@dataclass(frozen=True)
class Collectives:
    """Collectives over the device mesh.

    Attributes
    ----------
    mesh
        The devices over which blocks are spread; None: one device.
    """

    mesh: Mesh | None = None

    @property
    def num_devices(self) -> int:
        """Number of devices in the mesh."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def rank(self) -> Int[Array, ""] | int:
        """Index of this device in the mesh."""
        return 0 if self.mesh is None else jax.lax.axis_index(DEVICES)

    def all_gather(self, tree: PyTree) -> PyTree:
        """The values of all devices, along a new leading axis of length `num_devices`."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: leaf[None], tree)
        # As bytes, all leaves travel in one message; every message costs a rendezvous of all devices.
        leaves, structure = jax.tree.flatten(tree)
        rows = jax.lax.all_gather(jnp.concatenate([_to_bytes(leaf) for leaf in leaves]), DEVICES)
        ends = np.cumsum([leaf.size * leaf.dtype.itemsize for leaf in leaves])[:-1]
        parts = zip(leaves, jnp.split(rows, ends, axis=1), strict=True)
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
    """Decode one row of bytes per device into an array like `leaf`."""
    width = leaf.dtype.itemsize
    words = part.reshape(part.shape[0], *leaf.shape, *([width] if width > 1 else []))
    return words.astype(bool) if leaf.dtype == bool else jax.lax.bitcast_convert_type(words, leaf.dtype)


def physical_memory() -> float:
    """Bytes of memory of this machine; inf if the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
