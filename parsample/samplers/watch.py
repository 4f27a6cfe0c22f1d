"""Watch the draws of a run as they come, in little memory: what `Diagnostics` needs at its end."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from parsample.kernels.base import Statistics
from parsample.kernels.hmc import MAX_INTEGRATION_STEPS

# Draws per chain, evenly spaced over the run, from which R-hat and effective sample sizes are estimated, and batches of
# which means are kept: fewer than twice MIN_THINNED, and so few that they take at most MAX_THINNED_BYTES.
MIN_THINNED, MAX_THINNED_BYTES = 500, 8 * 2**20


class Totals(NamedTuple):
    """Sums over the steps of each chain, each of shape (K,).

    Attributes
    ----------
    steps, diverging, longest
        Number of steps, of divergent ones, and of trajectories of the largest length allowed.
    acceptance
        Sum of the acceptance rates.
    energy, energy_squares
        Sum of the energies less `energy_offset`, and of their squares.
    energy_changes
        Sum of the squared changes of the energy from step to step.
    energy_offset, last_energy
        Energies of the first and the last step.
    max_lp
        Largest absolute log density.
    """

    steps: np.ndarray
    diverging: np.ndarray
    longest: np.ndarray
    acceptance: np.ndarray
    energy: np.ndarray
    energy_squares: np.ndarray
    energy_changes: np.ndarray
    energy_offset: np.ndarray
    last_energy: np.ndarray
    max_lp: np.ndarray


class Watch:
    """Thinned positions, means of batches of positions, and totals of the steps so far.

    Parameters
    ----------
    num_chains, dimension
        Number of chains K, and length D of a position.

    Attributes
    ----------
    thinned
        Every `stride`-th position of each chain, shape (K, n, D).
    stride
        Doubled whenever there are too many.
    means
        Means of consecutive batches of `batch_size` positions, shape (K, m, D); doubled likewise.
    totals
        Sums over all steps.
    """

    def __init__(self, num_chains: int, dimension: int) -> None:
        num_fitting = MAX_THINNED_BYTES // (8 * num_chains * dimension)
        self._capacity = 2 * max(4, min(MIN_THINNED, num_fitting // 2))
        self.stride, self.batch_size, self._num_steps, self._num_in_batch = 1, 1, 0, 0
        self.thinned: Float[np.ndarray, "K n D"] = np.zeros((num_chains, 0, dimension))
        self.means: Float[np.ndarray, "K m D"] = np.zeros((num_chains, 0, dimension))
        self._batch_sum: Float[np.ndarray, "K D"] = np.zeros((num_chains, dimension))
        self.totals = Totals(*np.zeros((len(Totals._fields), num_chains)))

    def add(self, positions: Float[np.ndarray, "K n D"], outputs: Statistics) -> None:
        """Add the next steps: their positions, and their statistics."""
        if not positions.shape[1]:
            return
        # Step t, counted from 0, is kept if t + 1 is a multiple of the stride.
        chosen = positions[:, (-self._num_steps - 1) % self.stride :: self.stride]
        self.thinned = np.concatenate([self.thinned, chosen.astype(float)], axis=1)
        while self.thinned.shape[1] >= self._capacity:
            self.thinned, self.stride = self.thinned[:, 1::2].copy(), 2 * self.stride
        self._add_to_batches(positions)
        self.totals = _added(self.totals, outputs)
        self._num_steps += positions.shape[1]

    def _add_to_batches(self, positions: Float[np.ndarray, "K n D"]) -> None:
        size, num_steps = self.batch_size, positions.shape[1]
        begins = np.arange(-self._num_in_batch, num_steps, size).clip(min=0)
        sums = np.add.reduceat(positions, begins, axis=1, dtype=float)
        sums[:, 0] += self._batch_sum
        num_done = (self._num_in_batch + num_steps) // size
        self.means = np.concatenate([self.means, sums[:, :num_done] / size], axis=1)
        self._num_in_batch = (self._num_in_batch + num_steps) % size
        self._batch_sum = sums[:, num_done] if num_done < sums.shape[1] else np.zeros_like(self._batch_sum)
        while self.means.shape[1] >= self._capacity:
            if self.means.shape[1] % 2:  # the last batch is the first half of a new one
                self._batch_sum = self._batch_sum + self.batch_size * self.means[:, -1]
                self._num_in_batch += self.batch_size
            pairs = self.means[:, : self.means.shape[1] // 2 * 2]
            self.means, self.batch_size = (pairs[:, 0::2] + pairs[:, 1::2]) / 2, 2 * self.batch_size

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays by name."""
        counts = np.array([self.stride, self.batch_size, self._num_steps, self._num_in_batch])
        arrays = {"thinned": self.thinned, "means": self.means, "batch_sum": self._batch_sum, "counts": counts}
        return {f"watch.{name}": values for name, values in {**arrays, "totals": np.stack(self.totals)}.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over the state of `as_arrays`."""
        self.thinned, self.means = arrays["watch.thinned"], arrays["watch.means"]
        self._batch_sum, self.totals = arrays["watch.batch_sum"], Totals(*arrays["watch.totals"])
        self.stride, self.batch_size, self._num_steps, self._num_in_batch = arrays["watch.counts"].tolist()


def _added(totals: Totals, outputs: Statistics) -> Totals:
    """The totals with the statistics of further steps, leading axes (K, n)."""
    energy, is_first = outputs.energy.astype(float), totals.steps == 0
    offset = np.where(is_first, energy[:, 0], totals.energy_offset)
    before = np.where(is_first, energy[:, 0], totals.last_energy)
    changes = np.diff(np.concatenate([before[:, None], energy], axis=1), axis=1)
    centred = energy - offset[:, None]
    new: dict[str, Any] = {
        "steps": totals.steps + energy.shape[1],
        "diverging": totals.diverging + outputs.diverging.sum(1),
        "longest": totals.longest + (outputs.n_steps >= MAX_INTEGRATION_STEPS).sum(1),
        "acceptance": totals.acceptance + outputs.acceptance_rate.sum(1, dtype=float),
        "energy": totals.energy + centred.sum(1),
        "energy_squares": totals.energy_squares + np.square(centred).sum(1),
        "energy_changes": totals.energy_changes + np.square(changes).sum(1),
        "energy_offset": offset,
        "last_energy": energy[:, -1],
        "max_lp": np.maximum(totals.max_lp, np.abs(outputs.lp).max(1)),
    }
    return Totals(**new)
