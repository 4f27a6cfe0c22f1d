"""The result of a check: meeting times, Lyapunov exponent, and the plan that follows from them."""

import html
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from parsample.internal.user_warnings import warn_user
from parsample.lanes.meeting import MeetingTimes
from parsample.lanes.program import PERIOD
from parsample.planning.plan import Measured, Plan, block_size_of, late_meeting_cause, make_plan
from parsample.solver.status import ParallelStallWarning
from parsample.warmup.adaptation import Adaptation

# Lanes gain nothing if a step of the chains costs less than this multiple of their share of a row of all lanes.
MAX_PROPORTIONAL_COST = 1.5

# Pairs that end within this many standard deviations of each other without meeting are kept apart by rounding.
MAX_NOISE_DISTANCE = 0.1


@dataclass(frozen=True, repr=False)
class Report:
    """Result of `check`, `check_sampler`, or the check of `sample`; ``str(report)`` is its text.

    Attributes
    ----------
    meeting
        Meeting times of pairs of lanes with common randomness.
    num_lanes
        Lanes of the planned run.
    measured
        Times per row and of compilation, in seconds.
    plan
        Evaluation that ``method="auto"`` is expected to choose, with predicted time and work.
    remedies
        Suggestions for lanes that meet late or never.
    atol
        Difference within which states count as equal, in standard deviations of the chain: at least the difference that
        rounding causes; 0 if lanes meet exactly.
    lle, lle_se
        Largest Lyapunov exponent and its standard error, in nats per step; NaN if the step has no derivative in
        forward mode, None if the exponent was not estimated.
    adaptation
        Result of the warm-up of `sample`; None for other chains.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> report = parsample.check_sampler(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> report.parallelizable, report.cause
    (True, '')
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
        """Steps until each pair met, shape (L,); inf for pairs that did not meet in the pilot."""
        return self.meeting.times

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, nats per step."""
        return self.meeting.contraction_rate

    @property
    def cause(self) -> str:
        """Why blocks will not pay; empty if the plan is parallel."""
        return self._diagnosis[0]

    @property
    def remedy(self) -> str:
        """What to try if blocks will not pay; empty if the plan is parallel."""
        return self._diagnosis[1]

    @property
    def _diagnosis(self) -> tuple[str, str]:
        """Cause and remedy."""
        last, late = self.meeting.last_distances, late_meeting_cause(self.meeting, self.num_lanes)
        lle, lle_se = (math.nan, math.nan) if self.lle is None or self.lle_se is None else (self.lle, self.lle_se)
        exponent = "" if math.isnan(lle) else f"Lyapunov exponent {lle:+.3g} +- {lle_se:.1g} nats per step"
        # Without an exponent, distances that stay small and shrink no further show the noise.
        stays_close = lle + 2 * lle_se < 0 or self.meeting.tolerance(self.atol) > self.atol
        is_noise = stays_close and (last < MAX_NOISE_DISTANCE).all() and last.dtype == np.float32
        if self.plan.is_parallel:
            diagnosis = "", ""
        elif not np.isfinite(self.meeting.distances).all():
            diagnosis = "the pilot's states are not finite", "finding the first step with a non-finite state"
        elif not self.meeting.num_unmet and self._lanes_gain_nothing:
            ratio = 1 / self.measured.single_step_cost
            expense = f"a step of all {self.num_lanes} lanes takes {ratio:.3g} times as long as a step of the chains"
            diagnosis = f"{expense}, so blocks gain nothing", "a log density that takes all lanes at once"
        elif not self.meeting.num_unmet:
            diagnosis = late, f"a longer run, or {self.remedies}"
        elif is_noise:
            reached = f"paths approach to {last.max():.1g} standard deviations and no further"
            remedy = "float64 (jax_enable_x64), or centred and scaled data"
            diagnosis = f"{reached}: the noise of float32 gradients", remedy
        elif lle - 2 * lle_se > 0:
            diagnosis = f"the chain is not predictable: {exponent}, and {late}", self.remedies
        else:
            diagnosis = f"{late} ({exponent})" if exponent else late, self.remedies
        return diagnosis

    @property
    def _lanes_gain_nothing(self) -> bool:
        """Whether evaluating lanes together saves next to nothing against evaluating them one after another."""
        return self.measured.single_step_cost < MAX_PROPORTIONAL_COST * self.plan.num_chains / self.num_lanes

    def __str__(self) -> str:
        return text_lines(self.rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Name and text of each line of the printed report."""
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
        return rows

    def planned_for(self, num_steps: int, num_rows: int) -> "Report":
        """The report with a plan for `num_steps` steps per chain, in blocks of at most `num_rows` steps."""
        num_chains = self.plan.num_chains
        block_size = block_size_of(num_steps, self.num_lanes // num_chains, num_rows, PERIOD)
        plan = make_plan(self.meeting, self.num_lanes, num_chains, num_steps, block_size, self.measured)
        return replace(self, plan=plan)

    def as_record(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain values and arrays by name, without the adaptation."""
        plain = {
            "num_lanes": self.num_lanes,
            "measured": asdict(self.measured),
            "plan": asdict(self.plan),
            "remedies": self.remedies,
            "atol": self.atol,
            "lle": self.lle,
            "lle_se": self.lle_se,
        }
        return {"report": plain}, {f"meeting.{name}": values for name, values in self.meeting._asdict().items()}

    @classmethod
    def from_record(
        cls, header: dict[str, Any], arrays: dict[str, np.ndarray], adaptation: Adaptation | None
    ) -> "Report":
        """The report of `as_record`, which may lie among other values."""
        plain = header["report"]
        meeting = MeetingTimes(*(arrays[f"meeting.{name}"] for name in MeetingTimes._fields))
        known = {"meeting": meeting, "measured": Measured(**plain["measured"]), "plan": Plan(**plain["plan"])}
        return cls(**{**plain, **known}, adaptation=adaptation)

    def warn(self) -> None:
        """Issue a `ParallelStallWarning` with cause and remedy if the plan is sequential."""
        if self.cause:
            chains = "This chain" if self.plan.num_chains == 1 else "These chains"
            message = f"{chains} will be evaluated sequentially: {self.cause}. Try: {self.remedy}."
            warn_user(message, ParallelStallWarning)


def text_lines(rows: list[tuple[str, str]]) -> str:
    """Rows of name and text as lines of plain text."""
    return "\n".join(f"{name:<18} {text}" for name, text in rows)


def html_table(rows: list[tuple[str, str]]) -> str:
    """Rows of name and text as an HTML table for notebooks."""
    left = "style='text-align:left'"
    lines = (f"<th {left}>{html.escape(name)}</th><td {left}>{html.escape(text)}</td>" for name, text in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


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
