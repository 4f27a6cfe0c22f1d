"""What a step costs on this device, alone and among many lanes.

Whole programmes are timed, as a solve would run them: random numbers, transitions, writing. For small models the time
it takes to start a programme is longer than its run; there the difference between a short and a long run counts.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from parsample.compilation import outermost_jit
from parsample.conditions import Conditions
from parsample.grid import SPLIT, SPLIT_SECOND, Grid, Team, first_devices, round_up
from parsample.linearize import Zero
from parsample.sweep import Sweep, default_tolerance
from parsample.transition import Dynamics, rollout
from parsample.validation import checked_count

# Lane counts whose step is timed, in multiples of the number of chains.
LANE_FACTORS = (32, 256, 2048, 16384)

# A round of each measurement evaluates this part of a run, in at least so many steps; all together may take this share
# of the time of a sequential run.
TIMED_PARTS = 1024
MIN_TIMED_STEPS = 8
MAX_TIMING_SHARE = 0.04

# A measurement goes on for this part of a sequential run, within these bounds in seconds, beside the larger of which
# the start of a programme does not count; in at most about so many rounds.
LONG_ENOUGH, SHORTEST, LONGEST = 0.01, 5e-4, 1e-2
MAX_ROUNDS = 64

# A sequential run of fewer seconds is not worth several devices, which take a millisecond or so to act together.
SECONDS_TO_SHARE = 0.1

# Share of the time per evaluation that eight times as many lanes must save for still more to be tried.
MIN_LANE_GAIN = 0.3

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


def measure_costs(
    dynamics: Dynamics,
    parameters: Any,
    start: Float[Array | np.ndarray, " D"],
    num_steps: int,
    num_chains: int,
    max_lanes: float,
    mesh: Mesh | None = None,
) -> StepCosts:
    """Time the sequential evaluation, then first sweeps of more and more lanes, while more bring down the time of each.

    All of it takes a few percent of the time of a long sequential run. More than `max_lanes` are of no use. Of several
    devices in `mesh` only the first is used if the run is short.
    """

    def seconds_per_step(evaluate: Callable, team: Team, lanes: int, long_enough: float) -> float:
        steps = max(num_chains * num_steps // (TIMED_PARTS * lanes), MIN_TIMED_STEPS)
        return _seconds(partial(evaluate, dynamics, team, lanes, steps, parameters, start), long_enough) / steps

    seconds = [seconds_per_step(_sequentially, Team(mesh=mesh), num_chains, SHORTEST)]
    long_enough = min(max(LONG_ENOUGH * seconds[0] * num_steps, SHORTEST), LONGEST)
    if seconds[0] * num_steps < SECONDS_TO_SHARE:
        mesh = first_devices(mesh, 1)
    team = Team(mesh=mesh)
    lanes_measured = [num_chains]
    budget = MAX_TIMING_SHARE * seconds[0] * num_steps
    for lanes in (round_up(num_chains * factor, team.num_devices) for factor in LANE_FACTORS):
        # At worst, a lane costs what it did among fewer.
        expected = 4 * MIN_TIMED_STEPS * seconds[-1] * lanes / lanes_measured[-1]
        if lanes > max_lanes or (len(seconds) > 1 and expected > budget):
            break
        lanes_measured.append(lanes)
        seconds.append(seconds_per_step(_first_sweep, team, lanes, long_enough))
        if seconds[-1] / lanes > (1 - MIN_LANE_GAIN) * seconds[-2] / lanes_measured[-2]:
            break
    conditions = Conditions.of(dynamics, start, num_steps, num_chains, mesh)
    return StepCosts(tuple(lanes_measured), tuple(seconds), team.num_devices, conditions)


def _seconds(run: Callable[[int], Any], long_enough: float) -> float:
    """Seconds of one round of ``run(rounds)``, from as many as take `long_enough`, less what starting it takes."""
    jax.block_until_ready(run(1))  # compiles
    once = min(_duration_of(run, 1) for _ in range(2))
    if once > LONGEST:
        return once
    rounds = max(4, int(2 * long_enough / once))
    while (more := _duration_of(run, 1 + rounds)) < long_enough and rounds < MAX_ROUNDS:
        rounds *= 4
    more = min(more, _duration_of(run, 1 + rounds))
    # A start that took unusually long must not make rounds look short.
    return max(more - once, 0.25 * more) / rounds


def _duration_of(run: Callable[[int], Any], rounds: int) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(run(rounds))
    return time.perf_counter() - begin


@outermost_jit(0, 1, 2, 3)
def _sequentially(
    dynamics: Dynamics, team: Team, num_chains: int, num_steps: int, parameters: Any, start: Array, rounds: Array
) -> Any:
    """Chains side by side, step by step, so many rounds of `num_steps`."""

    def one(rng_key: Array) -> tuple:
        transition, inputs = dynamics(parameters, rng_key, num_steps)

        def again(_: Any, so_far: tuple) -> tuple:
            carry, path, outputs = rollout(transition, so_far[0], inputs)
            return transition.reduce(carry), path, outputs

        return jax.lax.fori_loop(1, rounds, again, again(0, (start,)))

    return team.each_chain(one, num_chains)(jax.random.split(jax.random.key(0), num_chains))


@outermost_jit(0, 1, 2, 3)
def _first_sweep(
    dynamics: Dynamics, team: Team, lanes: int, steps: int, parameters: Any, start: Array, rounds: Array
) -> Any:
    """Sweeps of `lanes` blocks from the same start, so many rounds of `steps`: what a solve spends its time on."""
    transition, inputs = dynamics(parameters, jax.random.key(0), lanes * steps)
    grid, linearization = Grid(lanes * steps, steps, team.num_devices), Zero()
    seeds = linearization.seeds(jax.random.key(0), start.shape[0], start.dtype)

    def on_each_device(starts: Array, sequence: Any) -> Any:
        sweep = Sweep(transition, linearization, inputs._replace(sequence=sequence), grid, team, seeds)
        tolerance = default_tolerance(jnp.ones_like(start))
        swept = jax.lax.fori_loop(
            0, rounds, lambda _, swept: sweep(starts, swept, tolerance, min_steps=steps)[0], sweep.blank(starts)
        )
        return swept.path, swept.outputs

    starts = jnp.broadcast_to(start, (lanes, *start.shape))
    return team.spread(on_each_device, (SPLIT, SPLIT_SECOND), SPLIT_SECOND)(starts, grid.arrange(inputs.sequence))
