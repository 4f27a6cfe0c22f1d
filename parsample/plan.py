"""Which evaluation to use, from what a step costs on this device and how soon paths meet.

With C blocks of b steps per chain, a coalescing evaluation runs b steps of all lanes at once, then m more until the
slowest lane has met: time ``(b + m) tau(lanes)`` against ``T tau(chains)`` sequentially, work ``1 + m / b``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from parsample.linearize import Dense, Zero
from parsample.solution import DEER, Sequential
from parsample.sweep import Grid, Sweep, default_tolerance
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

# Steps that each measurement takes at least, and the share of the time of a sequential run that it may take.
MIN_TIMED_STEPS = 8
MAX_TIMING_SHARE = 0.06

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
    """
    sequential = sequential_plan(num_steps, num_chains, num_steps * costs(num_chains))
    coalescing = _coalescing_plans(costs, meeting_times, sequential, period)
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


def _coalescing_plans(costs: StepCosts, times: np.ndarray, sequential: Plan, period: int) -> list[tuple[Plan, float]]:
    """One plan per block count, with the number of meeting times that fit into a block."""
    if not len(times) or not np.isfinite(times).all():
        return []
    plans, num_blocks = [], 2
    while num_blocks * sequential.num_chains <= max(costs.lanes):
        block_size = _round_up(-(-sequential.num_steps // num_blocks), period)
        num_used = -(-sequential.num_steps // block_size)
        lanes = num_used * sequential.num_chains
        meeting = slowest_meeting(times, lanes)
        if meeting > block_size:
            break
        plans.append((_plan(costs, sequential, block_size, Zero(), block_size + meeting, 1), block_size / meeting))
        num_blocks *= 2
    return plans


def slowest_meeting(times: Float[np.ndarray, " R"], num_lanes: int) -> float:
    """Expected steps until the slowest of `num_lanes` lanes has met: Gumbel's law, fitted by moments to `times`."""
    scale = max(float(np.std(times)), 0.1 * float(np.mean(times))) * math.sqrt(6) / math.pi
    return max(float(np.mean(times)) + scale * math.log(num_lanes), float(np.max(times)))


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
    for block_size in {_round_up(8, period), _round_up(32, period)}:
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
    num_blocks = -(-sequential.num_steps // block_size)
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
    start: Float[Array, " D"],
    num_steps: int,
    num_chains: int,
    max_lanes: float,
) -> StepCosts:
    """Time the sequential evaluation, then first sweeps of more and more lanes, while more bring down the time of each.

    Each run evaluates about ``num_chains * num_steps / 256`` transitions, so that all of it takes a few percent of the
    time of a sequential run. More than `max_lanes` are of no use.
    """
    evaluations = max(num_chains * num_steps // 256, 64)
    seconds = [_seconds_per_step(_sequentially, num_chains, evaluations, dynamics, parameters, start)]
    lanes_measured = [num_chains]
    budget = MAX_TIMING_SHARE * seconds[0] * num_steps
    for lanes in (num_chains * factor for factor in LANE_FACTORS):
        # At worst, a lane costs what it did among fewer.
        expected = 3 * MIN_TIMED_STEPS * seconds[-1] * lanes / lanes_measured[-1]
        if lanes > max_lanes or (len(seconds) > 1 and expected > budget):
            break
        lanes_measured.append(lanes)
        seconds.append(_seconds_per_step(_first_sweep, lanes, evaluations, dynamics, parameters, start))
        if seconds[-1] / lanes > (1 - MIN_LANE_GAIN) * seconds[-2] / lanes_measured[-2]:
            break
    return StepCosts(tuple(lanes_measured), tuple(seconds))


def _seconds_per_step(
    evaluate: Callable, lanes: int, evaluations: int, dynamics: Dynamics, parameters: Any, start: Array
) -> float:
    """The shorter of two runs, less what starting a compiled programme takes."""
    steps = max(evaluations // lanes, MIN_TIMED_STEPS)
    jax.block_until_ready(evaluate(dynamics, lanes, steps, parameters, start))  # compiles
    runs = _durations(lambda: evaluate(dynamics, lanes, steps, parameters, start))
    idle = _durations(lambda: _nothing(start))
    return max(min(runs) - min(idle), 0.1 * min(runs)) / steps


def _durations(run: Callable[[], Any]) -> list[float]:
    """Seconds of two runs."""
    durations: list[float] = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        durations.append(time.perf_counter() - begin)
    return durations


@jax.jit
def _nothing(start: Array) -> Array:
    return start + 1


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sequentially(dynamics: Dynamics, num_chains: int, num_steps: int, parameters: Any, start: Array) -> Any:
    """Chains side by side, step by step."""

    def one(rng_key: Array) -> tuple:
        transition, inputs = dynamics(parameters, rng_key, num_steps)
        return rollout(transition, start, inputs)[1:]

    return jax.vmap(one)(jax.random.split(jax.random.key(0), num_chains))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _first_sweep(dynamics: Dynamics, lanes: int, steps: int, parameters: Any, start: Array) -> Any:
    """One sweep of `lanes` blocks from the same start: what a solve spends its time on."""
    transition, inputs = dynamics(parameters, jax.random.key(0), lanes * steps)
    zero = Zero()
    seeds = zero.seeds(jax.random.key(0), start.shape[0], start.dtype)
    sweep = Sweep(transition, zero, inputs, Grid(lanes * steps, steps), seeds, lambda flag: flag)
    starts = jnp.broadcast_to(start, (lanes, *start.shape))
    swept, _ = sweep(starts, sweep.blank(starts), default_tolerance(jnp.ones_like(start)))
    return swept.path, swept.outputs


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
