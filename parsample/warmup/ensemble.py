"""Warm-up by an ensemble: lanes with independent keys tune coordinates and step size in a few short rounds.

Each round tunes the step size on the mean acceptance rate of all lanes and ends with new coordinates from its draws.
Lanes that are stuck, or have a far lower log density than the others, are replaced. First scales come from the spread
of gradients, which measures the curvature wherever the lanes are. A last round with fixed parameters shows whether the
warm-up has settled.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from parsample.kernels.base import MOVE_STEPS, Kernel, LaneState, Statistics
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.kernels.tuning import StepSize, are_walls, lane_rates
from parsample.kernels.whitening import (
    Coordinates,
    KernelParameters,
    from_draws,
    from_gradients,
    identity,
    kernel_parameters,
)
from parsample.lanes.meeting import Stretch
from parsample.lanes.program import PERIOD, AdvanceResult, LaneProgram, Rows
from parsample.warmup.adaptation import Adaptation, Reference

# Steps per round, and the longest trajectories in it: while coordinates are poor, long trajectories are wasted.
ROUNDS = (8, 8, 16, 16, 32, 32)
MAX_LENGTHS = (8, 8, 16, 16, 32, 64)
ROUNDS_WITHOUT_GRADIENTS = (16, 16, 32, 32, 64, 64)

# Steps of the round with fixed parameters.
REFERENCE_STEPS = 64

# Steps between updates of the step size, halved in rounds of at most `MIN_ROUND` steps.
TUNING_STEPS = 4
MIN_ROUND = 8

# Minimum of `num_warmup`: enough for the first rounds.
MIN_WARMUP = 100

# Target acceptance rate of multishift moves. Larger moves merge lanes from further away, but are accepted less often.
MOVE_ACCEPTANCE = 0.5
MIN_MOVE_SCALE, MAX_MOVE_SCALE = 1e-3, 1.0

# Best proposal scale of random-walk Metropolis in one dimension, in standard deviations (Gelman, Roberts, Gilks 1996).
METROPOLIS_SCALE = 2.4

# Largest distances of starts from the initial position in each coordinate, tried in this order.
START_SCALES = (1.0, 0.1, 0.01, 0.0)

# Initial step size times D^(1/4), at most 1, and initial scale of multishift moves times D^(1/2): the scalings with the
# dimension of leapfrog steps and of random walks.
INITIAL_STEP, INITIAL_MOVE = 0.8, 0.5

# A lane is lost if its mean acceptance rate is below `MIN_ACCEPTANCE`, or if its median log density is below that of
# the median lane by `LOST_DEPTH` times D^(1/2) plus `LOST_SPREADS` interquartile ranges of the lanes.
MIN_ACCEPTANCE, LOST_DEPTH, LOST_SPREADS = 0.02, 10, 5

# Log densities still rise steeply, so that lanes have not reached the posterior, if their median rises by more than
# `STEEP_RISE` plus `STEEP_RISE_PER_DIMENSION` times D in half a round. Only the first two rounds are repeated then.
STEEP_RISE, STEEP_RISE_PER_DIMENSION = 2, 0.2

# Factor of the step size if more transitions diverge than `MAX_DIVERGING`.
STEP_REDUCTION = 0.7


@dataclass(frozen=True)
class TunedValues:
    """The values that the warm-up tunes, the same for all lanes.

    Attributes
    ----------
    coordinates
        Centre and scales, in which steps and moves are measured.
    step_size
        Step size: a scalar; for metropolis, standard deviations of the proposals, shape (D,).
    move_scale
        Standard deviation of the multishift moves; 0: none.
    """

    coordinates: Coordinates
    step_size: Float[Any, "..."]
    move_scale: float

    def parameters(self, kernel: Kernel, dtype: np.dtype, max_length: int | None = None) -> KernelParameters:
        """These values as parameters of the program, with at most `max_length` leapfrog steps per step."""
        lengths = kernel.num_integration_steps(float(np.mean(self.step_size)))
        if max_length is not None:
            lengths = np.minimum(lengths, max_length)
        scales = np.zeros(PERIOD)
        scales[list(MOVE_STEPS)] = self.move_scale
        return kernel_parameters(self.coordinates, self.step_size, lengths, scales, dtype)


class Ensemble:
    """Lanes that move from dispersed starts to the posterior.

    Parameters
    ----------
    program
        Program of the lanes.
    starts
        Flat positions around which the lanes start in turn, shape (S, D); lane s < S starts at position s itself.
    target_acceptance_rate
        Acceptance rate to which the step size is tuned.
    exact_meeting
        Whether the kernel contains multishift moves.
    rng
        Source of starts, keys and replacements.
    data
        Further arguments of the log density.

    Attributes
    ----------
    history
        Positions and statistics of all lanes in each round, leading axes (n, L); None unless they are recorded.
    """

    def __init__(
        self,
        program: LaneProgram[KernelLanes],
        starts: Float[np.ndarray, "S D"],
        target_acceptance_rate: float,
        exact_meeting: bool,
        rng: np.random.Generator,
        data: tuple[Any, ...] = (),
    ) -> None:
        self.program, self.target, self.rng, self.data = program, target_acceptance_rate, rng, data
        self.kernel = program.dynamics.kernel
        self.dtype = np.dtype(program.dynamics.layout.dtype)
        self.dimension, self._num_starts = starts.shape[1], len(starts)
        self.positions = starts.astype(float)[np.arange(program.num_lanes) % len(starts)]
        self.keys = rng.integers(0, 2**32, (program.num_lanes, 2), np.uint32)
        self.num_steps, self._num_steps_before, self.num_replaced = 0, 0, 0
        self.history: list[tuple[np.ndarray, Statistics]] | None = None
        self.seconds_per_row = math.nan  # measured with a tiny step size
        self._flat: list[str] = []  # coordinates in which the gradient was 0 at all starts
        step_size = 1e-8 if self.kernel.uses_gradient else np.full(self.dimension, 1e-6)
        self.settings = TunedValues(identity(self.positions[0]), np.asarray(step_size), 0.0)
        self._makes_moves, self._has_walls = exact_meeting and self.kernel.uses_gradient, False
        self.state = self._state(self.settings.coordinates.whiten(self.positions))

    def disperse(self, spread: float | None = None) -> tuple[np.ndarray, Float[np.ndarray, "S D"] | None]:
        """Spread the lanes around their starts, to finite log densities, and set the first scales.

        Returns log density and gradient of the lanes that start at the starts themselves, for the caller to check. With
        a `spread`, the half-width of the noise, these need not be finite, and those of the first lane with a finite log
        density are returned.
        """
        noise, middle = self.rng.uniform(-1, 1, self.positions.shape), self.positions
        noise[: self._num_starts] = 0
        bad = np.ones(self.program.num_lanes, bool)
        for scale in START_SCALES:
            moved = middle + scale * (1.0 if spread is None else spread) * noise
            self.positions = np.where(bad[:, None], moved, self.positions)
            self.state = self._state(self.settings.coordinates.whiten(self.positions))
            # A row with a tiny step size evaluates the log density at the starts.
            result = self._rows(self._parameters(self.settings, 1), 0, 1, needs_evaluation=True)
            bad = ~np.isfinite(result.state.logdensity)
            if not bad.any() or (bad[: self._num_starts].any() and spread is None):
                break
        shown = slice(0, self._num_starts) if spread is None else slice(int(np.argmin(bad)), int(np.argmin(bad)) + 1)
        logdensity, gradient = result.state.logdensity[shown].astype(float), result.state.logdensity_grad
        started = time.perf_counter()  # the first row includes compilation
        self._rows(self._parameters(self.settings, 1), 0, 1, needs_evaluation=True)
        self.seconds_per_row, self._num_steps_before = time.perf_counter() - started, self.num_steps
        if gradient is None:
            self._start(identity(np.median(self.positions, 0)), np.full(self.dimension, 0.5))
            return logdensity, None
        good = np.isfinite(gradient).all(1) & ~bad
        names = self.program.dynamics.layout.coordinate_names()
        self._flat = [names[index] for index in np.flatnonzero(~gradient[good].any(0))]
        if good.sum() > 1:
            gradients = gradient[good].astype(float)
            self._start(from_gradients(self.positions[good], gradients, self.positions[good].mean(0)))
        return logdensity, gradient[shown]

    def adopt(self, adaptation: Adaptation, starts: Float[np.ndarray, "S D"] | None) -> None:
        """Take over the tuned values of a former run; lanes start at `starts` in turn, or at the states of that run."""
        tuned, self._has_walls = adaptation.parameters, adaptation.has_walls
        coordinates = Coordinates(np.asarray(tuned.center, float), np.asarray(tuned.factor, float))
        step_size = np.asarray(tuned.step_size, float)
        self.settings = TunedValues(coordinates, step_size, float(np.max(tuned.move_scales)))
        states = coordinates.position(adaptation.states.astype(float)) if starts is None else starts.astype(float)
        self.positions = states[np.arange(self.program.num_lanes) % len(states)]

    def evaluated(self) -> LaneState:
        """States of the lanes where they are, in the present coordinates, with their log densities."""
        self.state = self._state(self.settings.coordinates.whiten(self.positions))
        parameters = self._parameters(self.settings, 1)
        # A step of size 0 leaves the lanes where they are, and evaluates the log density as any step does.
        unmoved = parameters._replace(step_size=np.zeros_like(parameters.step_size))
        return self._rows(unmoved, 0, 1, needs_evaluation=True).state

    def _start(self, coordinates: Coordinates, step_size: Float[Any, "..."] | float | None = None) -> None:
        if step_size is None:
            step_size = self._initial_step
        move_scale = INITIAL_MOVE / math.sqrt(self.dimension) if self._makes_moves else 0.0
        self.settings = TunedValues(coordinates, np.asarray(step_size, float), move_scale)

    @property
    def _initial_step(self) -> float:
        return min(INITIAL_STEP * self.dimension**-0.25, 1.0)

    def tune(self, num_warmup: int, report: Callable[[str], None]) -> None:
        """Adapt in rounds, as many as `num_warmup` steps allow; `report` is called with a line after each round."""
        sizes = ROUNDS if self.kernel.uses_gradient else ROUNDS_WITHOUT_GRADIENTS
        caps = MAX_LENGTHS if self.kernel.uses_gradient else (None,) * len(sizes)
        pending = list(zip(sizes, caps, strict=True))
        number = 0
        while pending:
            size, cap = pending.pop(0)
            if self.num_steps + size + PERIOD > num_warmup:
                break
            climbs = self._round(size, cap)
            if climbs and len(pending) >= len(sizes) - 2:
                pending.insert(0, (size, cap))  # lanes have not reached the posterior yet
            number += 1
            step_size = float(np.mean(self.settings.step_size))
            report(f"warm-up {number}, round of {size} steps: step size {step_size:.3g}")

    def _round(self, size: int, cap: int | None) -> bool:
        """Run one round; returns whether log densities still rise steeply."""
        kernel, coordinates = self.kernel, self.settings.coordinates
        # At walls only trajectories inside count, and these may be accepted at any step size.
        maximum = self._initial_step if self._has_walls else math.inf
        tuning = StepSize(self.target, self.settings.step_size, kernel.uses_gradient, maximum)
        self.state = self._state(coordinates.whiten(self.positions))
        paths, statistics, gradients = [], [], []
        num_steps = TUNING_STEPS if size > MIN_ROUND else TUNING_STEPS // 2
        for begin in range(0, size, num_steps):
            settings = replace(self.settings, step_size=tuning.current)
            row = begin % PERIOD
            before = self.state.position
            result = self._rows(self._parameters(settings, cap), row, row + num_steps, needs_evaluation=begin == 0)
            path, found = self.program.recorded(row, row + num_steps)
            tuning.update(self._acceptance(before, path, found))
            paths.append(coordinates.position(path.astype(float)))
            statistics.append(found)
            if result.state.logdensity_grad is not None:
                gradients.append((paths[-1][-1], coordinates.gradient(result.state.logdensity_grad.astype(float))))
        draws = np.concatenate(paths)
        found = Statistics(*(np.concatenate(values) for values in zip(*statistics, strict=True)))
        self._record(draws, found)
        self.positions = draws[-1]
        self.settings = replace(self.settings, step_size=tuning.current, move_scale=self._tuned_move(found))
        good, climbs = self._replace_lost(found, size)
        self._update_coordinates(draws[size // 2 :, good], gradients, good, climbs or size <= MIN_ROUND)
        return climbs

    def _record(self, draws: Float[np.ndarray, "n L D"], found: Statistics) -> None:
        if self.history is not None:
            self.history.append((draws.astype(self.dtype), found))

    def _acceptance(
        self, before: np.ndarray, path: Float[np.ndarray, "n L D"], found: Statistics
    ) -> Float[np.ndarray, " rates"]:
        if self.kernel.uses_gradient:
            return lane_rates(found.acceptance_rate, found.diverging, at_walls=self._has_walls)
        # A coordinate has moved if its proposal was accepted.
        return (np.diff(np.concatenate([before[None], path]), axis=0) != 0).mean((0, 1))

    def _tuned_move(self, found: Statistics) -> float:
        moves = found.move_acceptance[len(found.move_acceptance) // 2 :]
        moves = moves[moves >= 0]
        if not self._makes_moves or not moves.size:
            return self.settings.move_scale
        factor = math.exp(2 * (moves.mean() - MOVE_ACCEPTANCE))
        return float(np.clip(self.settings.move_scale * factor, MIN_MOVE_SCALE, MAX_MOVE_SCALE))

    def _replace_lost(self, found: Statistics, size: int) -> tuple[Int[np.ndarray, " G"], bool]:
        """Restart lost lanes at others; returns the lanes not lost, and whether log densities rise steeply."""
        logdensity = found.lp.astype(float)
        level = np.median(logdensity[size // 2 :], 0)
        good = np.flatnonzero(~self._lost(level, np.nan_to_num(found.acceptance_rate).mean(0)))
        if len(good) < self.program.num_lanes // 4:
            good = np.argsort(-np.nan_to_num(level, nan=-np.inf))[: max(1, self.program.num_lanes // 4)]
        lost = np.setdiff1d(np.arange(self.program.num_lanes), good)
        self.positions[lost] = self.positions[self.rng.choice(good, lost.size)]
        self.num_replaced += lost.size
        with np.errstate(invalid="ignore"):
            rise = np.median(logdensity[-1, good]) - np.median(logdensity[size // 2, good])
        return good, bool(rise > STEEP_RISE + STEEP_RISE_PER_DIMENSION * self.dimension)

    def _lost(self, level: Float[np.ndarray, " L"], acceptance: Float[np.ndarray, " L"]) -> Bool[np.ndarray, " L"]:
        finite = np.isfinite(level)
        if not finite.any():
            return np.ones_like(finite)
        middle, spread = np.median(level[finite]), np.subtract(*np.percentile(level[finite], [75, 25]))
        depth = LOST_DEPTH * math.sqrt(max(self.dimension, 1)) + LOST_SPREADS * spread
        return ~finite | (acceptance < MIN_ACCEPTANCE) | (np.where(finite, level, -np.inf) < middle - depth)

    def _update_coordinates(
        self, draws: Float[np.ndarray, "n G D"], gradients: list, good: Int[np.ndarray, " G"], early: bool
    ) -> None:
        num_draws, num_good, dimension = draws.shape
        flat = draws.reshape(-1, dimension)
        if early and gradients:
            positions, slopes = (np.concatenate([pair[k][good] for pair in gradients]) for k in (0, 1))
            finite = np.isfinite(slopes).all(1)
            if finite.sum() > 1:
                coordinates = from_gradients(positions[finite], slopes[finite], flat.mean(0))
                self.settings = replace(self.settings, coordinates=coordinates)
                return
        coordinates = from_draws(flat, num_good * max(1, num_draws // 4), self.settings.coordinates)
        step_size = self.settings.step_size
        if not self.kernel.uses_gradient:
            step_size = np.full(dimension, METROPOLIS_SCALE)
        self.settings = replace(self.settings, coordinates=coordinates, step_size=step_size)

    def settle(self, num_warmup: int, report: Callable[[str], None]) -> Reference:
        """Run rounds with fixed parameters until the warm-up has settled or runs out of steps; returns the last one.

        Between them, the step size is reduced or a longer tuning round is run. If reductions show that transitions
        diverge at walls of the log density, the step size is tuned on the other transitions instead. After each round
        with fixed parameters, `report` is called with a line.
        """
        size = 2 * REFERENCE_STEPS
        trials: list[tuple[float, int]] = []
        while True:
            reference = self._reference()
            report(f"warm-up, {reference.unsettled or 'settled'}")
            if not reference.unsettled or self.num_steps + REFERENCE_STEPS > num_warmup:
                return reference
            if reference.diverges and not self._has_walls:
                trials.append((float(np.mean(self.settings.step_size)), reference.num_stops))
                self._has_walls = reference.others_accept(self.target) and are_walls(trials)
            if reference.diverges and not self._has_walls:
                # Stuck chains would cost more than the extra leapfrog steps of a smaller step size.
                self.settings = replace(self.settings, step_size=STEP_REDUCTION * self.settings.step_size)
                self.positions = reference.coordinates.position(reference.stretch.records[0][-1].astype(float))
            elif self.num_steps + size + REFERENCE_STEPS <= num_warmup:
                self._round(size, None)
                size *= 2
            else:
                return reference

    def measured(self, parameters: KernelParameters) -> Reference:
        """A round with these parameters, from where the lanes are; they are a measurement only, and stay there."""
        # Keys of their own: what is drawn later does not depend on whether this was measured.
        rng, self.rng = self.rng, self.rng.spawn(1)[0]
        try:
            return self._reference(parameters._replace(data=self.data))
        finally:
            self.rng = rng

    def _reference(self, parameters: KernelParameters | None = None) -> Reference:
        parameters = self._parameters(self.settings) if parameters is None else parameters
        starts = self._state(self.settings.coordinates.whiten(self.positions))
        self.state, self.keys = starts, self.rng.integers(0, 2**32, self.keys.shape, np.uint32)
        inputs = (self.keys, np.full(self.program.num_lanes, self.num_steps, np.int32))
        result = self._rows(parameters, 0, REFERENCE_STEPS, needs_evaluation=True)
        path, found = self.program.recorded(0, REFERENCE_STEPS)
        self._record(self.settings.coordinates.position(path.astype(float)), found)
        stretch = Stretch(parameters, inputs, starts, result.state, (path, found))
        walls, flat = self._has_walls, self._flat
        return Reference.of(stretch, self.settings.coordinates, self.target, has_walls=walls, flat=flat)

    def adaptation(self, reference: Reference) -> Adaptation:
        """The result of the warm-up, from its last round with fixed parameters."""
        return Adaptation(
            kernel=self.kernel.name,
            parameters=reference.stretch.parameters._replace(data=()),
            states=reference.stretch.records[0][-1],
            acceptance_rate=reference.acceptance_rate,
            num_steps=self.num_steps - self._num_steps_before,
            num_lanes=self.program.num_lanes,
            num_replaced=self.num_replaced,
            num_diverging=reference.num_diverging,
            r_hat=reference.r_hat,
            unsettled=reference.unsettled,
            has_walls=self._has_walls,
        )

    def _parameters(self, settings: TunedValues, max_length: int | None = None) -> KernelParameters:
        return settings.parameters(self.kernel, self.dtype, max_length)._replace(data=self.data)

    def _state(self, whitened: Float[np.ndarray, "L D"]) -> LaneState:
        position = whitened.astype(self.dtype)
        gradient = np.zeros_like(position) if self.kernel.uses_gradient else None
        return LaneState(position, np.zeros(len(position), self.dtype), gradient)

    def _rows(self, parameters: KernelParameters, begin: int, end: int, needs_evaluation: bool) -> AdvanceResult:
        first_steps = np.full(self.program.num_lanes, self.num_steps - begin, np.int32)
        rows = Rows(begin, end, needs_evaluation, False, 0.0)
        result = self.program.advance(parameters, (self.keys, first_steps), self.state, rows)
        self.num_steps += end - begin
        self.state = result.state
        return result
