"""Which evaluation to use, from what a step costs on this device and how soon paths meet.

With C blocks of b steps per chain, a coalescing evaluation runs b steps of all lanes at once, then m more until the
slowest lane has met: time ``(b + m) tau(lanes)`` against ``T tau(chains)`` sequentially, work ``1 + m / b``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from parsample.grid import SPLIT, SPLIT_SECOND, Grid, Team, ceil_div, round_up
from parsample.linearize import Dense, Zero
from parsample.solution import DEER, Sequential
from parsample.sweep import Sweep, default_tolerance
from parsample.transition import Dynamics, rollout

# Chains shorter than this are over before a pilot is.
MIN_STEPS = 2000

# Gain below which blocks are not worth their trouble: predictions are off by that much.
MIN_SPEEDUP = 1.15

# A block is at least this many times longer than its lanes take to meet, where that pays: work of at most 1.2, and
# room for meeting times that the pilot has not seen.
MIN_MEETINGS_PER_BLOCK = 5

# Lane counts whose step is timed, in multiples of the number of chains.
LANE_FACTORS = (32, 256, 2048, 16384)

# A round of each measurement evaluates this part of a run, in at least so many steps; all together may take this share
# of the time of a sequential run. Starting a programme does not count beside a round that takes so many seconds.
TIMED_PARTS = 1024
MIN_TIMED_STEPS = 8
MAX_TIMING_SHARE = 0.06
NEGLIGIBLE_START = 5e-3

# Share of the time per evaluation that eight times as many lanes must save for still more to be tried.
MIN_LANE_GAIN = 0.3


@dataclass(frozen=True)
class StepCosts:
    """Time of one step of several lanes at once, as measured on this device.

    Attributes
    ----------
    lanes
        Lane counts, increasing.
    seconds
        Seconds per step of all those lanes.
    """

    lanes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __call__(self, lanes: int) -> float:
        """Seconds per step of `lanes` lanes: interpolated in logarithms, in proportion beyond the measured counts."""
        if lanes > self.lanes[-1]:
            return self.seconds[-1] * lanes / self.lanes[-1]
        return float(np.exp(np.interp(np.log(lanes), np.log(self.lanes), np.log(self.seconds))))


@dataclass(frozen=True)
class Plan:
    """An evaluation, and what it should cost.

    Attributes
    ----------
    method
        `DEER` settings or `Sequential`: what ``method="auto"`` will do.
    fallback
        The best parallel settings, also where they do not pay: what ``method="deer"`` will do. None if there are none.
    num_steps, num_chains
        Steps per chain, and chains, planned for.
    num_blocks
        Blocks per chain; 1 if sequential.
    seconds, sequential_seconds
        Predicted time of the plan and of the sequential evaluation, compilation excluded.
    evals_per_step
        Predicted evaluations of the transition per step.
    """

    method: DEER | Sequential
    fallback: DEER | None
    num_steps: int
    num_chains: int
    num_blocks: int
    seconds: float
    sequential_seconds: float
    evals_per_step: float

    @property
    def speedup(self) -> float:
        """Predicted time of the sequential evaluation over that of the plan."""
        return self.sequential_seconds / self.seconds if self.seconds > 0 else 1.0

    def __str__(self) -> str:
        sequential = f"{_duration(self.sequential_seconds)} predicted"
        if isinstance(self.method, Sequential):
            return f"sequential, {sequential}"
        return (
            f"{self.num_blocks} blocks of {self.method.block_size} steps per chain, "
            f"{type(self.method.linearization).__name__}; {_duration(self.seconds)} predicted "
            f"(sequential {_duration(self.sequential_seconds)}), {self.evals_per_step:.2f} evaluations per step"
        )


def sequential_plan(num_steps: int, num_chains: int, seconds: float = math.nan) -> Plan:
    """A plan that needed no check."""
    return Plan(Sequential(), None, num_steps, num_chains, 1, seconds, seconds, 1.0)


def make_plan(
    costs: StepCosts,
    meeting_times: Float[np.ndarray, " R"],
    num_steps: int,
    *,
    num_chains: int = 1,
    period: int = 1,
    newton: Callable[[DEER, int], float] | None = None,
    dimension: int = 0,
    num_devices: int = 1,
) -> Plan:
    """The fastest evaluation that `costs` and `meeting_times` predict.

    Parameters
    ----------
    costs
        Step costs on this device.
    meeting_times
        Steps until restarted paths met, inf where they did not.
    num_steps, num_chains
        What is to be run.
    period
        Block sizes are multiples of this.
    newton
        Sweeps that given settings take on a pilot of so many steps, inf if they stall. Asked only where even three
        sweeps would pay. None: Newton's method is not considered.
    dimension
        Tangents of a dense linearization.
    num_devices
        Block counts are multiples of this, as far as the chain is long enough.
    """
    sequential = sequential_plan(num_steps, num_chains, num_steps * costs(num_chains))
    coalescing = _coalescing_plans(costs, meeting_times, sequential, period, num_devices)
    sturdy = [plan for plan, meetings in coalescing if meetings >= MIN_MEETINGS_PER_BLOCK]
    candidates = [plan for plan in sturdy if plan.speedup >= MIN_SPEEDUP] or [plan for plan, _ in coalescing]
    if newton is not None:
        candidates += _newton_plans(costs, sequential, period, dimension, newton, candidates)
    if not candidates:
        return sequential
    best = min(candidates, key=lambda plan: plan.seconds)
    if best.speedup >= MIN_SPEEDUP:
        return best
    return replace(sequential, fallback=best.fallback)


def _coalescing_plans(
    costs: StepCosts, times: np.ndarray, sequential: Plan, period: int, num_devices: int
) -> list[tuple[Plan, float]]:
    """One plan per block count, with the number of meeting times that fit into a block."""
    if not len(times) or not np.isfinite(times).all():
        return []
    meetings = Meetings.of(times)
    plans, num_blocks = [], round_up(2, num_devices)
    while num_blocks * sequential.num_chains <= max(costs.lanes):
        block_size = round_up(ceil_div(sequential.num_steps, num_blocks), period)
        meeting = meetings.slowest(ceil_div(sequential.num_steps, block_size) * sequential.num_chains)
        if meeting > block_size:
            break
        plans.append((_plan(costs, sequential, block_size, Zero(), block_size + meeting, 1), block_size / meeting))
        num_blocks *= 2
    return plans


class Meetings(NamedTuple):
    """Gumbel's law of the largest of many meeting times, fitted by moments.

    Attributes
    ----------
    mean, scale
        Mean of the meeting times observed, and scale of the law, in steps.
    largest
        The largest observed.
    """

    mean: float
    scale: float
    largest: float

    @classmethod
    def of(cls, times: Float[np.ndarray, " R"]) -> "Meetings":
        """The law that fits `times`, all finite."""
        mean = float(np.mean(times))
        return cls(mean, max(float(np.std(times)), 0.1 * mean) * math.sqrt(6) / math.pi, float(np.max(times)))

    def slowest(self, num_lanes: int) -> float:
        """Expected steps until the slowest of `num_lanes` lanes has met."""
        return max(self.mean + self.scale * math.log(num_lanes), self.largest)


def _newton_plans(
    costs: StepCosts,
    sequential: Plan,
    period: int,
    dimension: int,
    newton: Callable[[DEER, int], float],
    candidates: list[Plan],
) -> list[Plan]:
    best = min([sequential, *candidates], key=lambda plan: plan.seconds)
    plans = []
    for block_size in {round_up(8, period), round_up(32, period)}:
        settings = DEER(block_size=block_size, linearization=Dense())
        cheapest = _plan(costs, sequential, block_size, Dense(), 3 * block_size, 1 + dimension)
        if cheapest.seconds * MIN_SPEEDUP < best.seconds:
            num_sweeps = newton(settings, 32 * block_size)
            if math.isfinite(num_sweeps):
                # Fronts of long paths need more sweeps than those of a pilot, as log T.
                num_sweeps *= math.log(sequential.num_steps) / math.log(32 * block_size)
                steps_run = math.ceil(max(num_sweeps, 3)) * block_size
                plans.append(_plan(costs, sequential, block_size, Dense(), steps_run, 1 + dimension))
    return plans


def _plan(
    costs: StepCosts, sequential: Plan, block_size: int, linearization: Any, steps_run: float | int, evals_per_run: int
) -> Plan:
    num_blocks = ceil_div(sequential.num_steps, block_size)
    lanes = num_blocks * sequential.num_chains
    seconds = steps_run * costs(lanes * evals_per_run)
    gain = sequential.sequential_seconds / (block_size * costs(lanes * evals_per_run))
    settings = DEER(block_size=block_size, linearization=linearization, stall_after=max(6, math.ceil(2 * gain)))
    return Plan(
        method=settings,
        fallback=settings,
        num_steps=sequential.num_steps,
        num_chains=sequential.num_chains,
        num_blocks=num_blocks,
        seconds=seconds,
        sequential_seconds=sequential.sequential_seconds,
        evals_per_step=steps_run / block_size * evals_per_run * num_blocks * block_size / sequential.num_steps,
    )


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

    All of it takes a few percent of the time of a sequential run. More than `max_lanes` are of no use.
    """
    team = Team(mesh=mesh)

    def seconds_per_step(evaluate: Callable, lanes: int) -> float:
        steps = max(num_chains * num_steps // (TIMED_PARTS * lanes), MIN_TIMED_STEPS)
        return _seconds(partial(evaluate, dynamics, team, lanes, steps, parameters, start)) / steps

    seconds = [seconds_per_step(_sequentially, num_chains)]
    lanes_measured = [num_chains]
    budget = MAX_TIMING_SHARE * seconds[0] * num_steps
    for lanes in (round_up(num_chains * factor, team.num_devices) for factor in LANE_FACTORS):
        # At worst, a lane costs what it did among fewer.
        expected = 3 * MIN_TIMED_STEPS * seconds[-1] * lanes / lanes_measured[-1]
        if lanes > max_lanes or (len(seconds) > 1 and expected > budget):
            break
        lanes_measured.append(lanes)
        seconds.append(seconds_per_step(_first_sweep, lanes))
        if seconds[-1] / lanes > (1 - MIN_LANE_GAIN) * seconds[-2] / lanes_measured[-2]:
            break
    return StepCosts(tuple(lanes_measured), tuple(seconds))


def _seconds(run: Callable[[int], Any]) -> float:
    """Seconds of one round of ``run(rounds)``; where starting the programme would count, the mean of many more."""
    jax.block_until_ready(run(1))  # compiles
    once = _duration_of(run, 1)
    if once > NEGLIGIBLE_START:
        return min(once, _duration_of(run, 1))
    for rounds in (8, 32, 128):
        more = _duration_of(run, 1 + rounds)
        if more > 2 * once:
            break
    return max((more - once) / rounds, 0.01 * once)


def _duration_of(run: Callable[[int], Any], rounds: int) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(run(rounds))
    return time.perf_counter() - begin


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
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


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
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


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
