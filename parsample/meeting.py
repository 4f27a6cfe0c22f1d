"""Meeting times of lanes that share their randomness, and the law that they follow."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.adaptation import Reference
from parsample.kernels.base import LaneState
from parsample.lane_program import LaneProgram, Rows

# Distance, in standard deviations, within which lanes without exact meeting have met: float64 and float32.
MEETING_DISTANCE = {"float64": 1e-10, "float32": 1e-5}

# Where a larger share of pairs has not met when the watch ends, that is given as the reason for no blocks.
MAX_UNMET = 0.25


class MeetingTimes(NamedTuple):
    """Meeting times of pairs of lanes with common keys, one of each pair restarted elsewhere.

    Attributes
    ----------
    times
        Steps until the paths of each pair met, shape (L,); inf: not while they were watched.
    distances
        Largest coordinate of their difference after each step, in whitened units, shape (n, L).
    """

    times: Float[np.ndarray, " L"]
    distances: Float[np.ndarray, "n L"]

    @property
    def num_steps(self) -> int:
        """Steps for which pairs were watched."""
        return len(self.distances)

    @property
    def num_unmet(self) -> int:
        """Pairs that did not meet."""
        return int(np.isinf(self.times).sum())

    @property
    def share_unmet(self) -> float:
        """Share of pairs that did not meet."""
        return self.num_unmet / len(self.times)

    def quantile(self, share: float) -> float:
        """Steps until this share of the pairs had met; inf if it had not."""
        return float(np.quantile(self.times, share, method="higher"))

    def slowest(self, num_lanes: int) -> float:
        """Expected steps until the slowest of `num_lanes` lanes meets.

        Beyond the median, meeting times are taken for exponential, with the rate that fits those that were seen and
        those that were not; the slowest of n then takes log n / rate longer.
        """
        if self.share_unmet > 0.5:
            return math.inf
        middle = self.quantile(0.5)
        later = np.minimum(self.times, self.num_steps)[self.times >= middle] - middle
        num_met = max(1, int(np.isfinite(self.times[self.times >= middle]).sum()))
        scale = max(float(later.sum()) / num_met, 0.1 * middle, 1.0)
        expected = middle + scale * math.log(max(num_lanes / 2, 1) + 1)
        seen = self.times[np.isfinite(self.times)].max()
        return max(expected, float(seen)) if num_lanes >= len(self.times) else expected

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, nats per step; NaN if none was seen apart."""
        rates = []
        for distance in self.distances.T:
            apart = np.flatnonzero((distance > 0) & np.isfinite(distance))
            if len(apart) > 1:
                first, last = apart[0], apart[-1]
                if last > first:
                    rates.append(math.log(distance[last] / distance[first]) / (last - first))
        return float(np.mean(rates)) if rates else math.nan


def meeting_times(
    program: LaneProgram,
    reference: Reference,
    max_steps: int,
    atol: float,
) -> MeetingTimes:
    """Restart every lane of the reference from its neighbour's start, with its own key, and watch until all have met.

    Where the reference ends, both are run on in turn, up to `max_steps`.
    """
    reference_path, size = reference.path, len(reference.path)
    first_steps = np.full(program.num_lanes, reference.first_step, np.int32)
    ahead = reference.ends
    behind = LaneState(*(None if leaf is None else np.roll(leaf, 1, 0) for leaf in reference.starts))
    distances, begin = [], 0
    while True:
        rows = Rows(begin, begin + size, begin == 0, True, atol)
        run = program.advance(reference.parameters, reference.keys, first_steps, behind, rows)
        end = int(run.ends.max())
        path, _ = program.recorded(begin, end)
        distances.append(np.abs(path.astype(float) - reference_path[: end - begin]).max(-1))
        begin, behind = begin + size, run.state
        if run.has_left.all() or begin + size > min(max_steps, program.num_rows):
            break
        ahead_rows = Rows(begin, begin + size, False, False, 0.0)
        further = program.advance(reference.parameters, reference.keys, first_steps, ahead, ahead_rows)
        ahead, (reference_path, _) = further.state, program.recorded(begin, begin + size)
    return _times(np.concatenate(distances), atol)


def _times(distances: Float[np.ndarray, "n L"], atol: float) -> MeetingTimes:
    """Step from which on the paths of each pair are together."""
    apart = ~(distances <= atol)
    last = np.where(apart.any(0), len(apart) - np.argmax(apart[::-1], axis=0), 0)
    times = np.where(last < len(apart), last + 1.0, np.inf)
    return MeetingTimes(times, distances)
