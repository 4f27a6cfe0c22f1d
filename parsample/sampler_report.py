"""What the sampler's check found: meeting times of its lanes, and the evaluation that follows from them."""

import warnings
from dataclasses import dataclass

import numpy as np

from parsample.adaptation import Adaptation
from parsample.meeting import MeetingTimes
from parsample.plan import Measured, Plan, why_apart
from parsample.status import ParallelStallWarning

# What to try where lanes meet late, or never.
REMEDY = "a longer run, kernel='metropolis', whose lanes meet under another coupling, or another parametrisation"


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
    """

    meeting: MeetingTimes
    num_lanes: int
    measured: Measured
    plan: Plan
    adaptation: Adaptation

    @property
    def cause(self) -> str:
        """Why blocks will not pay; empty if they will."""
        return "" if self.plan.is_parallel else why_apart(self.meeting, self.num_lanes)

    @property
    def remedy(self) -> str:
        """What to try; empty if blocks will pay."""
        return "" if self.plan.is_parallel else REMEDY

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
            ("meeting", self.meeting.described(self.num_lanes)),
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
