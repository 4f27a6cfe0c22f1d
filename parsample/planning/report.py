"""What a check found: how soon lanes meet, how fast the chain forgets, and the evaluation that follows."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from parsample.lanes.meeting import MeetingTimes
from parsample.planning.plan import Measured, Plan, why_apart
from parsample.solver.status import ParallelStallWarning
from parsample.warmup.adaptation import Adaptation

# Paths that differ by less than this many standard deviations when they are given up have been kept apart by rounding.
NOISE = 0.1


@dataclass(frozen=True)
class Report:
    """What `check` found, or the check of `sample`; ``str(report)`` is for people.

    Attributes
    ----------
    meeting
        Meeting times of pairs of lanes with common randomness.
    num_lanes
        Lanes that will run.
    measured
        Times measured on the way.
    plan
        What ``method="auto"`` is expected to do, with predicted time and work.
    remedies
        What to try where lanes meet late, or never.
    atol
        Largest difference of states that count as equal, in standard deviations of the chain: no less than what
        rounding makes of a path; 0 where lanes meet exactly.
    lle, lle_se
        Largest Lyapunov exponent and its standard error, in nats per step; NaN where the step has no derivative in
        forward mode, None where nobody asked.
    adaptation
        What the warm-up of `sample` found; None of other chains.
    """

    meeting: MeetingTimes
    num_lanes: int
    measured: Measured
    plan: Plan
    remedies: str
    atol: float = 0.0
    lle: float | None = None
    lle_se: float | None = None
    adaptation: Adaptation | None = None

    @property
    def parallelizable(self) -> bool:
        """Whether the plan is parallel."""
        return self.plan.is_parallel

    @property
    def coalescence(self) -> np.ndarray:
        """Steps until each pair met, shape (L,); inf: not while they were watched."""
        return self.meeting.times

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, nats per step."""
        return self.meeting.contraction_rate

    @property
    def cause(self) -> str:
        """Why blocks will not pay; empty if they will."""
        return self._diagnosis[0]

    @property
    def remedy(self) -> str:
        """What to try; empty if blocks will pay."""
        return self._diagnosis[1]

    @property
    def _diagnosis(self) -> tuple[str, str]:
        last, late = self.meeting.last_distances, why_apart(self.meeting, self.num_lanes)
        lle, lle_se = (math.nan, math.nan) if self.lle is None or self.lle_se is None else (self.lle, self.lle_se)
        told = "" if math.isnan(lle) else f"Lyapunov exponent {lle:+.3g} +- {lle_se:.1g} nats per step"
        is_noise = lle + 2 * lle_se < 0 and (last < NOISE).all() and last.dtype == np.float32
        if self.plan.is_parallel:
            found = "", ""
        elif not np.isfinite(self.meeting.distances).all():
            found = "the pilot's states are not finite", "looking for where along the chain they cease to be"
        elif not self.meeting.num_unmet:
            found = late, f"a longer run, or {self.remedies}"
        elif is_noise:
            reached = f"paths approach to {last.max():.1g} standard deviations and no further"
            remedy = "float64 (jax_enable_x64), or centred and scaled data"
            found = f"{reached}: the noise of float32 gradients", remedy
        elif lle - 2 * lle_se > 0:
            found = f"the chain is not predictable: {told}, and {late}", self.remedies
        else:
            found = f"{late} ({told})" if told else late, self.remedies
        return found

    def __str__(self) -> str:
        rows = [("verdict", "parallel" if self.parallelizable else "sequential")]
        if self.adaptation is not None:
            rows.append(("warm-up", _warmup_row(self.adaptation)))
        if self.lle is not None and self.lle_se is not None:
            rows.append(("Lyapunov exponent", _exponent_row(self.lle, self.lle_se)))
        rows.append(("meeting", self.meeting.described(self.num_lanes)))
        if self.atol > 0:
            rows.append(("tolerance", f"{self.atol:.1g} standard deviations"))
        rows.append(("plan", str(self.plan)))
        if self.cause:
            rows += [("because", self.cause), ("try", self.remedy)]
        return aligned(rows)

    def warn(self, stacklevel: int = 3) -> None:
        """A `ParallelStallWarning` with cause and remedy, if blocks will not pay."""
        if self.cause:
            chains = "This chain" if self.plan.num_chains == 1 else "These chains"
            message = f"{chains} will be evaluated sequentially: {self.cause}. Try: {self.remedy}."
            warnings.warn(message, ParallelStallWarning, stacklevel=stacklevel)


def aligned(rows: list[tuple[str, str]]) -> str:
    """One line for each name and its text."""
    return "\n".join(f"{name:<18} {text}" for name, text in rows)


def _exponent_row(lle: float, lle_se: float) -> str:
    if math.isnan(lle):
        return "the step has no derivative in forward mode"
    halves = f" (a difference halves in {math.log(2) / -lle:.3g} steps)" if -math.inf < lle < 0 else ""
    return f"{lle:+.3g} +- {lle_se:.1g} nats per step{halves}"


def _warmup_row(adaptation: Adaptation) -> str:
    state = f"not settled: {adaptation.unsettled}" if adaptation.unsettled else "settled"
    text = f"{adaptation.num_steps} steps of {adaptation.num_lanes} lanes, acceptance {adaptation.acceptance_rate:.2f}"
    if adaptation.num_replaced:
        text += f", {adaptation.num_replaced} lanes replaced"
    return f"{text}; {state}"
