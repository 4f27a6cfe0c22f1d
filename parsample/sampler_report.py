"""What the sampler's check found: meeting times of its lanes, and the evaluation that follows from them."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from parsample.adaptation import Adaptation
from parsample.meeting import MAX_UNMET, MeetingTimes
from parsample.status import ParallelStallWarning

# A step of one lane per chain is taken to cost this share of a step of all lanes where it was not measured: on CPUs a
# step of a cheap log density is mostly overhead until lanes fill the vector units.
SHARE_OF_OVERHEAD = 0.25

# Blocks are planned where they take at most this part of the time expected step by step.
MAX_TIME_RATIO = 1.0


@dataclass(frozen=True)
class SamplerPlan:
    """How chains will be evaluated.

    Attributes
    ----------
    is_parallel
        In blocks, or step by step.
    num_chains, num_samples
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
    num_samples: int
    num_blocks: int
    block_size: int
    seconds: float
    evals_per_step: float

    def __str__(self) -> str:
        run = f"{self.num_chains} x {self.num_samples} steps"
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
        Of the program.
    share_of_chains
        Cost of a row of one lane per chain, as a share of that of all lanes.
    """

    seconds_per_row: float
    seconds_to_compile: float
    share_of_chains: float = SHARE_OF_OVERHEAD


@dataclass(frozen=True)
class SamplerReport:
    """What the check of `sample` found; ``str(report)`` is for people.

    Attributes
    ----------
    meeting
        Meeting times of pairs of lanes with common keys.
    num_lanes
        Lanes that will run.
    measured
        Times measured on the way.
    plan
        What ``method="auto"`` does.
    adaptation
        What the warm-up found.
    cause, remedy
        Why blocks will not pay, and what to try; empty if they will.
    """

    meeting: MeetingTimes
    num_lanes: int
    measured: Measured
    plan: SamplerPlan
    adaptation: Adaptation
    cause: str
    remedy: str

    @property
    def parallelizable(self) -> bool:
        """Whether the plan is parallel."""
        return self.plan.is_parallel

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, nats per step."""
        return self.meeting.contraction_rate

    @property
    def coalescence(self) -> np.ndarray:
        """Steps until each pair met, shape (L,); inf: not while they were watched."""
        return self.meeting.times

    def __str__(self) -> str:
        rows = [
            ("verdict", "parallel" if self.parallelizable else "sequential"),
            ("warm-up", _warmup_row(self.adaptation)),
            ("meeting", _meeting_row(self.meeting, self.num_lanes)),
            ("plan", str(self.plan)),
        ]
        if self.cause:
            rows += [("because", self.cause), ("try", self.remedy)]
        return "\n".join(f"{name:<18} {text}" for name, text in rows)

    def warn(self, stacklevel: int = 3) -> None:
        """A `ParallelStallWarning` with cause and remedy, if blocks will not pay."""
        if self.cause:
            message = f"These chains will be evaluated sequentially: {self.cause}. Try: {self.remedy}."
            warnings.warn(message, ParallelStallWarning, stacklevel=stacklevel)


def _warmup_row(adaptation: Adaptation) -> str:
    state = f"not settled: {adaptation.unsettled}" if adaptation.unsettled else "settled"
    text = f"{adaptation.num_steps} steps of {adaptation.num_lanes} lanes, acceptance {adaptation.acceptance_rate:.2f}"
    if adaptation.num_replaced:
        text += f", {adaptation.num_replaced} lanes replaced"
    return f"{text}; {state}"


def _meeting_row(meeting: MeetingTimes, num_lanes: int) -> str:
    met = np.isfinite(meeting.times)
    text = f"{met.sum()} of {met.size} pairs met within {meeting.num_steps} steps"
    if met.any():
        text += f" (median {meeting.quantile(0.5):.0f}, 95 % {meeting.quantile(0.95):.0f}"
        text += f", slowest {meeting.times[met].max():.0f}"
        text += f"; expected of {num_lanes} lanes: {meeting.slowest(num_lanes):.0f})"
    if math.isfinite(meeting.contraction_rate):
        text += f"; {meeting.contraction_rate:+.2g} nats per step"
    return text


def block_size_of(num_samples: int, num_blocks: int, num_rows: int, period: int) -> int:
    """Steps per block, so that equal segments of at most `num_rows` rows hold all steps."""
    per_lane = -(-num_samples // num_blocks)
    num_segments = -(-per_lane // num_rows)
    return -(-per_lane // (num_segments * period)) * period


def make_plan(
    meeting: MeetingTimes, num_lanes: int, num_chains: int, num_samples: int, block_size: int, measured: Measured
) -> tuple[SamplerPlan, str, str]:
    """The faster evaluation, and why it is not in blocks.

    A segment in blocks takes as many rows as a block has steps, and as many again as the slowest lane takes to meet.
    Step by step takes another program, and a row per step.
    """
    num_blocks = num_lanes // num_chains
    num_segments = math.ceil(num_samples / (num_blocks * block_size))
    slowest = meeting.slowest(num_lanes - num_chains) if num_blocks > 1 else 0.0
    rows = num_segments * (block_size + slowest)
    share = max(num_chains / num_lanes, measured.share_of_chains)
    sequential_seconds = measured.seconds_to_compile + num_samples * share * measured.seconds_per_row
    blocks = SamplerPlan(
        True,
        num_chains,
        num_samples,
        num_blocks,
        block_size,
        rows * measured.seconds_per_row,
        rows * num_lanes / (num_samples * num_chains),
    )
    sequential = SamplerPlan(False, num_chains, num_samples, 1, num_samples, sequential_seconds, 1.0)
    if blocks.seconds <= MAX_TIME_RATIO * sequential_seconds:
        return blocks, "", ""
    return sequential, *_diagnosis(meeting, slowest)


def _diagnosis(meeting: MeetingTimes, slowest: float) -> tuple[str, str]:
    """Why blocks will not pay, and what to try."""
    remedy = "a longer run, kernel='metropolis', whose lanes meet under another coupling, or another parametrisation"
    if meeting.share_unmet > MAX_UNMET:
        return (
            f"{meeting.num_unmet} of {len(meeting.times)} pairs of lanes did not meet within {meeting.num_steps} steps",
            remedy,
        )
    return f"lanes are expected to take up to {slowest:.0f} steps to meet", remedy
