"""Prepare a run of `sample`: validate arguments, warm up the lanes, measure meeting times and plan."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt32

from parsample.draws.layout import Layout
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import as_words
from parsample.internal.trees import on_device, take
from parsample.internal.validation import (
    checked_flag,
    checked_key,
    checked_position,
)
from parsample.kernels.base import LaneState, Statistics
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.kernels.whitening import rounded_to
from parsample.lanes.meeting import MEETING_DISTANCE, MeetingTimes, Stretch, meeting_times
from parsample.lanes.program import PERIOD, LaneProgram
from parsample.lanes.segments import Run, step_by_step
from parsample.models.model import Model
from parsample.models.traced import as_traced
from parsample.planning.plan import (
    Measured,
    Plan,
    block_size_of,
    depends_on_single_steps,
    make_plan,
)
from parsample.planning.report import Report
from parsample.predictability.tangents import NUM_TANGENTS, exponent
from parsample.samplers.placement import place_lanes
from parsample.samplers.progress_bar import Progress
from parsample.samplers.schedule import Schedule
from parsample.samplers.settings import SamplerSettings
from parsample.warmup.adaptation import Adaptation, Reference
from parsample.warmup.ensemble import Ensemble

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
        self.seconds = self.with_lap(phase)
        self.last = time.perf_counter()

    def with_lap(self, phase: str) -> dict[str, float]:
        """The times if the present lap, of `phase`, ended now."""
        return {**self.seconds, phase: self.seconds.get(phase, 0.0) + time.perf_counter() - self.last}


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
        The chains before their next step.
    keys
        Key data of each chain, shape (K, 2).
    guesses
        Guesses of the block starts: for each lane, a state typical of the posterior.
    schedule
        How the chains are evaluated.
    adaptation
        Result of the warm-up.
    report
        Report of the check; None if there was no check.
    clock
        Wall time of each phase so far.
    single_steps
        Program for single steps, one lane per chain; None if these were not timed.
    history
        Positions and statistics of the lanes of the chains in the warm-up, leading axes (n, K); None if not asked for.
    """

    settings: SamplerSettings
    program: LaneProgram[KernelLanes]
    run: Run
    keys: UInt32[np.ndarray, "K two"]
    guesses: LaneState
    schedule: Schedule
    adaptation: Adaptation
    report: Report | None
    clock: Clock
    single_steps: LaneProgram[KernelLanes] | None = None
    history: tuple[np.ndarray, Statistics] | None = None

    @property
    def atol(self) -> float:
        """Difference within which states count as equal, in whitened coordinates."""
        return meeting_distance(self.settings, self.program)


@dataclass(frozen=True)
class Start:
    """Where the lanes begin.

    Attributes
    ----------
    adaptation
        Tuned values to take over; None: a whole warm-up.
    per_chain
        Whether every leaf of the initial position has a leading axis of chains.
    keeps_warmup
        Whether to record the warm-up of the chains.
    """

    adaptation: Adaptation | None = None
    per_chain: bool = False
    keeps_warmup: bool = False

    def positions(self, model: Model, num_chains: int) -> list[PyTree]:
        """Checked positions around which lanes start: one, or one for each chain."""
        position = checked_position(model.initial_position)
        if not checked_flag("starts_per_chain", self.per_chain):
            return [position]
        _check_chains(position, num_chains)
        return [jax.tree.map(lambda leaf, at=chain: jnp.unstack(leaf)[at], position) for chain in range(num_chains)]


