"""The check before a long run: will evaluating this chain in parallel pay, and if not, why not?

A pilot measures the Lyapunov exponent and how soon restarted paths meet; step costs are timed at several lane counts.
The plan follows from both, and so does the explanation where it is sequential.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from parsample.adapters import RecursionDynamics, spread_out
from parsample.compilation import compiling, outermost_jit
from parsample.conditions import Conditions
from parsample.costs import StepCosts, checked_costs
from parsample.grid import Team, mesh_of
from parsample.pilot import NUM_RESTARTS, Pilot, newton_sweeps, run_pilot
from parsample.plan import Plan, make_plan
from parsample.processes import agreed
from parsample.solution import DEER, Sequential
from parsample.status import ParallelStallWarning
from parsample.timing import measure_costs, nearest_power, sequential_trial
from parsample.transition import AlgorithmDynamics, Dynamics, Inputs, Vector, as_inputs, begin, from_step, rollout
from parsample.validation import checked_count, checked_key, checked_position, checked_recursion, checked_start

# Distance, in posterior standard deviations, below which paths that no longer approach have met up to rounding.
NOISE_FLOOR = 1e-2

# Tangents that have not turned into the leading direction are followed for up to so many times as many steps.
LONGEST_GROWTH = 16

# What to try where paths do not meet.
_A_FORGETFUL_KERNEL = "a better adapted metric, trajectory lengths that vary, or another kernel"
_A_FORGETFUL_RECURSION = "a recursion that forgets sooner, such as a stable observer of this one"


@dataclass(frozen=True)
class Report:
    """What `check` found; ``str(report)`` is for people.

    Attributes
    ----------
    lle, lle_se
        Largest Lyapunov exponent and its standard error, in nats per step.
    coalescence
        Steps until each restarted path met its partner, shape (R,); inf: not within the pilot.
    distances
        Distance of each restarted path from its partner after each step, in standard deviations, shape (steps, R).
    num_pilot_steps
        Steps for which restarted paths were followed.
    plan
        What ``method="auto"`` will do, with predicted time and work.
    cause, remedy
        Why it will not pay, and what to try; empty if it will.
    block_starts
        States typical of the chain, shape (2 R, D): first guesses for a parallel evaluation.
    costs
        Seconds per step at several lane counts on this device, which can be saved and reused.
    """

    lle: float
    lle_se: float
    coalescence: Float[np.ndarray, " R"]
    distances: Float[np.ndarray, "T R"]
    num_pilot_steps: int
    plan: Plan
    cause: str
    remedy: str
    block_starts: Float[np.ndarray, "N D"]
    costs: StepCosts

    @property
    def parallelizable(self) -> bool:
        """Whether the plan is parallel."""
        return not isinstance(self.plan.method, Sequential)

    def __str__(self) -> str:
        met = np.isfinite(self.coalescence)
        forgets = f"{self.lle:+.3g} +- {self.lle_se:.1g} nats per step"
        if self.lle < 0 and math.isfinite(self.lle):
            forgets += f" (a difference halves in {math.log(2) / -self.lle:.3g} steps)"
        meeting = f"{met.sum()} of {met.size} restarted pairs met within {self.num_pilot_steps} steps"
        if met.any():
            meeting += f" (median {np.median(self.coalescence[met]):.0f}, slowest {self.coalescence[met].max():.0f})"
        chains = f"{self.plan.num_chains} x " if self.plan.num_chains > 1 else ""
        rows = [
            ("verdict", "parallel" if self.parallelizable else "sequential"),
            ("Lyapunov exponent", forgets),
            ("coalescence", meeting),
            ("plan", f"{chains}{self.plan.num_steps} steps: {self.plan}"),
        ]
        if caveat := self.costs.caveat(self.plan.num_steps):
            rows += [("step costs", caveat)]
        if self.cause:
            rows += [("because", self.cause), ("try", self.remedy)]
        return "\n".join(f"{name:<18} {text}" for name, text in rows)

    def warn(self, stacklevel: int = 3) -> None:
        """A `ParallelStallWarning` with cause and remedy, if parallel evaluation will not pay."""
        if self.cause:
            message = f"This chain will be evaluated sequentially: {self.cause}. Try: {self.remedy}."
            warnings.warn(message, ParallelStallWarning, stacklevel=stacklevel)


def check(
    rng_key: Array,
    inference_algorithm: SamplingAlgorithm | Callable,
    initial_position: PyTree,
    *,
    num_steps: int | None = None,
    inputs: PyTree = None,
    devices: Sequence[jax.Device] | None = None,
    costs: StepCosts | None = None,
) -> Report:
    """Whether a long chain of this algorithm, or a recursion, can be evaluated in parallel, measured by a short pilot.

    Parameters
    ----------
    rng_key
        Key of the pilot; the chain's own keys are not touched.
    inference_algorithm
        A BlackJAX sampling algorithm; or a function ``step(state, input) -> state``, with its `inputs`.
    initial_position
        Pytree of floating-point arrays, as for ``inference_algorithm.init``; or the initial state of the recursion.
    num_steps
        Length of the run that is being planned; None: 100,000, or that of the inputs. The pilot takes a few percent of
        its time.
    inputs
        Of a recursion, with leading axis T; the pilot looks at stretches of them.
    devices
        JAX devices that would share the run; None: all local ones. If they belong to several processes, each must
        make this call, and all get the same report.
    costs
        ``report.costs`` of an earlier check, or `parsample.StepCosts.load`; None: they are measured.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        If the position or the log density at it is unusable, the kernel cannot be reduced, or `costs` were measured
        for something else.

    Warns
    -----
    ParallelStallWarning
        If it will not pay, with cause and remedy.
    """
    mesh = mesh_of(devices)
    rng_key = checked_key(rng_key)
    dynamics: Dynamics
    if isinstance(inference_algorithm, SamplingAlgorithm):
        if inputs is not None:
            raise ValueError("inputs drive a function step(state, input); a BlackJAX algorithm draws its own.")
        num_steps = checked_count("num_steps", 100_000 if num_steps is None else num_steps)
        dynamics = AlgorithmDynamics(inference_algorithm, _position_only)
        chain_key, parameters, starts = begin(dynamics, rng_key, checked_position(initial_position))
        checked_start(parameters)
    else:
        if not callable(inference_algorithm):
            raise TypeError(
                f"inference_algorithm must be a BlackJAX algorithm or a function step(state, input); got "
                f"{inference_algorithm!r}."
            )
        entries = as_inputs(inputs)
        checked_recursion(inference_algorithm, initial_position, entries.sequence)
        num_steps = checked_count("num_steps", entries.num_steps if num_steps is None else num_steps)
        dynamics, chain_key = RecursionDynamics(inference_algorithm), rng_key
        parameters = (initial_position, entries.sequence)
        growth, _, meeting = _pilot_lengths(dynamics, num_steps)
        seen = min(growth + meeting, num_steps)
        starts = _typical_states(inference_algorithm, seen, *parameters)
    chain_key, parameters, starts = agreed(mesh, (chain_key, parameters, starts))
    conditions = Conditions.of(dynamics, jnp.atleast_2d(starts)[0], num_steps, 1, mesh)
    costs = checked_costs(costs, conditions, Team(mesh=mesh).num_devices)
    report = examine(dynamics, parameters, starts, chain_key, num_steps, costs=costs, mesh=mesh)
    report.warn()
    return report


@outermost_jit(0, 1)
def _typical_states(step: Callable, num_steps: int, state: PyTree, sequence: PyTree) -> Float[Array, "N D"]:
    """States along the beginning of a recursion's path, from which pilots of the same inputs go different ways."""
    transition, start = from_step(step, state)
    first = Inputs(jax.tree.map(lambda leaf: leaf[:num_steps], sequence))
    return spread_out(rollout(transition, start, first)[1], 2 * NUM_RESTARTS)


