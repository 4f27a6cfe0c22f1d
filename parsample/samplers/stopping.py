"""When a run may stop early: once its draws are worth enough."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# The criterion is computed anew once there are this many times as many draws as when it was computed last, so that it
# takes a small share of the time of the run.
GROWTH = 1.2

# Fewer draws per chain than this do not give reliable estimates.
MIN_DRAWS = 100


@dataclass(frozen=True)
class StopAt:
    """A run stops once the draws of chosen variables are worth enough, as ``sample(stop_at=...)``.

    It is decided at ends of segments only, by the draws themselves, so that key and settings reproduce the run.

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
        for name, value in (("ess", self.ess), *(self.mcse or {}).items()):
            if value is not None and not value > 0:
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
    next_size
        Number of draws per chain from which on the criterion is computed again.
    """

    def __init__(self, stop_at: StopAt) -> None:
        self._stop_at, self.next_size = stop_at, MIN_DRAWS
        self._pieces: dict[str, list[np.ndarray]] = {}

    def add(self, draws: dict[str, np.ndarray]) -> None:
        """Add the next draws, variables by name with leading axes (chain, draw)."""
        names = draws if self._stop_at.variables is None else {*self._stop_at.variables, *(self._stop_at.mcse or {})}
        for name in names:
            self._pieces.setdefault(name, []).append(draws[name])

    def is_met(self) -> bool:
        """Whether the draws so far are worth enough; computed only if there are many more than the last time."""
        num_draws = sum(piece.shape[1] for piece in next(iter(self._pieces.values()), []))
        if num_draws < self.next_size:
            return False
        self.next_size = int(GROWTH * num_draws)
        self._pieces = {name: [np.concatenate(pieces, axis=1)] for name, pieces in self._pieces.items()}
        draws = {name: pieces[0].astype(float) for name, pieces in self._pieces.items()}
        return self._has_ess(draws) and self._has_mcse(draws)

    def _has_ess(self, draws: dict[str, np.ndarray]) -> bool:
        import arviz  # noqa: PLC0415 - takes a second

        if self._stop_at.ess is None:
            return True
        names = draws if self._stop_at.variables is None else self._stop_at.variables
        return all(np.all(np.asarray(arviz.ess(draws[name], method="bulk")) >= self._stop_at.ess) for name in names)

    def _has_mcse(self, draws: dict[str, np.ndarray]) -> bool:
        import arviz  # noqa: PLC0415 - takes a second

        errors = self._stop_at.mcse or {}
        return all(
            np.all(np.asarray(arviz.mcse(draws[name], method="mean")) <= error) for name, error in errors.items()
        )