def chain_inputs(keys: UInt32[np.ndarray, "K two"]) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Inputs of lanes that run chains with these keys from given steps on."""

    def inputs(chain: np.ndarray, first_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return keys[chain], first_step.astype(np.int32)

    return inputs


def meeting_distance(settings: SamplerSettings, program: LaneProgram) -> float:
    """Tolerance in whitened coordinates within which lanes meet; 0 for kernels whose lanes meet exactly."""
    if settings.meets_exactly:
        return 0.0
    return MEETING_DISTANCE[str(np.dtype(program.dynamics.layout.dtype))]


def prepare(
    rng_key: Array,
    model: Model,
    settings: SamplerSettings,
    progress: Progress,
    *,
    start: Start = Start(),
    lyapunov: bool = False,
) -> Prepared:
    """Warm up the lanes and, unless chains are to be evaluated step by step, measure how soon lanes meet.

    With `lyapunov`, the report contains the Lyapunov exponent of the kernel without multishift moves.
    """
    clock = Clock()
    rng_key, model, starts = _checked_model(rng_key, model, settings, start)
    progress.phase("compiling")
    rng = np.random.default_rng(jax.device_get(as_words(rng_key)))
    ensemble, settings, share = place_lanes(model, starts, settings, rng)
    program = ensemble.program
    clock.lap("compilation")
    ensemble.history = [] if start.keeps_warmup else None
    states, reference, adaptation = _warmed_up(ensemble, settings, start, starts, progress)
    clock.lap("warmup")
    keys = rng.integers(0, 2**32, (settings.num_chains, 2), np.uint32)
    parameters = adaptation.parameters._replace(data=model.data_arguments)
    run = Run(parameters, chain_inputs(keys), take(states, slice(0, settings.num_chains)))
    report, single_steps = None, None
    if reference is not None and settings.method != "sequential" and settings.num_lanes > settings.num_chains:
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
    schedule = Schedule.of(settings, program, report)
    history = _of_chains(ensemble, settings.num_chains)
    return Prepared(settings, program, run, keys, states, schedule, adaptation, report, clock, single_steps, history)


def _checked_model(
    rng_key: Array, model: Model, settings: SamplerSettings, start: Start
) -> tuple[Array, Model, Float[np.ndarray, "S D"]]:
    """Key and model, checked and the same in all processes; and the flat positions at which lanes start."""
    positions = start.positions(model, settings.num_chains)
    rng_key, positions = broadcast_from_first(settings.mesh, (checked_key(rng_key), positions))
    model = as_traced(model.replace(initial_position=positions[0], data=on_device(model.data)))
    layout = Layout.of(positions[0])
    if start.adaptation is not None:
        _check_adaptation(start.adaptation, settings, layout)
    return rng_key, model, np.stack([layout.ravel(jax.device_get(each)) for each in positions])


def _check_chains(position: PyTree, num_chains: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(position):
        if leaf.ndim == 0 or leaf.shape[0] != num_chains:
            raise ValueError(
                f"starts_per_chain=True: initial_position{jax.tree_util.keystr(path)} needs a leading axis of "
                f"{num_chains} chains; it has shape {leaf.shape}."
            )


def _check_adaptation(adaptation: Adaptation, settings: SamplerSettings, layout: Layout) -> None:
    dimension, has_moves = adaptation.states.shape[1], bool(np.any(adaptation.parameters.move_scales))
    if adaptation.kernel != settings.kernel.name:
        raise ValueError(
            f"adaptation is of kernel {adaptation.kernel!r}; this run has kernel {settings.kernel.name!r}."
        )
    if dimension != layout.dimension:
        raise ValueError(f"adaptation is of {dimension} dimensions; the position has {layout.dimension}.")
    if settings.kernel.uses_gradient and has_moves != settings.exact_meeting:
        raise ValueError(f"adaptation is of exact_meeting={has_moves}; this run has {settings.exact_meeting}.")


def _warmed_up(
    ensemble: Ensemble,
    settings: SamplerSettings,
    start: Start,
    starts: Float[np.ndarray, "S D"],
    progress: Progress,
) -> tuple[LaneState, Reference | None, Adaptation]:
    """States of the lanes after the warm-up, its last round, and its result.

    Without warm-up steps, the states are the starts themselves, and the round only measures.
    """
    if start.adaptation is None:
        ensemble.tune(settings.num_warmup, progress.phase)
    else:
        ensemble.adopt(start.adaptation, starts if start.per_chain else None)
        if settings.num_warmup == 0:
            states = ensemble.evaluated()
            adaptation = start.adaptation._replace(
                parameters=rounded_to(start.adaptation.parameters, ensemble.dtype),
                states=states.position,
                num_steps=0,
                num_lanes=settings.num_lanes,
            )
            reference = None if settings.method == "sequential" else ensemble.measured(adaptation.parameters)
            return states, reference, adaptation
    reference = ensemble.settle(settings.num_warmup, progress.phase)
    return reference.stretch.ends, reference, ensemble.adaptation(reference)


def _of_chains(ensemble: Ensemble, num_chains: int) -> tuple[np.ndarray, Statistics] | None:
    """The recorded warm-up of the lanes that become chains."""
    if not ensemble.history:
        return None
    positions, statistics = zip(*ensemble.history, strict=True)
    chains = Statistics(*(np.concatenate(values)[:, :num_chains] for values in zip(*statistics, strict=True)))
    return np.concatenate(positions)[:, :num_chains], chains


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
    block_size = block_size_of(settings.num_steps, settings.num_blocks, program.num_rows, PERIOD)
    atol = meeting_distance(settings, program)
    meeting = meeting_times(program, reference.stretch, block_size, atol)
    plan = _plan(meeting, settings, block_size, measured)
    kernel_remedy = METROPOLIS_REMEDY if settings.kernel.name != "metropolis" else "another kernel"
    remedies = f"{kernel_remedy}, or another parametrisation"
    return Report(meeting, settings.num_lanes, measured, plan, remedies, atol, adaptation=adaptation)


def _plan(meeting: MeetingTimes, settings: SamplerSettings, block_size: int, measured: Measured) -> Plan:
    """The faster plan for the chains of `settings`."""
    return make_plan(meeting, settings.num_lanes, settings.num_chains, settings.num_steps, block_size, measured)


def _exponent(dynamics: KernelLanes, stretch: Stretch, rng_key: Array) -> tuple[Any, Any]:
    """Lyapunov exponent and its standard error, for the kernel without multishift moves, which merge nearby paths."""
    parameters = stretch.parameters._replace(move_scales=np.zeros_like(stretch.parameters.move_scales))
    return exponent(dynamics, *TANGENT_STEPS, parameters, stretch.ends.position[:NUM_TANGENTS], rng_key)