def _position_only(state: Any, _info: Any) -> Any:
    return state.position


def examine(
    dynamics: Dynamics,
    parameters: Any,
    starts: Float[Array, "N D"] | Vector,
    rng_key: Array,
    num_steps: int,
    *,
    num_chains: int = 1,
    period: int = 1,
    scale: Vector | None = None,
    costs: StepCosts | None = None,
    mesh: Mesh | None = None,
) -> Report:
    """The check itself, for any chains.

    Parameters
    ----------
    dynamics, parameters
        The chains.
    starts
        Where to start pilots: one state, shape (D,), or many that are typical of the chain, shape (N, D).
    rng_key
        Key of the chain, from which the pilot derives keys of its own.
    num_steps, num_chains, period
        What is being planned; block sizes will be multiples of `period`.
    scale
        Standard deviation of the chain, shape (D,), if known.
    costs
        Step costs, if they have been measured before.
    mesh
        Devices that would share the run; None: one.
    """
    chains = (dynamics, parameters, starts, rng_key, num_steps)
    beside = lowerings(*chains, num_chains=num_chains, mesh=mesh)[1:] if costs is None else []
    with compiling(*beside):
        pilot = run_pilot(dynamics, *_pilot_lengths(dynamics, num_steps), parameters, starts, rng_key, scale)
        pilot = agreed(mesh, jax.device_get(pilot))
    start = pilot.ends[0]
    if costs is None:
        useful = _useful_lanes(pilot, num_steps * num_chains)
        costs = measure_costs(dynamics, parameters, start, num_steps, num_chains, useful, mesh)

    def newton(settings: DEER, pilot_steps: int) -> float:
        return float(agreed(mesh, newton_sweeps(dynamics, parameters, start, rng_key, settings, pilot_steps)))

    plan = make_plan(
        costs,
        pilot.coalescence.times,
        num_steps,
        num_chains=num_chains,
        period=period,
        newton=newton if pilot.is_clearly_negative else None,
        dimension=starts.shape[-1],
        num_devices=costs.num_devices,
    )
    forgetful = _A_FORGETFUL_RECURSION if isinstance(dynamics, RecursionDynamics) else _A_FORGETFUL_KERNEL
    cause, remedy = _diagnose(pilot, plan, forgetful)
    num_run = int(pilot.num_run)
    return Report(
        lle=float(pilot.lle),
        lle_se=float(pilot.lle_se),
        coalescence=pilot.coalescence.times,
        distances=pilot.coalescence.distances[:num_run],
        num_pilot_steps=num_run,
        plan=plan,
        cause=cause,
        remedy=remedy,
        block_starts=pilot.ends,
        costs=costs,
    )


