"""How the steps of a chain lie side by side: cut into blocks, spread over devices.

Every device of a mesh holds a contiguous run of blocks and sweeps them at its own pace; what devices tell each other
once a sweep goes through `Team.gather`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree, UInt8

from parsample.transition import take

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
class Team:
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

    def gather(self, tree: PyTree) -> PyTree:
        """What every device holds, along a new leading axis."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: leaf[None], tree)
        # As bytes, all leaves travel in one message; every message costs a rendezvous of all devices.
        leaves, structure = jax.tree.flatten(tree)
        heard = jax.lax.all_gather(jnp.concatenate([_to_bytes(leaf) for leaf in leaves]), DEVICES)
        ends = np.cumsum([leaf.size * leaf.dtype.itemsize for leaf in leaves])[:-1]
        parts = zip(leaves, jnp.split(heard, ends, axis=1), strict=True)
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


@dataclass(frozen=True)
class Grid:
    """T steps cut into C blocks of b steps, the last one perhaps shorter, in equal numbers of lanes per device.

    Lanes beyond C, and steps beyond T, are idle.

    Attributes
    ----------
    num_steps, block_size
        T and b.
    num_devices
        Devices that share the lanes.
    """

    num_steps: int
    block_size: int
    num_devices: int = 1

    @property
    def num_blocks(self) -> int:
        """C."""
        return ceil_div(self.num_steps, self.block_size)

    @property
    def lanes_per_device(self) -> int:
        """Lanes on each device."""
        return ceil_div(self.num_blocks, self.num_devices)

    @property
    def num_lanes(self) -> int:
        """Lanes on all devices."""
        return self.num_devices * self.lanes_per_device

    @property
    def is_ragged(self) -> bool:
        """Whether there are idle steps."""
        return self.num_steps != self.num_lanes * self.block_size

    def steps(self) -> Int[Array, "b L"]:
        """Step number of every entry; beyond T where it is idle."""
        return jnp.arange(self.block_size)[:, None] + self.block_size * jnp.arange(self.num_lanes)[None]

    def places_before(self) -> Int[Array, " C"]:
        """Step after whose state each block starts, counted from 0; -1 for the first."""
        return self.block_size * jnp.arange(self.num_blocks) - 1

    def places_last(self) -> Int[Array, " C"]:
        """Last step of each block, counted from 0."""
        return jnp.minimum(self.block_size * (1 + jnp.arange(self.num_blocks)), self.num_steps) - 1

    def running(self, first_lane: Array | int, step: Array) -> Bool[Array, " l"]:
        """Which lanes of the device whose lanes begin at `first_lane` are not idle at `step`."""
        lanes = first_lane + jnp.arange(self.lanes_per_device)
        return lanes * self.block_size + step < self.num_steps

    def arrange(self, tree: PyTree) -> PyTree:
        """Leading axis T to leading axes (b, L); idle entries repeat the last one."""
        return take(tree, jnp.minimum(self.steps(), self.num_steps - 1))

    def flatten(self, tree: PyTree) -> PyTree:
        """Leading axes (b, l) of one device's lanes to one leading axis of its steps, the idle ones included."""
        return jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]),
            tree,
        )


def ceil_div(numerator: Any, denominator: Any) -> Any:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def round_up(value: int, multiple: int) -> int:
    """The next multiple, from `value` on."""
    return ceil_div(value, multiple) * multiple
