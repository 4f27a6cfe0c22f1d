"""Which evaluation to use: in blocks or step by step, from how soon lanes meet and what a row of them takes.

A segment in blocks takes as many rows as a block has steps, and as many again as its slowest lane takes to meet. Step
by step takes another compiled program, and a row of one lane per chain for every step.
"""

import math
from dataclasses import dataclass

from parsample.lanes.meeting import MAX_UNMET, MeetingTimes

# A step of one lane per chain is taken to cost this share of a step of all lanes where it was not measured: on CPUs a
# step of a cheap log density is mostly overhead until lanes fill the vector units.
SHARE_OF_OVERHEAD = 0.25

# Single steps are timed before the choice if compiling their program takes at most this share of the predicted time.
MAX_SHARE_OF_TRIAL = 0.1


@dataclass(frozen=True)
class Plan:
    """How chains will be evaluated.

    Attributes
    ----------
    is_parallel
        In blocks, or step by step.
    num_chains, num_steps
        Chains, and steps of each.
    num_blocks, block_size
        Blocks per chain in a segment, and steps of a block; 1 and all steps if sequential.
    seconds
        Predicted wall time, compilation of a program for step-by-step evaluation included where one is needed.
    evals_per_step
        Predicted evaluations of the kernel per step.
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
    """Times measured while the program did useful work.

    Attributes
    ----------
    seconds_per_row
        Of a step of all lanes.
    seconds_to_compile
        What the program for single steps is taken to need: as much as that of the lanes, or 0 once it is there.
    share_of_chains
        Cost of a row of one lane per chain, as a share of that of all lanes.
    """

    seconds_per_row: float
    seconds_to_compile: float
    share_of_chains: float = SHARE_OF_OVERHEAD


def block_size_of(num_steps: int, num_blocks: int, num_rows: int, period: int) -> int:
    """Steps per block, so that equal segments of at most `num_rows` rows hold all steps."""
    per_lane = -(-num_steps // num_blocks)
    num_segments = -(-per_lane // num_rows)
    return -(-per_lane // (num_segments * period)) * period


def make_plan(
    meeting: MeetingTimes, num_lanes: int, num_chains: int, num_steps: int, block_size: int, measured: Measured
) -> Plan:
    """The faster evaluation of `num_chains` chains in blocks of `block_size` steps on `num_lanes` lanes."""
    num_blocks = num_lanes // num_chains
    num_segments = math.ceil(num_steps / (num_blocks * block_size))
    slowest = meeting.slowest(num_lanes - num_chains) if num_blocks > 1 else 0.0
    rows = num_segments * (block_size + slowest)
    share = max(num_chains / num_lanes, measured.share_of_chains)
    sequential_seconds = measured.seconds_to_compile + num_steps * share * measured.seconds_per_row
    blocks = Plan(
        True,
        num_chains,
        num_steps,
        num_blocks,
        block_size,
        rows * measured.seconds_per_row,
        rows * num_lanes / (num_steps * num_chains),
    )
    if blocks.seconds <= sequential_seconds:
        return blocks
    return Plan(False, num_chains, num_steps, 1, num_steps, sequential_seconds, 1.0)


def depends_on_single_steps(plan: Plan, measured: Measured, num_lanes: int) -> bool:
    """Whether blocks would lose if a row of single steps cost no more than its lanes, and finding out costs little."""
    least_share = plan.num_chains / num_lanes
    least_seconds = measured.seconds_to_compile + plan.num_steps * least_share * measured.seconds_per_row
    is_cheap = measured.seconds_to_compile <= MAX_SHARE_OF_TRIAL * plan.seconds
    return plan.is_parallel and is_cheap and least_seconds < plan.seconds


def why_apart(meeting: MeetingTimes, num_lanes: int) -> str:
    """Why blocks do not pay, by the meeting times of pairs of lanes."""
    if meeting.share_unmet > MAX_UNMET:
        return f"{meeting.num_unmet} of {len(meeting.times)} pairs did not meet within {meeting.num_steps} steps"
    return f"the slowest of {num_lanes} lanes is expected to take {meeting.slowest(num_lanes):.0f} steps to meet"
