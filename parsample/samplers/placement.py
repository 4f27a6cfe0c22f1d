"""Place lanes at dispersed starts: compile their program, check the log density, and choose the number of lanes."""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from parsample.draws.layout import Layout
from parsample.internal.processes import broadcast_from_first
from parsample.internal.trees import on_device
from parsample.internal.user_warnings import warn_user
from parsample.internal.validation import (
    BATCHING_REMEDY,
    checked_logdensity_value,
    gradient_failure,
    lacks_batching,
)
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import LaneProgram
from parsample.models.model import Model
from parsample.planning.plan import DEFAULT_SINGLE_STEP_COST
from parsample.samplers.settings import SamplerSettings
from parsample.solver.status import ParallelStallWarning
from parsample.warmup.ensemble import Ensemble

# If the user names no number of lanes and a row takes more than EXPENSIVE_ROW_SECONDS, about FEW_LANES lanes are tried.
# They are used if the cost per lane is then less than MAX_LANE_COST_RATIO times the cost per lane with all lanes.
EXPENSIVE_ROW_SECONDS, FEW_LANES, MAX_LANE_COST_RATIO = 0.2, 16, 1.5


def place_lanes(
    model: Model, starts: Float[np.ndarray, "S D"], settings: SamplerSettings, rng: np.random.Generator
) -> tuple[Ensemble, SamplerSettings, float]:
    """Place the lanes at dispersed starts, with fewer lanes if the log density is expensive or cannot be batched.

    Returns the ensemble, the settings with its number of lanes, and the cost of a row with one lane per chain, as a
    share of the cost of a row of all lanes.
    """
    dynamics = KernelLanes(model.logdensity, Layout.of(model.initial_position), settings.kernel)
    try:
        ensemble, seconds = _build_ensemble(model, dynamics, starts, settings, rng)
    except NotImplementedError as error:
        if not lacks_batching(model.logdensity, model.initial_position, *model.data_arguments):
            raise _explanation(model, settings, error) from error
        _warn_of_single_evaluations(error)
        few = replace(settings, num_lanes=_fewer_lanes(settings), method="sequential")
        ensemble, _ = _build_ensemble(model, replace(dynamics, is_batched=False), starts, few, rng)
        return ensemble, few, 1.0
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise _explanation(model, settings, error) from error
    return _choose_num_lanes(model, ensemble, starts, seconds, settings, rng)


def _build_ensemble(
    model: Model,
    dynamics: KernelLanes,
    starts: Float[np.ndarray, "S D"],
    settings: SamplerSettings,
    rng: np.random.Generator,
) -> tuple[Ensemble, float]:
    """An ensemble at dispersed starts, and its seconds per row; compiles the program and checks the log density."""
    program = LaneProgram(dynamics, settings.num_lanes, settings.mesh, dynamics.records)
    target, data = settings.target_acceptance_rate, model.data_arguments
    ensemble = Ensemble(program, starts, target, settings.exact_meeting, rng, data)
    logdensities, gradients = ensemble.disperse(model.initial_spread)
    for number, logdensity in enumerate(logdensities):
        gradient = None if gradients is None else dynamics.layout.unravel(gradients[number])
        value = float(logdensity)
        if not np.isfinite(value):  # lanes replace NaN by -inf
            start = dynamics.layout.unravel(starts[number].astype(dynamics.layout.dtype))
            value = float(model.logdensity_at(on_device(start)))
        where = f"initial_position of chain {number}" if len(starts) > 1 else "initial_position"
        checked_logdensity_value(value, gradient, where)
    return ensemble, float(broadcast_from_first(settings.mesh, np.float64(ensemble.seconds_per_row)))


def _choose_num_lanes(
    model: Model,
    ensemble: Ensemble,
    starts: Float[np.ndarray, "S D"],
    seconds: float,
    settings: SamplerSettings,
    rng: np.random.Generator,
) -> tuple[Ensemble, SamplerSettings, float]:
    """The given ensemble, or one with fewer lanes if its rows are expensive and those of fewer lanes cost less.

    `seconds` is the time per row of `ensemble`; returns the same as `place_lanes`.
    """
    few = replace(settings, num_lanes=_fewer_lanes(settings))
    is_expensive = settings.may_use_fewer_lanes and seconds > EXPENSIVE_ROW_SECONDS
    if not is_expensive or few.num_lanes >= settings.num_lanes:
        return ensemble, settings, DEFAULT_SINGLE_STEP_COST
    smaller, fewer_seconds = _build_ensemble(model, ensemble.program.dynamics, starts, few, rng)
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
        f"step by step, one after another ({error}). Try: {BATCHING_REMEDY}.",
        ParallelStallWarning,
    )
