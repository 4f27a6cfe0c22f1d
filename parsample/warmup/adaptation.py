"""Results of a warm-up: the parameters of the chains, and the round that shows whether the warm-up has settled."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.kernels.whitening import Coordinates, KernelParameters
from parsample.lanes.meeting import Stretch


class Adaptation(NamedTuple):
    """Result of the warm-up.

    Attributes
    ----------
    parameters
        Coordinates, step size, trajectory lengths and moves, the same for all chains.
    states
        Whitened position at which each chain starts, shape (chains, D).
    acceptance_rate
        Mean acceptance rate of the kernel in the last round.
    num_steps
        Number of warm-up steps of each lane.
    num_lanes
        Number of lanes of the ensemble.
    num_replaced
        Number of lanes that were stuck or lost, and were replaced by copies of others.
    num_diverging
        Number of divergent transitions in the last round, over all lanes.
    r_hat
        Largest R-hat of any coordinate in the last round, with a lane as a chain (Gelman and Rubin 1992).
    unsettled
        Reasons why the warm-up has not settled; empty if it has.
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
        Rows of the round.
    coordinates
        Coordinates of the round.
    acceptance_rate, r_hat, num_diverging
        Mean acceptance rate, largest R-hat and number of divergent transitions of all lanes.
    unsettled
        Reasons why the warm-up has not settled; empty if it has.
    """

    stretch: Stretch
    coordinates: Coordinates
    acceptance_rate: float
    r_hat: float
    num_diverging: int
    unsettled: str


def r_hat_of_lanes(path: Float[np.ndarray, "n L D"]) -> float:
    """Largest R-hat of any coordinate with a lane as a chain (Gelman and Rubin 1992)."""
    num_rows = path.shape[0]
    path = path.astype(float)
    within, between = path.var(0, ddof=1).mean(0), path.mean(0).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((num_rows - 1) / num_rows + between / within)
    return float(np.nan_to_num(ratio, nan=np.inf).max())
