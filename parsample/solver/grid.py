"""The arrangement of the steps of a chain: cut into blocks, which are spread over devices.

Every device of a mesh holds a contiguous range of blocks and sweeps them at its own pace; devices exchange results
through `Collectives.all_gather`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from parsample.internal.arithmetic import ceil_div
from parsample.internal.trees import take


@dataclass(frozen=True)
class Grid:
    """T steps cut into C blocks of b steps (the last may be shorter), one per lane, with equally many lanes per device.

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
        """Step index of every entry; T or more if the entry is idle."""
        return jnp.arange(self.block_size)[:, None] + self.block_size * jnp.arange(self.num_lanes)[None]

    def places_before(self) -> Int[Array, " C"]:
        """Index of the step before each block, counted from 0; -1 for the first block."""
        return self.block_size * jnp.arange(self.num_blocks) - 1

    def places_last(self) -> Int[Array, " C"]:
        """Index of the last step of each block, counted from 0."""
        return jnp.minimum(self.block_size * (1 + jnp.arange(self.num_blocks)), self.num_steps) - 1

    def running(self, first_lane: Array | int, step: Array) -> Bool[Array, " l"]:
        """Whether each lane of a device is busy at `step` of its block; `first_lane` is the device's first lane."""
        lanes = first_lane + jnp.arange(self.lanes_per_device)
        return lanes * self.block_size + step < self.num_steps

    def arrange(self, tree: PyTree) -> PyTree:
        """Leading axis T to leading axes (b, L); idle entries repeat the last step."""
        return take(tree, jnp.minimum(self.steps(), self.num_steps - 1))

    def flatten(self, tree: PyTree) -> PyTree:
        """Leading axes (b, l) of one device's lanes to one leading axis of its steps, idle steps included."""
        return jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]),
            tree,
        )
