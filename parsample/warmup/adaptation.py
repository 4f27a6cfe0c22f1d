"""Results of a warm-up: the parameters of the chains, and the round that shows whether the warm-up has settled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.draws.run_store import checkpoint_of
from parsample.internal.files import write_atomically
from parsample.internal.records import from_bytes, to_bytes
from parsample.kernels.tuning import lane_rates
from parsample.kernels.whitening import Coordinates, KernelParameters
from parsample.lanes.meeting import Stretch

# The warm-up has settled if, in a round with fixed parameters, R-hat is at most `MAX_R_HAT`, the acceptance rate is at
# most `MAX_ACCEPTANCE_ERROR` below its target, and at most the share `MAX_DIVERGING` of transitions diverges.
MAX_R_HAT, MAX_ACCEPTANCE_ERROR, MAX_DIVERGING = 1.2, 0.1, 0.001


class Adaptation(NamedTuple):
    """Result of the warm-up, which ``sample(adaptation=...)`` takes over.

    Attributes
    ----------
    kernel
        Name of the kernel.
    parameters
        Coordinates, step size, trajectory lengths and moves, the same for all chains.
    states
        Whitened position of each lane after the warm-up, shape (lanes, D); chains start at the first of them.
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
    has_walls
        Whether divergences come from walls of the log density, so that they do not count.

    Examples
    --------
    A second run without warm-up, at other data for example:

    >>> import jax, jax.numpy as jnp, parsample
    >>> def logdensity(x):
    ...     return -0.5 * jnp.sum(x**2)
    >>> first = parsample.sample(jax.random.key(0), logdensity, jnp.zeros(2), num_samples=500, progress_bar=False)
    >>> second = parsample.sample(
    ...     jax.random.key(1),
    ...     logdensity,
    ...     jnp.zeros(2),
    ...     num_samples=500,
    ...     num_warmup=0,
    ...     adaptation=first.adaptation,
    ...     progress_bar=False,
    ... )
    >>> second.adaptation.num_steps
    0
    """

    kernel: str
    parameters: KernelParameters
    states: Float[np.ndarray, "L D"]
    acceptance_rate: float
    num_steps: int
    num_lanes: int
    num_replaced: int
    num_diverging: int
    r_hat: float
    unsettled: str
    has_walls: bool = False

    def save(self, path: str | Path) -> None:
        """Write the adaptation to a file, for `load`.

        Parameters
        ----------
        path
            Any name, such as ``adaptation.npz``; an existing file is replaced.
        """
        write_atomically(Path(path), to_bytes(*self.as_record()))

    @classmethod
    def load(cls, path: str | Path) -> "Adaptation":
        """The adaptation in a file of `save`, or in the zarr directory of a run.

        Parameters
        ----------
        path
            The file or the directory.

        Returns
        -------
        Adaptation
            What was saved.

        Raises
        ------
        ValueError
            If there is no adaptation in it.
        """
        file = Path(path)
        try:
            content = checkpoint_of(file) if file.is_dir() else file.read_bytes()
            return cls.from_record(*from_bytes(content))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{path} holds no adaptation; give a file of Adaptation.save, or a run's store."
            ) from error

    def as_record(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain values and arrays by name."""
        plain = self._asdict()
        parameters = plain.pop("parameters")._replace(data=())._asdict()
        arrays = {f"parameters.{name}": np.asarray(parameters[name]) for name in parameters if name != "data"}
        return {"adaptation": {**plain, "states": None}}, {**arrays, "adaptation.states": self.states}

    @classmethod
    def from_record(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Adaptation":
        """The adaptation of `as_record`, which may lie among other values."""
        names = [name for name in KernelParameters._fields if name != "data"]
        parameters = KernelParameters._make([*(arrays[f"parameters.{name}"] for name in names), ()])
        values = {**header["adaptation"], "parameters": parameters, "states": arrays["adaptation.states"]}
        return cls(**values)


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

    @classmethod
    def of(
        cls, stretch: Stretch, coordinates: Coordinates, target: float, *, has_walls: bool, flat: Sequence[str]
    ) -> "Reference":
        """Judge a round against the target acceptance rate; at walls, divergent transitions do not count.

        `flat` names coordinates without a gradient at the starts, which may explain why lanes disagree.
        """
        path, found = stretch.records
        rate_of_all = float(lane_rates(found.acceptance_rate, found.diverging, at_walls=False).mean())
        rate = float(lane_rates(found.acceptance_rate, found.diverging, at_walls=has_walls).mean())
        r_hat, num_diverging, reasons = r_hat_of_lanes(path), int(found.diverging.sum()), []
        if not r_hat <= MAX_R_HAT:
            reasons.append(f"lanes disagree, R-hat {r_hat:.2f}")
            reasons += [f"the log density does not change with {', '.join(flat[:3])} near the starts"] if flat else []
        if num_diverging > MAX_DIVERGING * found.diverging.size and not has_walls:
            reasons.append(f"{num_diverging} of {found.diverging.size} transitions diverge")
        if rate < target - MAX_ACCEPTANCE_ERROR:
            reasons.append(f"acceptance rate {rate:.2f}, target {target:.2f}")
        return cls(stretch, coordinates, rate_of_all, r_hat, num_diverging, "; ".join(reasons))

    @property
    def diverges(self) -> bool:
        """Whether too many transitions diverge."""
        return self.num_diverging > MAX_DIVERGING * self.stretch.records[1].diverging.size

    @property
    def num_stops(self) -> int:
        """Number of divergent transitions without those of lanes that have diverged in the step before, too."""
        diverging = self.stretch.records[1].diverging
        return int(diverging[0].sum() + (diverging[1:] & ~diverging[:-1]).sum())

    def others_accept(self, target: float) -> bool:
        """Whether transitions that do not diverge are accepted as often as all should be."""
        found = self.stretch.records[1]
        return bool(lane_rates(found.acceptance_rate, found.diverging, at_walls=True).mean() >= target)


def r_hat_of_lanes(path: Float[np.ndarray, "n L D"]) -> float:
    """Largest R-hat of any coordinate with a lane as a chain (Gelman and Rubin 1992)."""
    num_rows = path.shape[0]
    path = path.astype(float)
    within, between = path.var(0, ddof=1).mean(0), path.mean(0).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((num_rows - 1) / num_rows + between / within)
    return float(np.nan_to_num(ratio, nan=np.inf).max())