def lowerings(
    dynamics: Dynamics,
    parameters: Any,
    starts: Float[Any, "N D"] | Float[Any, " D"],
    rng_key: Array,
    num_steps: int,
    *,
    num_chains: int = 1,
    scale: Any = None,
    mesh: Mesh | None = None,
) -> list[Callable[[], Any]]:
    """What lowers the programmes that `examine` begins with; shapes will do in place of arrays."""
    start = jax.ShapeDtypeStruct(starts.shape[-1:], starts.dtype)
    pilot = partial(run_pilot.lower, dynamics, *_pilot_lengths(dynamics, num_steps), parameters, starts, rng_key, scale)
    return [pilot, sequential_trial(dynamics, parameters, start, num_steps, num_chains, mesh).lower]


def _pilot_lengths(dynamics: Dynamics, num_steps: int) -> tuple[int, int, int]:
    """Steps with tangents, as many at most, and steps for which pairs are watched."""
    similar = nearest_power(num_steps)
    growth = int(np.clip(similar // 1250, 40, 250))
    longest = LONGEST_GROWTH * growth
    if isinstance(dynamics, RecursionDynamics):
        # Steps may be small ones of a flow, and are often cheap. Longer stretches of the inputs would overlap.
        growth = longest = int(np.clip(similar // 64, 250, 2000))
    return growth, longest, int(np.clip(similar // 100, 256, 4000))


def _useful_lanes(pilot: Pilot, num_evaluations: int) -> float:
    """Lanes beyond which blocks would be shorter than meeting takes, or than Newton's method wants; else none."""
    if np.isfinite(pilot.coalescence.times).all():
        return num_evaluations / float(pilot.coalescence.times.max())
    return num_evaluations / 16 if pilot.is_clearly_negative else 0.0


def _diagnose(pilot: Pilot, plan: Plan, forgetful: str) -> tuple[str, str]:
    """Why the plan is sequential and what to try; empty strings if it is not."""
    if not isinstance(plan.method, Sequential):
        return "", ""
    if not np.isfinite(pilot.ends).all():
        return "the pilot's states are not finite", "looking for where along the chain they cease to be"
    if not np.isfinite(pilot.coalescence.times).all():
        return _why_apart(pilot, forgetful)
    slowest = pilot.coalescence.times.max()
    if plan.fallback is None:
        cause = f"paths take up to {slowest:.0f} steps to meet, too many for a run of {plan.num_steps}"
    else:
        cause = (
            f"blocks would gain too little on this device (paths take up to {slowest:.0f} steps to meet, and a step of "
            "many lanes costs nearly as much as so many single steps)"
        )
    return cause, f"a longer run, a device with more parallel capacity, or {forgetful}"


def _why_apart(pilot: Pilot, forgetful: str) -> tuple[str, str]:
    """Cause and remedy where restarted pairs did not all meet."""
    times, distances = pilot.coalescence
    num_run, never = int(pilot.num_run), ~np.isfinite(times)
    last = np.median(distances[num_run - num_run // 4 : num_run], axis=0)
    if pilot.is_clearly_negative and (last < NOISE_FLOOR).all() and distances.dtype == np.float32:
        cause = f"paths approach to {last.max():.1g} standard deviations and no further: the noise of float32 gradients"
        return cause, "float64 (jax_enable_x64), or centred and scaled data"
    apart = f"{never.sum()} of {never.size} restarted pairs did not meet within {num_run} steps"
    exponent = f"Lyapunov exponent {float(pilot.lle):+.3g} +- {float(pilot.lle_se):.1g} nats per step"
    if float(pilot.lle) - 2 * float(pilot.lle_se) > 0:
        cause = f"the chain is not predictable: {exponent}, and {apart}"
    else:
        cause = f"{apart} ({exponent})"
    return cause, forgetful
