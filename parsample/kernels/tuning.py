"""Step sizes from mean acceptance rates of an ensemble, by the known laws between the two."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

# Number of latest estimates that are averaged: the steps between them together cover a period of trajectory lengths.
NUM_ESTIMATES = 4

# The worst sixteenth of the lanes should accept at a mean rate at most `WORST_BELOW` below the target.
WORST_SHARE, WORST_BELOW = 1 / 16, 0.15

# Acceptance rates are clipped to these bounds: beyond them, they tell nothing more about the step size.
ACCEPTANCE_BOUNDS = (0.01, 0.995)


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
    """

    def __init__(self, target: float, step_size: Float[Any, "..."], uses_gradient: bool) -> None:
        self.target, self.current, self.uses_gradient = target, step_size, uses_gradient
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
        self.current = np.exp(np.mean(self._estimates[-NUM_ESTIMATES:], axis=0))

    @staticmethod
    def _factor(rate: float, target: float) -> float:
        aimed, measured = (NormalDist().inv_cdf(1 - share / 2) for share in (target, np.clip(rate, *ACCEPTANCE_BOUNDS)))
        return math.sqrt(aimed / measured)
