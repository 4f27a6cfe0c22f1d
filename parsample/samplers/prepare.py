"""Prepare a run of `sample`: validate arguments, warm up the lanes, measure meeting times and plan."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from parsample.draws.layout import Layout
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import as_words
from parsample.internal.trees import take
from parsample.internal.user_warnings import warn_user
from parsample.internal.validation import (
    checked_key,
    checked_logdensity_shape,
    checked_logdensity_value,
    checked_position,
    gradient_failure,
    lacks_batching,
)
from parsample.kernels.base import LaneState
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.meeting import MEETING_DISTANCE, MeetingTimes, Stretch, meeting_times
from parsample.lanes.program import PERIOD, LaneProgram
from parsample.lanes.segments import Run, step_by_step
from parsample.models.model import Model
from parsample.planning.plan import (
    DEFAULT_SINGLE_STEP_COST,
    Measured,
    Plan,
    block_size_of,
    depends_on_single_steps,
    make_plan,
)
from parsample.planning.report import Report
from parsample.predictability.tangents import NUM_TANGENTS, exponent
from parsample.samplers.progress_bar import Progress
from parsample.samplers.settings import SamplerSettings
from parsample.solver.status import ParallelStallWarning
from parsample.warmup.adaptation import Adaptation, Reference
from parsample.warmup.ensemble import Ensemble

# If the user names no number of lanes and a row takes more than EXPENSIVE_ROW_SECONDS, about FEW_LANES lanes are tried.
# They are used if the cost per lane is then less than MAX_LANE_COST_RATIO times the cost per lane with all lanes.
EXPENSIVE_ROW_SECONDS, FEW_LANES, MAX_LANE_COST_RATIO = 0.2, 16, 1.5

# Share of the predicted time of the run to spend on timing single steps.
TIMING_SHARE = 0.02

# Minimum and maximum number of tangent steps.
TANGENT_STEPS = (64, 1024)

# First suggestion for lanes that meet late or never.
METROPOLIS_REMEDY = "kernel='metropolis', whose lanes meet under another coupling"


@dataclass
class Clock:
    """Wall time of each phase in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Record the time since the last lap as the duration of `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = now - self.last
        self.last = now


@dataclass(frozen=True)
class Prepared:
    """Warmed-up chains, ready to run.

    Attributes
    ----------
    settings
        Settings of the run, with the number of lanes that was chosen.
    program
        Program for all lanes.
    run
        The chains before their first step.
    guesses
        Guesses of the block starts: for each lane, a state typical of the posterior.
    adaptation
        Result of the warm-up.
    report
        Report of the check; None if there was no check.
    clock
        Wall time of each phase so far.
    single_steps
        Program for single steps, one lane per chain; None if these were not timed.
    """

    settings: SamplerSettings
    program: LaneProgram[KernelLanes]
    run: Run
    guesses: LaneState
    adaptation: Adaptation
    report: Report | None
    clock: Clock
    single_steps: LaneProgram[KernelLanes] | None = None

    @property
    def atol(self) -> float:
        """Difference within which states count as equal, in whitened coordinates."""
        return meeting_distance(self.settings, self.program)

    @property
    def block_size(self) -> int:
        """Steps per block of each segment."""
        num_blocks = self.settings.num_blocks
        return block_size_of(self.settings.num_samples, num_blocks, self.program.num_rows, PERIOD)


def meeting_distance(settings: SamplerSettings, program: LaneProgram) -> float:
    """Tolerance in whitened coordinates within which lanes meet; 0 for kernels whose lanes meet exactly."""
    if settings.exact_meeting or not settings.kernel.uses_gradient:
        return 0.0
    return MEETING_DISTANCE[str(np.dtype(program.dynamics.layout.dtype))]


def prepare(
    rng_key: Array,
    model: Model,
    settings: SamplerSettings,
    progress: Progress,
    *,
    lyapunov: bool = False,
) -> Prepared:
    """Warm up the lanes and, unless chains are to be evaluated step by step, measure how soon lanes meet.

    With `lyapunov`, the report contains the Lyapunov exponent of the kernel without multishift moves.
    """
    clock = Clock()
    start = checked_position(model.initial_position)
    rng_key, position = broadcast_from_first(settings.mesh, (checked_key(rng_key), start))
    model = model.replace(initial_position=position, data=jax.tree.map(jnp.asarray, model.data))
    checked_logdensity_shape(model.logdensity, position, *model.data_arguments)
    progress.phase("compiling")
    rng = np.random.default_rng(np.asarray(as_words(rng_key)))
    ensemble, settings, share = _place_lanes(model, settings, rng)
    program = ensemble.program
    clock.lap("compilation")
    reference = _warm_up(ensemble, settings.num_warmup, progress)
    adaptation = ensemble.adaptation(reference, settings.num_chains)
    clock.lap("warmup")
    keys = rng.integers(0, 2**32, (settings.num_chains, 2), np.uint32)
    ends = reference.stretch.ends

    def inputs(chain: np.ndarray, first_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return keys[chain], first_step.astype(np.int32)

    run = Run(reference.stretch.parameters, inputs, take(ends, slice(0, settings.num_chains)))
    report, single_steps = None, None
    if settings.method != "sequential" and settings.num_lanes > settings.num_chains:
        progress.phase("check: pairs of lanes with common keys")
        measured = _measured(program, settings, clock, share)
        report = _check(program, adaptation, reference, settings, measured)
        if lyapunov:
            lle, lle_se = broadcast_from_first(settings.mesh, _exponent(program.dynamics, reference.stretch, rng_key))
            report = replace(report, lle=float(lle), lle_se=float(lle_se))
        if settings.method == "auto" and depends_on_single_steps(report.plan, measured, settings.num_lanes):
            progress.phase("check: time of single steps")
            single_steps = single_step_program(program, settings)
            report = _with_timed_steps(report, single_steps, run, settings)
        clock.lap("check")
    return Prepared(settings, program, run, ends, adaptation, report, clock, single_steps)


def _warm_up(ensemble: Ensemble, num_warmup: int, progress: Progress) -> Reference:
    """Run the warm-up; returns its last round, which has fixed parameters."""
    ensemble.tune(num_warmup, progress.phase)
    return ensemble.settle(num_warmup, progress.phase)


def single_step_program(program: LaneProgram[KernelLanes], settings: SamplerSettings) -> LaneProgram[KernelLanes]:
    """The program for single steps, with one lane per chain."""
    return LaneProgram(program.dynamics, settings.num_chains, settings.mesh, program.records)


def _with_timed_steps(report: Report, single_steps: LaneProgram, run: Run, settings: SamplerSettings) -> Report:
    """Time single steps; returns the report with their measured cost and the resulting plan."""
    share = _single_step_cost(single_steps, run, report)
    measured = replace(report.measured, seconds_to_compile=0.0, single_step_cost=share)
    return replace(report, measured=measured, plan=_plan(report.meeting, settings, report.plan.block_size, measured))


def _single_step_cost(single_steps: LaneProgram, run: Run, report: Report) -> float:
    """Time single steps; returns the cost of a row with one lane per chain, as a share of a row of all lanes."""
    num_rows = TIMING_SHARE * report.plan.seconds / report.measured.seconds_per_row
    num_rows = int(np.clip(num_rows, 4 * PERIOD, single_steps.num_rows)) // PERIOD * PERIOD
    step_by_step(single_steps, run, num_rows)
    return single_steps.seconds_per_row / report.measured.seconds_per_row


def _place_lanes(
    model: Model, settings: SamplerSettings, rng: np.random.Generator
) -> tuple[Ensemble, SamplerSettings, float]:
    """Place the lanes at dispersed starts, with fewer lanes if the log density is expensive or cannot be batched.

    Returns the ensemble, the settings with its number of lanes, and the cost of a row with one lane per chain, as a
    share of the cost of a row of all lanes.
    """
    dynamics = KernelLanes(model.logdensity, Layout.of(model.initial_position), settings.kernel)
    try:
        ensemble, seconds = _build_ensemble(model, dynamics, settings, rng)
    except NotImplementedError as error:
        if not lacks_batching(model.logdensity, model.initial_position, *model.data_arguments):
            raise _explanation(model, settings, error) from error
        _warn_of_single_evaluations(error)
        few = replace(settings, num_lanes=_fewer_lanes(settings), method="sequential")
        ensemble, _ = _build_ensemble(model, replace(dynamics, is_batched=False), few, rng)
        return ensemble, few, 1.0
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise _explanation(model, settings, error) from error
    return _choose_num_lanes(model, ensemble, seconds, settings, rng)


def _build_ensemble(
    model: Model, dynamics: KernelLanes, settings: SamplerSettings, rng: np.random.Generator
) -> tuple[Ensemble, float]:
    """An ensemble at dispersed starts, and its seconds per row; compiles the program and checks the log density."""
    program = LaneProgram(dynamics, settings.num_lanes, settings.mesh, dynamics.records)
    start = dynamics.layout.ravel(jax.device_get(model.initial_position))
    target, data = settings.target_acceptance_rate, model.data_arguments
    ensemble = Ensemble(program, start, target, settings.exact_meeting, rng, data)
    logdensity, gradient = ensemble.disperse(model.initial_spread)
    if not np.isfinite(logdensity):  # lanes replace NaN by -inf
        logdensity = float(model.logdensity_at(model.initial_position))
    checked_logdensity_value(logdensity, None if gradient is None else dynamics.layout.unravel(gradient))
    return ensemble, float(broadcast_from_first(settings.mesh, np.float64(ensemble.seconds_per_row)))


def _choose_num_lanes(
    model: Model, ensemble: Ensemble, seconds: float, settings: SamplerSettings, rng: np.random.Generator
) -> tuple[Ensemble, SamplerSettings, float]:
    """The given ensemble, or one with fewer lanes if its rows are expensive and those of fewer lanes cost less.

    `seconds` is the time per row of `ensemble`; returns the same as `_place_lanes`.
    """
    few = replace(settings, num_lanes=_fewer_lanes(settings))
    is_expensive = settings.may_use_fewer_lanes and seconds > EXPENSIVE_ROW_SECONDS
    if not is_expensive or few.num_lanes >= settings.num_lanes:
        return ensemble, settings, DEFAULT_SINGLE_STEP_COST
    smaller, fewer_seconds = _build_ensemble(model, ensemble.program.dynamics, few, rng)
    # The time per row is assumed to be linear in the number of lanes.
    per_lane = max(seconds - fewer_seconds, 0.0) / (settings.num_lanes - few.num_lanes)
    chains_seconds = max(fewer_seconds - per_lane * (few.num_lanes - settings.num_chains), 0.0)
    if fewer_seconds * settings.num_lanes < MAX_LANE_COST_RATIO * seconds * few.num_lanes:
        return smaller, few, chains_seconds / fewer_seconds
    return ensemble, settings, chains_seconds / seconds


def _fewer_lanes(settings: SamplerSettings) -> int:
    """About `FEW_LANES` lanes, the same number for each chain."""
    return min(settings.num_lanes, max(1, FEW_LANES // settings.num_chains) * settings.num_chains)


def _explanation(model: Model, settings: SamplerSettings, error: Exception) -> Exception:
    """The error to raise if lanes cannot be evaluated: a missing gradient if that is the cause, else `error`."""
    if not settings.kernel.uses_gradient:
        return error
    return gradient_failure(model.logdensity, model.initial_position, error, *model.data_arguments)


def _warn_of_single_evaluations(error: Exception) -> None:
    warn_user(
        "logdensity_fn calls back to Python and cannot be evaluated for several lanes at once, so chains are evaluated "
        f"step by step, one after another ({error}). Try: jax.pure_callback(..., vmap_method='expand_dims') and a "
        "function that takes leading axes.",
        ParallelStallWarning,
    )


def _measured(program: LaneProgram, settings: SamplerSettings, clock: Clock, share: float) -> Measured:
    """Times measured so far, broadcast from the first process."""
    times = broadcast_from_first(
        settings.mesh, np.array([program.seconds_per_row, clock.seconds["compilation"], share])
    )
    return Measured(*(float(value) for value in times))


def _check(
    program: LaneProgram,
    adaptation: Adaptation,
    reference: Reference,
    settings: SamplerSettings,
    measured: Measured,
) -> Report:
    """Measure meeting times against the last round of the warm-up, and plan the run."""
    num_blocks = settings.num_blocks
    block_size = block_size_of(settings.num_samples, num_blocks, program.num_rows, PERIOD)
    atol = meeting_distance(settings, program)
    meeting = meeting_times(program, reference.stretch, block_size, atol)
    plan = _plan(meeting, settings, block_size, measured)
    kernel_remedy = METROPOLIS_REMEDY if settings.kernel.name != "metropolis" else "another kernel"
    remedies = f"{kernel_remedy}, or another parametrisation"
    return Report(meeting, settings.num_lanes, measured, plan, remedies, atol, adaptation=adaptation)


def _plan(meeting: MeetingTimes, settings: SamplerSettings, block_size: int, measured: Measured) -> Plan:
    """The faster plan for the chains of `settings`."""
    return make_plan(meeting, settings.num_lanes, settings.num_chains, settings.num_samples, block_size, measured)


def _exponent(dynamics: KernelLanes, stretch: Stretch, rng_key: Array) -> tuple[Any, Any]:
    """Lyapunov exponent and its standard error, for the kernel without multishift moves, which merge nearby paths."""
    parameters = stretch.parameters._replace(move_scales=np.zeros_like(stretch.parameters.move_scales))
    return exponent(dynamics, *TANGENT_STEPS, parameters, stretch.ends.position[:NUM_TANGENTS], rng_key)
