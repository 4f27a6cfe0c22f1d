"""Collects what is kept of the segments of a run, in memory, in summaries, or for a store on disk."""

from typing import Any

import numpy as np
from jaxtyping import Float

from parsample.draws.reductions import RunningReductions
from parsample.draws.store import Store
from parsample.kernels.base import Statistics
from parsample.kernels.whitening import Coordinates, KernelParameters
from parsample.lanes.segments import Segment
from parsample.samplers.kept import STEP_SIZE, Kept
from parsample.samplers.settings import SamplerSettings
from parsample.samplers.stopping import StopRule
from parsample.samplers.watch import Watch

# Name of the positions among the arrays in memory.
POSITION = "position"


class Recorder:
    """What is kept of a run so far.

    Parameters
    ----------
    kept, settings, parameters
        What is kept, and settings and parameters of the chains.

    Attributes
    ----------
    segments
        Records of the segments, without draws.
    num_draws
        Draws of each chain that are kept.
    watch
        What the diagnostics need.
    reductions
        Summaries of all draws, or None.
    rule
        When to stop early, or None.
    tail
        Positions and statistics of steps that were evaluated beyond the last draw, leading axes (chain, step).
    """

    def __init__(self, kept: Kept, settings: SamplerSettings, parameters: KernelParameters) -> None:
        self._kept, self._settings = kept, settings
        self._coordinates = Coordinates(parameters.center, parameters.factor)
        self._step_size = np.float32(np.mean(parameters.step_size))
        self.segments: list[Segment] = []
        self.num_draws, self.watch = 0, Watch(settings.num_chains, kept.layout.dimension)
        self.reductions = None if kept.reduce is None else RunningReductions(kept.reduce)
        self.rule = None if kept.stop_at is None else StopRule(kept.stop_at)
        self.tail: tuple[np.ndarray, Statistics] | None = None
        in_memory = not kept.in_store and not kept.only_reduced
        self.memory = Store(settings.num_chains, settings.num_samples, kept.scratch_dir) if in_memory else None

    def add(self, segment: Segment) -> dict[str, np.ndarray]:
        """Add the next segment; returns its draws for a store on disk, as ``group/variable`` arrays, or none."""
        self.segments.append(segment.without_draws())
        return self.add_steps(segment.first, segment.path, segment.outputs)

    def add_steps(self, first: int, path: Float[np.ndarray, "K n D"], outputs: Statistics) -> dict[str, np.ndarray]:
        """Add steps that were evaluated, of which `first` is the first; returns the same as `add`."""
        thin = self._settings.thin
        num_steps = max(0, min(path.shape[1], self._settings.num_steps - first))
        # Step t, counted from 0, is kept if t + 1 is a multiple of `thin`.
        chosen = slice((-first - 1) % thin, num_steps, thin)
        num_new = len(range(num_steps)[chosen])
        positions = self._coordinates.position(path[:, :num_steps])
        draws = self._variables(positions[:, chosen]) if num_new and self._needs_variables else {}
        if self.rule is not None and draws:
            num_new = self.rule.add(draws)
            if self.rule.is_met:
                num_steps = max(0, (self.num_draws + num_new) * thin - first)
                chosen = slice(chosen.start, num_steps, thin)
                draws = {name: values[:, :num_new] for name, values in draws.items()}
        if num_steps < path.shape[1]:
            self.tail = path[:, num_steps:], Statistics(*(values[:, num_steps:] for values in outputs))
        positions = positions[:, :num_steps]
        self.watch.add(positions, Statistics(*(values[:, :num_steps] for values in outputs)))
        if self.reductions is not None and num_steps:
            self.reductions.add(draws if thin == 1 else self._variables(positions))
        statistics = {name: getattr(outputs, name)[:, chosen] for name in self._kept.statistics}
        if self.memory is not None and num_new:
            kept = {POSITION: positions[:, chosen]} if self._kept.keeps_positions else draws
            self.memory.put(self.num_draws, {**kept, **statistics})
        self.num_draws += num_new
        return self._for_store(positions[:, chosen], draws, statistics) if self._kept.in_store and num_new else {}

    def _for_store(
        self, positions: Float[np.ndarray, "K n D"], draws: dict[str, np.ndarray], statistics: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Kept draws as ``group/variable`` arrays."""
        likelihoods: dict[str, np.ndarray] = {}
        if self._kept.log_likelihood is not None:
            likelihoods = self._kept.log_likelihood(self._kept.layout.unravel(positions))
        if statistics:
            statistics = {**statistics, STEP_SIZE: np.full(positions.shape[:2], self._step_size)}
        groups = {"posterior": draws, "log_likelihood": likelihoods, "sample_stats": statistics}
        return {f"{group}/{name}": values for group, found in groups.items() for name, values in found.items()}

    def add_tail(self, num_steps_done: int) -> dict[str, np.ndarray]:
        """Add steps that were evaluated beyond the last draw, if the run is longer now; returns the same as `add`."""
        if self.tail is None:
            return {}
        (path, outputs), self.tail = self.tail, None
        return self.add_steps(num_steps_done - path.shape[1], path, outputs)

    @property
    def _needs_variables(self) -> bool:
        return not self._kept.keeps_positions or self.reductions is not None or self.rule is not None

    def _variables(self, positions: Float[np.ndarray, "K n D"]) -> dict[str, np.ndarray]:
        return self._kept.variables.function(self._kept.layout.unravel(positions))

    def close(self) -> None:
        """Give up the memory of draws that were not reached."""
        if self.memory is not None and self.memory.arrays:
            self.memory.truncate(self.num_draws)

    @property
    def is_met(self) -> bool:
        """Whether the run may stop early."""
        return self.rule is not None and self.rule.is_met

    def warmup(self, history: tuple[np.ndarray, Statistics] | None) -> dict[str, Any] | None:
        """Recorded positions and statistics of the warm-up, leading axes (chain, draw)."""
        if history is None:
            return None
        path, statistics = history
        named = {name: np.swapaxes(getattr(statistics, name), 0, 1) for name in self._kept.statistics}
        return {"positions": self._kept.layout.unravel(np.swapaxes(path, 0, 1)), "sample_stats": named}
