"""Step sizes from mean acceptance rates of an ensemble, by the known laws between the two."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

# Number of latest estimates that are averaged: the steps between them together cover a period of trajectory lengths.
NUM_ESTIMATES = 4

# The worst sixteenth of the lanes should accept at a mean rate at most `WORST_BELOW` below the target.
WORST_SHARE, WORST_BELOW = 1 / 16, 0.15

# Acceptance rates are clipped to these bounds: beyond them, they tell nothing more about the step size.
ACCEPTANCE_BOUNDS = (0.01, 0.995)

# Likelihood ratio from which on divergences are taken to come from walls.
MIN_LIKELIHOOD_RATIO = 20


class StepSize:
    """A step size tuned on mean acceptance rates of the whole ensemble, each measured from hundreds of transitions.

    Energy errors are about normal, with a spread that grows as the square of the step size, so that the acceptance rate
    is ``2 Phi(-c step^2)`` (Roberts and Rosenthal 1998; Beskos et al. 2013). Random-walk Metropolis in one dimension
    accepts at the rate ``(2 / pi) atan(2 / step)`` on a Gaussian. Each law converts a rate into an estimate of the step
    size with the target rate; the geometric mean of the latest estimates is used.

    Parameters
    ----------
    target
        Target acceptance rate.
    step_size
        Initial step size.
    uses_gradient
        Whether the kernel uses gradients: selects the law.
    maximum
        Largest step size.
    """

    def __init__(
        self, target: float, step_size: Float[Any, "..."], uses_gradient: bool, maximum: float = math.inf
    ) -> None:
        self.target, self.current, self.uses_gradient, self.maximum = target, step_size, uses_gradient, maximum
        self._estimates: list[np.ndarray] = []
        self._rates: list[np.ndarray] = []

    def update(self, acceptance: Float[np.ndarray, " rates"]) -> None:
        """Add rates measured with the current step size: one of each lane, or (metropolis) of each coordinate."""
        if self.uses_gradient:
            self._rates.append(acceptance)
            # Where curvature varies, a step size that suits most lanes leaves other lanes, and later chains, stuck.
            recent = np.sort(np.mean(self._rates[-NUM_ESTIMATES:], axis=0))
            worst = recent[: max(1, int(len(recent) * WORST_SHARE))].mean()
            factor = min(self._factor(acceptance.mean(), self.target), self._factor(worst, self.target - WORST_BELOW))
        else:
            rate = np.clip(acceptance, *ACCEPTANCE_BOUNDS)
            factor = np.tan(np.pi * rate / 2) / np.tan(np.pi * self.target / 2)
        self._estimates.append(np.log(self.current * factor))
        self.current = np.minimum(np.exp(np.mean(self._estimates[-NUM_ESTIMATES:], axis=0)), self.maximum)

    @staticmethod
    def _factor(rate: float, target: float) -> float:
        aimed, measured = (NormalDist().inv_cdf(1 - share / 2) for share in (target, np.clip(rate, *ACCEPTANCE_BOUNDS)))
        return math.sqrt(aimed / measured)


def lane_rates(
    acceptance: Float[np.ndarray, "n L"], diverging: Bool[np.ndarray, "n L"], *, at_walls: bool
) -> Float[np.ndarray, " L"]:
    """Mean acceptance rate of each lane; at walls, of its transitions that do not diverge.

    A trajectory that leaves the support is rejected at any step size. Lanes where all transitions diverge get the mean
    of the others.
    """
    rates = np.nan_to_num(acceptance.astype(float))
    if not at_walls:
        return rates.mean(0)
    kept = ~diverging
    mean = rates[kept].mean() if kept.any() else 0.0
    return np.where(kept.any(0), (rates * kept).sum(0) / np.maximum(kept.sum(0), 1), mean)


def are_walls(trials: Sequence[tuple[float, int]]) -> bool:
    """Whether numbers of divergences at several step sizes, pairs of the two, show that they come from walls.

    Trajectories of the same duration meet walls of the log density, such as the ends of a support, at the same rate
    for all step sizes. Divergences from curvature are assumed to fall in proportion to the step size. The two laws are
    compared by the likelihood of how the divergences are spread over the trials.
    """
    step_sizes, counts = np.array(trials, float).T
    return bool(counts @ np.log(step_sizes.mean() / step_sizes) > math.log(MIN_LIKELIHOOD_RATIO))
