"""When a run may stop early: once its draws are worth enough."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parsample.draws.convergence import ess_bulk, mcse
from parsample.internal.validation import as_number, checked_instance

# Numbers of draws per chain at which the criterion is computed: the first of them, below which estimates are not
# reliable, and the factor from one to the next, so that all of them take a small share of the time of the run.
MIN_DRAWS, GROWTH = 100, 1.2


@dataclass(frozen=True)
class StopAt:
    """A run stops once the draws of chosen variables are worth enough, as ``sample(stop_at=...)``.

    It is decided by the draws alone, at fixed numbers of draws (100, 120, 144, ... per chain), so that key and settings
    reproduce the run. The draws of these variables are kept in memory for it, also if the run has a store.

    Attributes
    ----------
    ess
        Smallest bulk effective sample size that all components of the variables must have, over all chains; None: any.
    mcse
        Largest Monte Carlo standard error of the mean of each component, by variable; None: any.
    variables
        Names of the variables whose `ess` counts; None: all that are kept.

    References
    ----------
    Bulk effective sample size: Vehtari, Gelman, Simpson, Carpenter and Bürkner, *Bayesian Analysis* 16 (2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0),
    ...     lambda x: -0.5 * jnp.sum(x**2),
    ...     jnp.zeros(2),
    ...     num_samples=1_000_000,
    ...     stop_at=parsample.StopAt(ess=5_000),
    ...     progress_bar=False,
    ... )
    >>> result.stopped_early, result.num_draws < 1_000_000
    (True, True)
    """

    ess: float | int | None = None
    mcse: Mapping[str, float | int] | None = None
    variables: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.ess is None and not self.mcse:
            raise ValueError("StopAt needs ess= or mcse=.")
        if self.mcse is not None:
            checked_instance("StopAt: mcse", self.mcse, Mapping, "a dict of errors by variable")
        for name, value in (("ess", self.ess), *(self.mcse or {}).items()):
            if value is not None and not as_number(value) > 0:
                raise ValueError(f"StopAt: {name} must be positive; got {value!r}.")

    def check(self, variables: Mapping[str, Any]) -> None:
        """Raise unless all names are among these variables."""
        named = {*(self.variables or ()), *(self.mcse or {})}
        unknown = sorted(named - set(variables))
        if unknown:
            raise ValueError(f"stop_at names {unknown}, which are not kept; these are: {list(variables)}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self)


class StopRule:
    """The criterion of a run, with the draws that it is computed from.

    Parameters
    ----------
    stop_at
        The criterion.

    Attributes
    ----------
    is_met
        Whether the run may stop.
    """

    def __init__(self, stop_at: StopAt) -> None:
        self._stop_at, self._num_draws, self._next_size = stop_at, 0, MIN_DRAWS
        self._pieces: dict[str, list[np.ndarray]] = {}
        self.is_met = False

    def add(self, draws: dict[str, np.ndarray]) -> int:
        """Add the next draws, variables by name with leading axes (chain, draw); returns how many are needed."""
        names = draws if self._stop_at.variables is None else {*self._stop_at.variables, *(self._stop_at.mcse or {})}
        for name in names:
            self._pieces.setdefault(name, []).append(draws[name])
        num_before, num_new = self._num_draws, next(iter(draws.values())).shape[1]
        self._num_draws += num_new
        while not self.is_met and self._next_size <= self._num_draws:
            size, self._next_size = self._next_size, round(GROWTH * self._next_size)
            if self._is_met_by(size):
                self.is_met = True
                return max(0, size - num_before)
        return num_new

    def _is_met_by(self, size: int) -> bool:
        """Whether the first `size` draws are worth enough."""
        self._pieces = {name: [np.concatenate(pieces, axis=1)] for name, pieces in self._pieces.items()}
        draws = {name: pieces[0][:, :size] for name, pieces in self._pieces.items()}
        flat = {name: values.reshape(*values.shape[:2], -1).astype(float) for name, values in draws.items()}
        names = flat if self._stop_at.variables is None else self._stop_at.variables
        ess, errors = self._stop_at.ess, self._stop_at.mcse or {}
        has_ess = ess is None or all((ess_bulk(flat[name]) >= ess).all() for name in names)
        return has_ess and all((mcse(flat[name]) <= error).all() for name, error in errors.items())
