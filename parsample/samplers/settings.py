"""Validated settings of `sample`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from parsample.internal.devices import Collectives, mesh_of
from parsample.internal.validation import checked_choice, checked_count, checked_flag, checked_instance, checked_rate
from parsample.kernels import KERNELS, Kernel
from parsample.lanes.program import default_num_lanes
from parsample.solver.method import Sequential
from parsample.warmup.adaptation import Adaptation
from parsample.warmup.ensemble import MIN_WARMUP, REFERENCE_STEPS

SamplerMethod = Sequential | Literal["auto", "deer", "sequential"]


@dataclass(frozen=True)
class SamplerSettings:
    """Validated settings of `sample`.

    Attributes
    ----------
    num_samples, num_warmup, num_chains
        Draws per chain, maximum number of warm-up steps, and number of chains.
    thin
        Steps per draw.
    kernel
        Kernel of the chains.
    method
        "auto", "deer" or "sequential".
    target_acceptance_rate
        Acceptance rate to which the step size is tuned.
    exact_meeting
        Whether the kernel contains multishift moves.
    num_lanes
        Lanes of all chains together.
    mesh
        Mesh of the devices that share the lanes; None: a single device.
    may_use_fewer_lanes
        Whether fewer lanes may be used if the log density is expensive, because the user named no number.
    """

    num_samples: int
    num_warmup: int
    num_chains: int
    kernel: Kernel
    method: str
    target_acceptance_rate: float
    exact_meeting: bool
    num_lanes: int
    mesh: Mesh | None
    may_use_fewer_lanes: bool = False
    thin: int = 1

    @property
    def meets_exactly(self) -> bool:
        """Whether lanes meet bitwise; otherwise, they meet within a tolerance."""
        return self.exact_meeting or not self.kernel.uses_gradient

    @property
    def num_steps(self) -> int:
        """Steps of each chain."""
        return self.num_samples * self.thin

    @property
    def num_blocks(self) -> int:
        """Blocks per chain."""
        return self.num_lanes // self.num_chains

    @classmethod
    def of(  # noqa: PLR0913
        cls,
        *,
        num_samples: int,
        num_warmup: int = 1000,
        num_chains: int = 4,
        kernel: str = "hmc",
        method: SamplerMethod = "auto",
        target_acceptance_rate: float | None = None,
        exact_meeting: bool = True,
        num_lanes: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        thin: int = 1,
        adaptation: Adaptation | None = None,
    ) -> "SamplerSettings":
        """Validate arguments of `sample`."""
        checked_count("num_samples", num_samples)
        _check_warmup(num_warmup, adaptation)
        num_chains = checked_count("num_chains", num_chains)
        chosen = KERNELS[checked_choice("kernel", kernel, tuple(KERNELS))]
        resolved = "sequential" if isinstance(method, Sequential) else method
        checked_choice("method", resolved, ("auto", "deer", "sequential"))
        target = checked_rate("target_acceptance_rate", target_acceptance_rate, chosen.target_acceptance_rate)
        checked_flag("exact_meeting", exact_meeting)
        mesh = mesh_of(devices)
        chosen_lanes = default_num_lanes() if num_lanes is None else checked_count("num_lanes", num_lanes)
        num_blocks = max(1, chosen_lanes // num_chains)
        return cls(
            num_samples=num_samples,
            num_warmup=num_warmup,
            num_chains=num_chains,
            kernel=chosen,
            method=resolved,
            target_acceptance_rate=target,
            exact_meeting=exact_meeting,
            num_lanes=num_blocks * num_chains,
            mesh=mesh,
            may_use_fewer_lanes=num_lanes is None,
            thin=checked_count("thin", thin),
        )

    def as_dict(self, dtype: np.dtype) -> dict[str, Any]:
        """Settings, data type and devices as results and files store them."""
        return {
            "kernel": self.kernel.name,
            "method": self.method,
            "num_samples": self.num_samples,
            "thin": self.thin,
            "num_warmup": self.num_warmup,
            "num_chains": self.num_chains,
            "target_acceptance_rate": float(self.target_acceptance_rate),
            "exact_meeting": self.exact_meeting,
            "num_lanes": self.num_lanes,
            "dtype": str(dtype),
            "device": jax.devices()[0].device_kind,
            "num_devices": Collectives(self.mesh).num_devices,
        }


def _check_warmup(num_warmup: int, adaptation: Adaptation | None) -> None:
    """Raise unless there are enough warm-up steps: with an adaptation none, or enough for a round that tests it."""
    if adaptation is None:
        checked_count("num_warmup", num_warmup, MIN_WARMUP)
        return
    remedy = "an Adaptation, such as that of a former result or Adaptation.load(path)"
    checked_instance("adaptation", adaptation, Adaptation, remedy)
    if num_warmup != 0:
        checked_count("num_warmup (0, or with an adaptation)", num_warmup, REFERENCE_STEPS)
