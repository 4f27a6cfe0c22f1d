"""Meeting times of lanes that share their randomness, and the distribution of these times."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, PyTree

from parsample.lanes.program import LaneProgram, Rows, where_lanes

# Distance, in standard deviations, within which lanes count as met if the kernel has no exact meeting, by dtype.
MEETING_DISTANCE = {"float64": 1e-10, "float32": 1e-5}

# Tolerance for pairs that rounding keeps apart, as a multiple of their remaining distance, which fluctuates.
NOISE_MARGIN = 4

# Maximum of that tolerance, in standard deviations.
MAX_TOLERANCE = 0.05

# If a larger share of pairs has not met by the last step compared, the report names this as the reason for no blocks.
MAX_UNMET = 0.25


class Stretch(NamedTuple):
    """Reference rows of all lanes, each lane with its own inputs.

    Attributes
    ----------
    parameters, inputs
        Parameters and inputs of the rows; inputs have a leading axis L.
    starts, ends
        States before and after the rows, leading axis L.
    records
        Positions, shape (n, L, D), and outputs.
    """

    parameters: Any
    inputs: PyTree
    starts: PyTree
    ends: PyTree
    records: tuple[Float[np.ndarray, "n L D"], PyTree]


class MeetingTimes(NamedTuple):
    """Meeting times of pairs of lanes with common keys; one lane of each pair starts from another state.

    Attributes
    ----------
    times
        Steps until the paths of each pair met, shape (L,); inf if they did not meet in n steps.
    distances
        Largest coordinate of the pair's difference after each step, in standard deviations, shape (n, L).
    """

    times: Float[np.ndarray, " L"]
    distances: Float[np.ndarray, "n L"]

    def within(self, atol: float) -> "MeetingTimes":
        """The same pairs, with meeting times by another tolerance."""
        return self._replace(times=_meeting_steps(self.distances <= atol))

    def tolerance(self, atol: float) -> float:
        """`atol`; or, if only rounding keeps the unmet pairs apart, a larger tolerance within which they meet."""
        apart = self.distances[:, np.isinf(self.times)]
        if not apart.size:
            return atol
        third, last = (np.median(part, axis=0) for part in np.array_split(apart, 4)[2:])
        # If distances still shrink, rounding is not the cause.
        is_converging = np.median(last) < np.median(third) / 2
        if is_converging or not np.isfinite(last).all():
            return atol
        tolerance = NOISE_MARGIN * float(last.max())
        return tolerance if atol < tolerance <= MAX_TOLERANCE else atol

    @property
    def num_steps(self) -> int:
        """Number of steps n in which pairs were compared."""
        return len(self.distances)

    @property
    def last_distances(self) -> Float[np.ndarray, " L"]:
        """Median distance of each pair over the last quarter of the steps, shape (L,)."""
        return np.median(self.distances[-self.num_steps // 4 :], axis=0)

    @property
    def num_unmet(self) -> int:
        """Number of pairs that did not meet."""
        return int(np.isinf(self.times).sum())

    @property
    def share_unmet(self) -> float:
        """Share of pairs that did not meet."""
        return self.num_unmet / len(self.times)

    def quantile(self, share: float) -> float:
        """Steps until this share of the pairs had met; inf if fewer met."""
        return float(np.quantile(self.times, share, method="higher"))

    def slowest(self, num_lanes: int) -> float:
        """Expected steps until the slowest of `num_lanes` lanes meets.

        Meeting times beyond the median are assumed to be exponential, with a rate fitted to the pairs that met and to
        those that did not (censored times); the slowest of n then takes log n / rate longer.
        """
        if self.share_unmet > 0.5:
            return math.inf
        middle = self.quantile(0.5)
        later = np.minimum(self.times, self.num_steps)[self.times >= middle] - middle
        num_met = max(1, int(np.isfinite(self.times[self.times >= middle]).sum()))
        scale = max(float(later.sum()) / num_met, 0.1 * middle, 1.0)
        # Only half of the lanes are beyond the median, hence n/2; the rate is bounded to at most 10 / median.
        expected = middle + scale * math.log(max(num_lanes / 2, 1) + 1)
        seen = self.times[np.isfinite(self.times)].max()
        return max(expected, float(seen)) if num_lanes >= len(self.times) else expected

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, in nats per step; NaN without two distances."""
        rates = []
        for distance in self.distances.T:
            apart = np.flatnonzero((distance > 0) & np.isfinite(distance))
            if len(apart) > 1:
                first, last = apart[0], apart[-1]
                if last > first:
                    rates.append(math.log(distance[last] / distance[first]) / (last - first))
        return float(np.mean(rates)) if rates else math.nan

    def described(self, num_lanes: int) -> str:
        """The meeting times in one line, extrapolated to `num_lanes` lanes."""
        met = np.isfinite(self.times)
        text = f"{met.sum()} of {met.size} pairs met within {self.num_steps} steps"
        if met.any():
            text += f" (median {self.quantile(0.5):.0f}, 95 % {self.quantile(0.95):.0f}"
            text += f", slowest {self.times[met].max():.0f}"
            text += f"; expected of {num_lanes} lanes: {self.slowest(num_lanes):.0f})"
        return text + (f"; {self.contraction_rate:+.2g} nats per step" if math.isfinite(self.contraction_rate) else "")


