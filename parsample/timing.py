"""How step costs are measured.

Whole programmes are timed, as a solve would run them: random numbers, transitions, writing. For small models the time
it takes to start a programme is longer than its run; there the difference between a short and a long run counts.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from parsample.compilation import Programme, compiling, outermost_jit
from parsample.conditions import Conditions
from parsample.costs import StepCosts
from parsample.grid import SPLIT, SPLIT_SECOND, Grid, Team, first_devices, round_up
from parsample.linearize import Zero
from parsample.plan import MAX_SWEEPS_TO_MEET
from parsample.processes import agreed
from parsample.sweep import Splice, Sweep, default_tolerance
from parsample.transition import Dynamics, rollout, zeros

# Lane counts whose step is timed, in multiples of the number of chains; where fewer than the first are of use, the
# largest power of two that is, but for those that could hardly pay.
LANE_FACTORS = (64, 512, 4096, 32768)
FEWEST_LANES = 4

# A round of each measurement evaluates this part of a run, in at least so many steps (few, where evaluating its lanes
# one by one would take more than `LONGEST`); all together may take this share of the time of a sequential run.
TIMED_PARTS = 1024
MIN_TIMED_STEPS, FEW_TIMED_STEPS = 8, 4
MAX_TIMING_SHARE = 0.04

# A measurement goes on for about this part of a sequential run, within these bounds in seconds, beside the larger of
# which the start of a programme does not count; in at most about so many rounds.
LONG_ENOUGH, SHORTEST, LONGEST = 0.01, 5e-4, 1e-2
MAX_ROUNDS = 64

# A sequential run of fewer seconds is not worth several devices, which take a millisecond or so to act together.
SECONDS_TO_SHARE = 0.1

# Blocks of fewer meeting times than this cost much more work, and are timed only on a device with room: where a step of
# fewer lanes takes no more than so many times as long as one of the chains alone.
MEETINGS_PER_BLOCK, MAX_ROOM = 5, 4.0

# Share of the time per evaluation that eight times as many lanes must save for still more to be tried.
MIN_LANE_GAIN = 0.3


@dataclass(frozen=True)
class Trial:
    """A programme to be timed: `num_steps` steps of `lanes` lanes, as often as it is told."""

    evaluate: Programme
    team: Team
    lanes: int
    num_steps: int
    chains: tuple[Dynamics, Any, Any]  # with their parameters, and a state

    def __call__(self, rounds: int) -> Any:
        """Run so many rounds."""
        return self.evaluate(*self._arguments, rounds)

    def lower(self) -> Any:
        """The programme, to be compiled."""
        return self.evaluate.lower(*self._arguments, 1)

    @property
    def _arguments(self) -> tuple:
        dynamics, *arrays = self.chains
        return dynamics, self.team, self.lanes, self.num_steps, *arrays


def _trial(
    evaluate: Programme,
    mesh: Mesh | None,
    lanes: int,
    num_evaluations: int,
    chains: tuple,
    fewest: int = MIN_TIMED_STEPS,
) -> Trial:
    steps = max(nearest_power(num_evaluations) // (TIMED_PARTS * lanes), fewest)
    return Trial(evaluate, Team(mesh=mesh), lanes, steps, chains)


def nearest_power(num_steps: int) -> int:
    """Of two: what is compiled for trials and pilots of one run serves those of similar length."""
    return 2 ** round(math.log2(num_steps))


def sequential_trial(
    dynamics: Dynamics, parameters: Any, start: Any, num_steps: int, num_chains: int, mesh: Mesh | None = None
) -> Trial:
    """The first that `measure_costs` times; it compiles for shapes in place of `parameters` and `start` too."""
    chains = (dynamics, parameters, start)
    return _trial(_sequentially, mesh, num_chains, num_chains * num_steps, chains)


def measure_costs(
    dynamics: Dynamics,
    parameters: Any,
    start: Float[Array | np.ndarray, " D"],
    num_steps: int,
    num_chains: int,
    useful_lanes: float,
    mesh: Mesh | None = None,
) -> StepCosts:
    """Time the sequential evaluation, then first sweeps of more and more lanes, while more bring down the time of each.

    All of it takes a few percent of the time of a long sequential run. With `useful_lanes`, blocks are as long as their
    lanes take to meet: only a device with room for them gains from so many. Of several devices in `mesh` only the first
    of each process is used if the run is short.
    """
    everyone = mesh
    alone = sequential_trial(dynamics, parameters, start, num_steps, num_chains, mesh)
    seconds, lanes = [_seconds_per_step(alone, SHORTEST, everyone)], [num_chains]
    sequential_seconds = seconds[0] * num_steps
    if mesh is not None and sequential_seconds < SECONDS_TO_SHARE:
        mesh = first_devices(mesh, 1)
    factors = _lane_factors(useful_lanes / num_chains)
    counts = [round_up(num_chains * factor, Team(mesh=mesh).num_devices) for factor in factors]
    trials = [
        _trial(
            _first_sweep,
            mesh,
            count,
            num_chains * num_steps,
            alone.chains,
            MIN_TIMED_STEPS if MIN_TIMED_STEPS * count * seconds[0] < num_chains * LONGEST else FEW_TIMED_STEPS,
        )
        for count in counts
    ]
    few = useful_lanes / MEETINGS_PER_BLOCK
    with compiling(*(trial.lower for trial in trials[:2] if trial is trials[0] or trial.lanes <= few)):
        pass  # nothing may be timed beside a compilation
    long_enough = min(max(LONG_ENOUGH * sequential_seconds, SHORTEST), LONGEST)
    for trial in trials:
        # At worst, a lane costs what it did among fewer.
        expected = 4 * trial.num_steps * seconds[-1] * trial.lanes / lanes[-1]
        if len(seconds) > 1 and expected > MAX_TIMING_SHARE * sequential_seconds:
            break
        if len(seconds) > 1 and trial.lanes > few and seconds[-1] > MAX_ROOM * seconds[0]:
            break
        lanes.append(trial.lanes)
        seconds.append(_seconds_per_step(trial, long_enough, everyone))
        if seconds[-1] / lanes[-1] > (1 - MIN_LANE_GAIN) * seconds[-2] / lanes[-2]:
            break
    conditions = Conditions.of(dynamics, start, num_steps, num_chains, mesh)
    return StepCosts(tuple(lanes), tuple(seconds), Team(mesh=mesh).num_devices, conditions)


def _lane_factors(useful: float) -> list[int]:
    """What to time; every count is another programme to be compiled."""
    if useful < FEWEST_LANES:
        return []
    first = LANE_FACTORS[0] if useful >= LANE_FACTORS[0] else 2 ** int(math.log2(useful))
    return [first, *(factor for factor in LANE_FACTORS if first < factor <= MAX_SWEEPS_TO_MEET * useful)]


def _seconds_per_step(trial: Trial, long_enough: float, mesh: Mesh | None) -> float:
    return _seconds(trial, long_enough, mesh) / trial.num_steps


def _seconds(run: Callable[[int], Any], long_enough: float, mesh: Mesh | None = None) -> float:
    """Seconds of one round of ``run(rounds)``, from as many as take `long_enough`, less what starting it takes.

    The processes that share `mesh` go by the same figures, so that they run the same programmes.
    """

    def duration(rounds: int) -> float:
        return float(agreed(mesh, _duration_of(run, rounds)))

    jax.block_until_ready(run(1))  # compiles
    once = min(duration(1) for _ in range(2))
    if once > LONGEST:
        return once
    rounds = max(4, int(long_enough / once))
    while (more := duration(1 + rounds)) - once < long_enough / 2 and rounds < MAX_ROUNDS:
        rounds *= 4
    more = min(more, duration(1 + rounds))
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
            carry, _, outputs = rollout(transition, so_far[0], inputs)
            return transition.reduce(carry), outputs

        # Written into before the first round too: else the rollout would be there, and be compiled, twice.
        _, *rest = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), jax.eval_shape(again, 0, (start,)))
        return jax.lax.fori_loop(0, rounds, again, (start, *rest))

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
        # In one stretch: what devices tell each other would be a large part of so few steps.
        sweep = Sweep(transition, linearization, inputs._replace(sequence=sequence), grid, team, seeds, num_stretches=1)
        never = default_tolerance(jnp.ones_like(start), atol=math.nan)
        swept = jax.lax.fori_loop(
            0, rounds, lambda _, swept: sweep(starts, swept, never, Splice.nowhere(starts))[0], sweep.blank(starts)
        )
        return swept.path, swept.outputs

    starts = jnp.broadcast_to(start, (lanes, *start.shape))
    return team.spread(on_each_device, (SPLIT, SPLIT_SECOND), SPLIT_SECOND)(starts, grid.arrange(inputs.sequence))
