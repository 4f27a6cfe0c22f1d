"""What a warm-up ends with: the parameters of the chains, and the round that shows whether they have settled."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.kernels.whitening import Coordinates, KernelParameters
from parsample.lanes.meeting import Stretch


class Adaptation(NamedTuple):
    """What the warm-up found.

    Attributes
    ----------
    parameters
        Coordinates, step size, trajectory lengths and moves, the same for all chains.
    states
        Whitened position at which each chain starts, shape (chains, D).
    acceptance_rate
        Mean acceptance of the kernel in the last round.
    num_steps
        Steps of each lane.
    num_lanes
        Lanes of the ensemble.
    num_replaced
        Lanes that were stuck or lost, and were replaced by others.
    num_diverging
        Divergent transitions in the last round, all lanes together.
    r_hat
        Largest ratio of spreads, between all lanes and within one, in the last round (Gelman and Rubin 1992).
    unsettled
        What had not settled; empty if all had.
    """

    parameters: KernelParameters
    states: Float[np.ndarray, "K D"]
    acceptance_rate: float
    num_steps: int
    num_lanes: int
    num_replaced: int
    num_diverging: int
    r_hat: float
    unsettled: str


class Reference(NamedTuple):
    """A round with fixed parameters.

    Attributes
    ----------
    stretch
        Its rows.
    coordinates
        Its coordinates.
    acceptance_rate, r_hat, num_diverging
        Of all lanes.
    problem
        What has not settled; empty if all has.
    """

    stretch: Stretch
    coordinates: Coordinates
    acceptance_rate: float
    r_hat: float
    num_diverging: int
    problem: str


def between_lanes(path: Float[np.ndarray, "n L D"]) -> float:
    """Largest R-hat of any coordinate with a lane as a chain (Gelman and Rubin 1992)."""
    num_rows = path.shape[0]
    path = path.astype(float)
    within, between = path.var(0, ddof=1).mean(0), path.mean(0).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((num_rows - 1) / num_rows + between / within)
    return float(np.nan_to_num(ratio, nan=np.inf).max())