def stretch_of(program: LaneProgram, parameters: Any, inputs: PyTree, states: PyTree, num_rows: int) -> Stretch:
    """Evaluate the first rows of all lanes from these states, as a reference."""
    ends = program.advance(parameters, inputs, states, Rows(0, num_rows, False, False, 0.0)).state
    return Stretch(parameters, inputs, states, ends, program.recorded(0, num_rows))


def meeting_times(program: LaneProgram, stretch: Stretch, max_steps: int, atol: float) -> MeetingTimes:
    """Restart every lane from its neighbour's start, with its own inputs, until all meet their paths in the stretch.

    Past the end of the stretch, both paths are continued in turn, up to `max_steps` steps.

    The program's first rows must still hold the stretch: call this before any other `advance`.
    """
    reference, records, size = stretch.ends, stretch.records, len(stretch.records[0])
    restarted = jax.tree.map(lambda leaf: np.roll(leaf, 1, 0), stretch.starts)
    distances, flags, begin = [], [], 0
    while True:
        # Their cached log densities may be missing, so they are evaluated.
        rows = Rows(begin, begin + size, begin == 0, True, atol)
        result = program.advance(stretch.parameters, stretch.inputs, restarted, rows)
        end = int(result.ends.max())
        reference_rows = jax.tree.map(lambda leaf: leaf[: end - begin], records)  # noqa: B023 - used at once
        distance, met = program.dynamics.met(stretch.parameters, atol, program.recorded(begin, end), reference_rows)
        distances.append(distance)
        flags.append(met)
        # Lanes that have left continue from the states of the paths that they have met.
        begin, restarted = begin + size, where_lanes(result.stopped_early, reference, result.state)
        if result.stopped_early.all() or begin + size > min(max_steps, program.num_rows):
            break
        rows = Rows(begin, begin + size, False, False, 0.0)
        reference_result = program.advance(stretch.parameters, stretch.inputs, reference, rows)
        reference, records = reference_result.state, program.recorded(begin, begin + size)
    return MeetingTimes(_meeting_steps(np.concatenate(flags)), np.concatenate(distances))


def _meeting_steps(met: Bool[np.ndarray, "n L"]) -> Float[np.ndarray, " L"]:
    """Step from which on each pair has met, shape (L,); inf if it has not met at the last step."""
    last = np.where(met.all(0), 0, len(met) - np.argmin(met[::-1], axis=0))
    return np.where(last < len(met), last + 1.0, np.inf)
