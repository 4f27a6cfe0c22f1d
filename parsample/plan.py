"""Which evaluation to use, from what a step costs on this device and how soon paths meet.

With C blocks of b steps per chain, a coalescing evaluation runs b steps of all lanes at once, then m more until the
slowest lane has met, in further sweeps if m > b: time ``(b + m) tau(lanes)`` against ``T tau(chains)`` sequentially,
work ``1 + m / b``. Where late lanes are gathered, all run only the n steps that most need: m - n are of few.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.costs import StepCosts
from parsample.grid import ceil_div, piece_length, round_up
from parsample.linearize import Dense, Zero
from parsample.solution import DEER, LATE_SHARE, Sequential

# Chains shorter than this are over before a pilot of a few hundred steps of a dozen lanes is.
MIN_STEPS = 4000

# Gain below which blocks are not worth their trouble: predictions are off by that much.
MIN_SPEEDUP = 1.15

# Seconds that blocks take beyond their sweeps, as measured on a CPU: to start programmes; to put a step in its place.
SECONDS_BESIDE_SWEEPS, SECONDS_PER_STEP_BESIDE = 3e-3, 1e-8

# Predicted times whose ratio is closer to 1 than this are not told apart.
INDIFFERENCE = 0.95

# Plans are compared as if lanes took so many times as long to meet as expected: the pilot has seen few of them.
DOUBT = 2.0

# Blocks may be so many times shorter than their lanes take to meet: that many more sweeps.
MAX_SWEEPS_TO_MEET = 4

# What gathering late lanes must save: the time that compiling a second sweep for them takes.
SECONDS_TO_COMPILE = 1.0


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
    """The fastest evaluation that `costs` and `meeting_times` predict, if lanes meet later than expected.

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
    candidates = _coalescing_plans(costs, meeting_times, sequential, period, num_devices)
    if newton is not None:
        best = min([sequential, *(plan for _, plan in candidates)], key=lambda plan: plan.seconds)
        candidates += [
            (plan.seconds, plan) for plan in _newton_plans(costs, sequential, period, dimension, newton, best)
        ]
    if not candidates:
        return sequential
    candidates = [(doubtful, plan) for doubtful, plan in candidates if plan.speedup >= MIN_SPEEDUP] or candidates
    fastest = min(doubtful for doubtful, _ in candidates)
    # Of plans that differ by less than timings do, the one with the fewest blocks: the same plan, time after time.
    best = min(
        (plan for doubtful, plan in candidates if doubtful <= fastest / INDIFFERENCE), key=lambda plan: plan.num_blocks
    )
    if best.speedup >= MIN_SPEEDUP:
        return best
    return replace(sequential, fallback=best.fallback)


def _coalescing_plans(
    costs: StepCosts, times: np.ndarray, sequential: Plan, period: int, num_devices: int
) -> list[tuple[float, Plan]]:
    """One plan per block count, with the seconds that it would take if lanes met late."""
    if not len(times) or not np.isfinite(times).all():
        return []
    meetings = Meetings.of(times)
    plans, num_blocks = [], round_up(2, num_devices)
    predicted = partial(_coalescing_plan, costs, meetings, sequential, num_devices)
    while num_blocks * sequential.num_chains <= max(costs.lanes):
        settings = DEER(piece_length(sequential.num_steps, num_blocks, period), Zero())
        blocks = ceil_div(sequential.num_steps, settings.block_size)
        if meetings.slowest(blocks * sequential.num_chains) > MAX_SWEEPS_TO_MEET * settings.block_size:
            break
        parted = replace(settings, gather_late=True)
        can_part = parted.num_late(ceil_div(blocks, num_devices)) > 0
        if can_part and predicted(settings).seconds - predicted(parted).seconds >= SECONDS_TO_COMPILE:
            settings = parted
        plans.append((predicted(settings, DOUBT).seconds, predicted(settings)))
        num_blocks *= 2
    return plans


def _coalescing_plan(
    costs: StepCosts, meetings: "Meetings", sequential: Plan, num_devices: int, settings: DEER, times: float = 1.0
) -> Plan:
    """The plan with these settings, if lanes take so many times as long to meet as expected."""
    num_chains, block_size = sequential.num_chains, settings.block_size
    num_blocks = ceil_div(sequential.num_steps, block_size)
    slowest = times * meetings.slowest(num_blocks * num_chains)
    if not settings.gather_late:
        return _plan(costs, sequential, settings, block_size + slowest)
    most = min(times * meetings.all_but(LATE_SHARE), slowest)
    late_lanes = num_chains * num_devices * settings.num_late(ceil_div(num_blocks, num_devices))
    return _plan(costs, sequential, settings, block_size + most, late=(slowest - most, late_lanes))


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
        """Expected steps until the slowest of `num_lanes` lanes has met, no fewer than were observed."""
        return max(self.mean + self.scale * math.log(num_lanes), self.largest)

    def all_but(self, share: int) -> float:
        """Steps until all lanes but one in `share` have met."""
        return self.mean - self.scale * (np.euler_gamma + math.log(-math.log(1 - 1 / share)))


def _newton_plans(
    costs: StepCosts,
    sequential: Plan,
    period: int,
    dimension: int,
    newton: Callable[[DEER, int], float],
    best: Plan,
) -> list[Plan]:
    plans = []
    for block_size in {round_up(8, period), round_up(32, period)}:
        settings = DEER(block_size, Dense())
        cheapest = _plan(costs, sequential, settings, 3 * block_size, 1 + dimension)
        if cheapest.seconds * MIN_SPEEDUP < best.seconds:
            num_sweeps = newton(settings, 32 * block_size)
            if math.isfinite(num_sweeps):
                # Fronts of long paths need more sweeps than those of a pilot, as log T.
                num_sweeps *= math.log(sequential.num_steps) / math.log(32 * block_size)
                steps_run = math.ceil(max(num_sweeps, 3)) * block_size
                plans.append(_plan(costs, sequential, settings, steps_run, 1 + dimension))
    return plans


def _plan(
    costs: StepCosts,
    sequential: Plan,
    settings: DEER,
    steps_run: float | int,
    evals_per_run: int = 1,
    late: tuple[float, int] = (0.0, 1),
) -> Plan:
    """A plan of `steps_run` steps of all lanes; and of so many steps of so many late ones."""
    late_steps, late_lanes = late
    block_size = settings.block_size
    num_blocks = ceil_div(sequential.num_steps, block_size)
    lanes = num_blocks * sequential.num_chains
    beside = SECONDS_BESIDE_SWEEPS + SECONDS_PER_STEP_BESIDE * sequential.num_steps * sequential.num_chains
    seconds = beside + steps_run * costs(lanes * evals_per_run) + late_steps * costs(late_lanes)
    gain = sequential.sequential_seconds / (block_size * costs(lanes * evals_per_run))
    # A power of two, so that plans from other timings ask for the same programme.
    stall_after = 2 ** math.ceil(math.log2(max(8, 2 * gain)))
    settings = replace(settings, stall_after=stall_after)
    evaluations = steps_run * lanes * evals_per_run + late_steps * late_lanes
    return Plan(
        method=settings,
        fallback=settings,
        num_steps=sequential.num_steps,
        num_chains=sequential.num_chains,
        num_blocks=num_blocks,
        seconds=seconds,
        sequential_seconds=sequential.sequential_seconds,
        evals_per_step=evaluations / (sequential.num_steps * sequential.num_chains),
    )


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
