"""What a step costs on a device, alone and among many lanes: saved, loaded, and refused where it does not hold."""

import json
import math
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from parsample.conditions import Conditions
from parsample.validation import checked_count

# A run may be this many times longer than the one that costs were measured for before they may have stopped short: of
# lane counts that would pay (which are a factor of eight apart), or of using all devices.
MAX_STRETCH = 4

# First lines of a file of step costs.
FORMAT = {"format": "parsample step costs", "version": 1}


@dataclass(frozen=True)
class StepCosts:
    """Time of one step of several lanes at once, as measured on this device.

    Found as ``report.costs``; passed on as ``costs=``, nothing is measured again and the plan is the same.

    Attributes
    ----------
    lanes
        Lane counts, increasing.
    seconds
        Seconds per step of all those lanes.
    num_devices
        Devices that shared them: the first of those that were given.
    conditions
        What they were measured for; None: unknown, so that nothing is compared when they are reused.

    Raises
    ------
    ValueError
        If lane counts do not increase, or times are not positive and finite, one for each.
    """

    lanes: tuple[int, ...]
    seconds: tuple[float, ...]
    num_devices: int = 1
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        checked_count("num_devices", self.num_devices)
        increasing = all(fewer < more for fewer, more in pairwise((0, *self.lanes)))
        if not self.lanes or not increasing:
            raise ValueError(f"lanes must be increasing whole numbers from 1 on; got {self.lanes}.")
        if len(self.seconds) != len(self.lanes) or not all(0 < value < math.inf for value in self.seconds):
            raise ValueError(
                f"seconds must hold a positive, finite time for each of {len(self.lanes)} lane counts; "
                f"got {self.seconds}."
            )

    def __call__(self, lanes: int) -> float:
        """Seconds per step of `lanes` lanes: interpolated in logarithms, in proportion beyond the measured counts."""
        if lanes > self.lanes[-1]:
            return self.seconds[-1] * lanes / self.lanes[-1]
        return float(np.exp(np.interp(np.log(lanes), np.log(self.lanes), np.log(self.seconds))))

    def caveat(self, num_steps: int) -> str:
        """What to know of a plan for `num_steps` steps that relies on them; empty: nothing."""
        if self.conditions is None or num_steps <= MAX_STRETCH * self.conditions.num_steps:
            return ""
        return (
            f"measured for a run of {self.conditions.num_steps} steps; measured for this longer one, they may show "
            "more to gain"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write them to a file, as JSON.

        Parameters
        ----------
        path
            Name of the file, which is replaced.
        """
        Path(path).write_text(json.dumps({**FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "StepCosts":
        """What `save` wrote.

        Parameters
        ----------
        path
            Name of the file.

        Returns
        -------
        StepCosts

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it holds something else.
        """
        try:
            content = json.loads(Path(path).read_text())
            if {name: content[name] for name in FORMAT} != FORMAT:
                raise ValueError(f"its format is not {FORMAT}.")
            conditions = content["conditions"]
            return cls(
                tuple(map(int, content["lanes"])),
                tuple(map(float, content["seconds"])),
                content["num_devices"],
                None if conditions is None else Conditions(**conditions),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} holds no step costs that this version can read ({type(error).__name__}: {error}) "
                "Delete it, and have them measured and saved anew."
            ) from error


# Step costs belong to chains and the devices that run them: in one process they are measured once.
_known: dict[tuple, StepCosts] = {}
MAX_KNOWN = 64


def known_costs(chains: tuple) -> StepCosts | None:
    """What was remembered of these chains: their dynamics, conditions and mesh."""
    return _known.get(chains)


def remember_costs(chains: tuple, costs: StepCosts) -> None:
    """Let them be known when the same chains are planned again, if they say what lanes would gain."""
    if len(_known) >= MAX_KNOWN:
        forget_costs()
    if len(costs.lanes) > 1:
        _known[chains] = costs


def forget_costs() -> None:
    """Have step costs measured anew, for instance because the machine was busy when they were."""
    _known.clear()


def checked_costs(costs: Any, wanted: Conditions, num_devices: int) -> StepCosts | None:
    """The `costs` argument of a run under conditions `wanted` on so many devices; None: they are to be measured."""
    if costs is None:
        return None
    if not isinstance(costs, StepCosts):
        raise TypeError(f"costs must be report.costs or StepCosts.load(path); got {costs!r}.")
    if costs.num_devices > num_devices:
        raise ValueError(
            f"costs were measured on {costs.num_devices} devices; this run has {num_devices}. "
            "Give it as many devices, or leave costs out (or name a new file) to have them measured anew."
        )
    measured = asdict(costs.conditions or wanted) | {"num_steps": wanted.num_steps}
    for name, here in asdict(wanted).items():
        if measured[name] != here:
            raise ValueError(
                f"costs were measured for {name}={measured[name]!r}; this run has {here!r}. "
                "Leave costs out (or name a new file) to have them measured anew."
            )
    return costs
