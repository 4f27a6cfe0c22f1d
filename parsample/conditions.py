"""What a measurement holds for: the chains, the length of the run, and the device."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from parsample.transition import Dynamics


@dataclass(frozen=True)
class Conditions:
    """What step costs hold for.

    Attributes
    ----------
    kernel
        Kernel of the sampler; empty: a BlackJAX algorithm of the user's.
    dimension, dtype
        Of the chain's reduced state.
    num_chains, num_steps
        Chains, and steps per chain, of the run that they were measured for.
    platform, device_kind
        As JAX names them; of a CPU, its model.
    """

    kernel: str
    dimension: int
    dtype: str
    num_chains: int
    num_steps: int
    platform: str
    device_kind: str

    @classmethod
    def of(
        cls,
        dynamics: Dynamics,
        start: Float[Array | np.ndarray, " D"],
        num_steps: int,
        num_chains: int,
        mesh: Mesh | None,
    ) -> "Conditions":
        """Those of a run of these chains on the devices of `mesh`."""
        device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
        name = device_name(device)
        return cls(dynamics.kernel, start.shape[0], str(start.dtype), num_chains, num_steps, device.platform, name)


@cache
def device_name(device: jax.Device) -> str:
    """JAX's name of the kind of device; where that is just "cpu", the model as the operating system names it."""
    if device.platform != "cpu":
        return device.device_kind
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
