"""Choose between evaluation in blocks and step by step, from meeting times and the measured time per row.

A row is one step of every lane. In blocks, a segment takes one row per step of a block, plus the rows until its slowest
lane meets. Step by step, each step takes one row of another compiled program, which has one lane per chain.
"""

import math
from dataclasses import dataclass

from parsample.internal.arithmetic import ceil_div
from parsample.lanes.meeting import MAX_UNMET, MeetingTimes

# Assumed cost of a row with one lane per chain, as a share of the cost of a row of all lanes, until it is measured. On
# a CPU, a step of a cheap log density is mostly overhead until lanes fill the vector units.
DEFAULT_SINGLE_STEP_COST = 0.25

# Single steps are timed before the choice if compiling their program takes at most this share of the predicted time.
MAX_TRIAL_SHARE = 0.1

# With ``method="auto"``, a segment in blocks is given up once it costs this multiple of its evaluation step by step.
MAX_COST_RATIO = 2.0


@dataclass(frozen=True)
class Plan:
    """The evaluation chosen for a run, with its predicted cost.

    Attributes
    ----------
    is_parallel
        Whether chains are evaluated in blocks; if not, step by step.
    num_chains, num_steps
        Number of chains, and steps of each.
    num_blocks, block_size
        Blocks per chain in a segment, and steps per block; 1 and `num_steps` if sequential.
    seconds
        Predicted wall time in seconds, including compilation of the program for single steps if it is needed.
    evals_per_step
        Predicted evaluations of the kernel per step.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> report = parsample.check_sampler(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> report.plan.is_parallel, report.plan.num_chains, report.plan.num_steps
    (True, 4, 10000)
    """

    is_parallel: bool
    num_chains: int
    num_steps: int
    num_blocks: int
    block_size: int
    seconds: float
    evals_per_step: float

    def __str__(self) -> str:
        run = f"{self.num_chains} x {self.num_steps} steps"
        if not self.is_parallel:
            return f"{run}: step by step, {self.seconds:.2g} s predicted"
        return (
            f"{run}: {self.num_blocks} blocks of {self.block_size} steps per chain and segment, "
            f"{self.seconds:.2g} s and {self.evals_per_step:.2f} evaluations per step predicted"
        )


@dataclass(frozen=True)
class Measured:
    """Times measured during the warm-up and the check.

    Attributes
    ----------
    seconds_per_row
        Seconds per row of all lanes.
    seconds_to_compile
        Predicted seconds to compile the program for single steps: the compilation time of the program for all lanes,
        or 0 once single steps are compiled.
    single_step_cost
        Cost of a row with one lane per chain, as a share of the cost of a row of all lanes.
    """

    seconds_per_row: float
    seconds_to_compile: float
    single_step_cost: float = DEFAULT_SINGLE_STEP_COST


def block_size_of(num_steps: int, num_blocks: int, num_rows: int, period: int) -> int:
    """Steps per block, a multiple of `period`, for the fewest equal segments of at most `num_rows` rows."""
    per_lane = ceil_div(num_steps, num_blocks)
    num_segments = ceil_div(per_lane, num_rows)
    return ceil_div(per_lane, num_segments * period) * period


def make_plan(
    meeting: MeetingTimes, num_lanes: int, num_chains: int, num_steps: int, block_size: int, measured: Measured
) -> Plan:
    """The faster plan for `num_chains` chains: blocks of `block_size` steps on `num_lanes` lanes, or step by step."""
    num_blocks = num_lanes // num_chains
    num_segments = math.ceil(num_steps / (num_blocks * block_size))
    slowest = meeting.slowest(num_lanes - num_chains) if num_blocks > 1 else 0.0
    num_rows = num_segments * (block_size + slowest)
    share = max(num_chains / num_lanes, measured.single_step_cost)
    sequential_seconds = measured.seconds_to_compile + num_steps * share * measured.seconds_per_row
    blocks = Plan(
        is_parallel=True,
        num_chains=num_chains,
        num_steps=num_steps,
        num_blocks=num_blocks,
        block_size=block_size,
        seconds=num_rows * measured.seconds_per_row,
        evals_per_step=num_rows * num_lanes / (num_steps * num_chains),
    )
    if blocks.seconds <= sequential_seconds:
        return blocks
    return Plan(False, num_chains, num_steps, 1, num_steps, sequential_seconds, 1.0)


def depends_on_single_steps(plan: Plan, measured: Measured, num_lanes: int) -> bool:
    """Whether single steps could be faster than this parallel plan and are cheap to time.

    A single step costs at least the share ``num_chains / num_lanes`` of a row of all lanes.
    """
    min_share = plan.num_chains / num_lanes
    min_seconds = measured.seconds_to_compile + plan.num_steps * min_share * measured.seconds_per_row
    is_cheap = measured.seconds_to_compile <= MAX_TRIAL_SHARE * plan.seconds
    return plan.is_parallel and is_cheap and min_seconds < plan.seconds


def late_meeting_cause(meeting: MeetingTimes, num_lanes: int) -> str:
    """Why meeting times make blocks too slow: too many pairs did not meet, or the slowest lane meets late."""
    if meeting.share_unmet > MAX_UNMET:
        return f"{meeting.num_unmet} of {len(meeting.times)} pairs did not meet within {meeting.num_steps} steps"
    return f"the slowest of {num_lanes} lanes is expected to take {meeting.slowest(num_lanes):.0f} steps to meet"
