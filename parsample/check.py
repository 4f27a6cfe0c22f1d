"""The check before a long run: will evaluating this chain in parallel pay, and if not, why not?

Lanes with keys of their own leave the start; each is then run again from its neighbour's state, which shows how soon
paths with common randomness meet. Tangents of some of them give the Lyapunov exponent. The plan follows from meeting
times and from the time that a row of lanes took, and so does the explanation where it is sequential.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from parsample.adapters import RecursionDynamics
from parsample.chain_lanes import ChainLanes
from parsample.compilation import outermost_jit
from parsample.grid import mesh_of, round_up
from parsample.kernels.base import PERIOD
from parsample.lane_program import MAX_ROWS, LaneProgram, default_num_lanes
from parsample.meeting import MEETING_DISTANCE, MeetingTimes, Stretch, meeting_times, stretch_of
from parsample.pilot import growth_of_chains
from parsample.plan import Measured, Plan, block_size_of, make_plan, why_apart
from parsample.processes import agreed
from parsample.random_keys import as_words
from parsample.status import ParallelStallWarning
from parsample.transition import AlgorithmDynamics, Dynamics, as_inputs, begin
from parsample.validation import checked_count, checked_key, checked_position, checked_recursion, checked_start

# Paths that differ by less than this many standard deviations when they are given up have been kept apart by rounding.
NOISE = 0.1

# Steps in which lanes leave the start, and of the stretch that they are compared with.
LEAVING_STEPS, STRETCH_STEPS = 256, 64

# Paths with tangents; and the longest time for which tangents are followed until they have turned into the leading
# direction, as a multiple of the shortest.
NUM_TANGENTS, LONGEST_GROWTH = 12, 16

# What tells the pilot's keys from the chain's.
PILOT = 0x9A9A

# What to try where paths do not meet.
_A_FORGETFUL_KERNEL = (
    "parsample.with_exact_meeting, a better adapted metric, trajectory lengths that vary, or another kernel"
)
_A_FORGETFUL_RECURSION = "a recursion that forgets sooner, such as a stable observer of this one"


@dataclass(frozen=True)
class Report:
    """What `check` found; ``str(report)`` is for people.

    Attributes
    ----------
    lle, lle_se
        Largest Lyapunov exponent and its standard error, in nats per step; NaN where the step has no derivative in
        forward mode.
    meeting
        Meeting times of pairs of lanes with common randomness, within `atol`.
    atol
        The tolerance, in standard deviations of the chain: no less than what rounding makes of a path.
    num_lanes
        Lanes that will run.
    plan
        What ``method="auto"`` is expected to do, with predicted time and work.
    cause, remedy
        Why it will not pay, and what to try; empty if it will.
    states
        States typical of the chain, shape (L, D).
    """

    lle: float
    lle_se: float
    meeting: MeetingTimes
    atol: float
    num_lanes: int
    plan: Plan
    cause: str
    remedy: str
    states: Float[np.ndarray, "L D"]

    @property
    def parallelizable(self) -> bool:
        """Whether the plan is parallel."""
        return self.plan.is_parallel

    @property
    def coalescence(self) -> Float[np.ndarray, " L"]:
        """Steps until each pair met, shape (L,); inf: not while they were watched."""
        return self.meeting.times

    @property
    def distances(self) -> Float[np.ndarray, "n L"]:
        """Distance of each pair after each step, in standard deviations, shape (steps, L)."""
        return self.meeting.distances

    @property
    def contraction_rate(self) -> float:
        """Mean change of the log distance of a pair before it meets, nats per step."""
        return self.meeting.contraction_rate

    def __str__(self) -> str:
        forgets = "the step has no derivative in forward mode"
        if not math.isnan(self.lle):
            forgets = f"{self.lle:+.3g} +- {self.lle_se:.1g} nats per step"
        if self.lle < 0 and math.isfinite(self.lle):
            forgets += f" (a difference halves in {math.log(2) / -self.lle:.3g} steps)"
        rows = [
            ("verdict", "parallel" if self.parallelizable else "sequential"),
            ("Lyapunov exponent", forgets),
            ("meeting", self.meeting.described(self.num_lanes)),
            ("tolerance", f"{self.atol:.1g} standard deviations"),
            ("plan", str(self.plan)),
        ]
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
        Length of the run that is being planned; None: 100,000, or that of the inputs. Once it is compiled, the pilot
        takes a few percent of its time.
    inputs
        Of a recursion, with leading axis T; the pilot looks at stretches of them.
    devices
        JAX devices that would share the run; None: all local ones. If they belong to several processes, each must
        make this call, and all get the same report.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        If the position or the log density at it is unusable, or the kernel cannot be reduced.
    NotImplementedError
        If steps cannot be evaluated side by side, as where a log density calls back to Python without a batching rule.

    Warns
    -----
    ParallelStallWarning
        If it will not pay, with cause and remedy.

    Examples
    --------
    >>> import blackjax, jax, jax.numpy as jnp, parsample
    >>> mala = blackjax.mala(lambda x: -0.5 * jnp.sum(x**2), 0.2)
    >>> parsample.check(jax.random.key(0), mala, jnp.zeros(2), num_steps=20_000).parallelizable
    True
    """
    mesh = mesh_of(devices)
    rng_key = checked_key(rng_key)
    dynamics: Dynamics
    if isinstance(inference_algorithm, SamplingAlgorithm):
        if inputs is not None:
            raise ValueError("inputs drive a function step(state, input); a BlackJAX algorithm draws its own.")
        num_steps = checked_count("num_steps", 100_000 if num_steps is None else num_steps)
        dynamics = AlgorithmDynamics(inference_algorithm, _nothing)
        rng_key, state, _ = begin(dynamics, rng_key, checked_position(initial_position))
        checked_start(state)
        parameters = state
    else:
        if not callable(inference_algorithm):
            raise TypeError(
                f"inference_algorithm must be a BlackJAX algorithm or a function step(state, input); got "
                f"{inference_algorithm!r}."
            )
        entries = as_inputs(inputs)
        checked_recursion(inference_algorithm, initial_position, entries.sequence)
        num_steps = checked_count("num_steps", entries.num_steps if num_steps is None else num_steps)
        dynamics, state = RecursionDynamics(inference_algorithm), initial_position
        parameters = (initial_position, entries.sequence)
    rng_key, parameters, state = agreed(mesh, (rng_key, parameters, state))
    report = examine(dynamics, parameters, state, rng_key, num_steps, mesh)
    report.warn()
    return report


def _nothing(_state: Any, _info: Any) -> None:
    return None


def examine(
    dynamics: Dynamics, parameters: Any, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None = None
) -> Report:
    """The check itself, of the family of chains with these parameters, from `state`, for runs of `num_steps` steps."""
    growth, most_growth, num_meeting = _pilot_lengths(dynamics, num_steps)
    num_lanes = default_num_lanes()
    inputs_of = partial(_inputs, dynamics, num_lanes, round_up(num_meeting, PERIOD), parameters, rng_key)
    leaving = inputs_of(0)
    lanes, records = ChainLanes.of(dynamics, state, leaving, num_axes=2)
    program = LaneProgram(lanes, num_lanes, mesh, records, max_rows=round_up(num_meeting, PERIOD))
    words = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], num_lanes, axis=0), as_words(state))
    size = min(LEAVING_STEPS, num_meeting, program.num_rows)
    scale = np.ones(records[0].shape, program.dtype)
    own_inputs = _on_host(leaving)
    stretch_of(program, scale, own_inputs, words, PERIOD)  # compiles, so that later calls show the time of a row
    left = stretch_of(program, scale, own_inputs, words, size)
    states = left.ends
    if isinstance(dynamics, RecursionDynamics):
        states = _along(left.records[0], state)
    size = min(STRETCH_STEPS, size)
    stretch = stretch_of(program, scale, _on_host(inputs_of(1)), states, size)
    stretch = stretch._replace(parameters=lanes.rescaled(scale, lambda: stretch.records[0]))
    meeting, atol = _meeting(program, stretch, num_meeting)
    states = lanes.positions(stretch.ends)
    lle, lle_se = _exponent(dynamics, growth, most_growth, parameters, states[:NUM_TANGENTS], rng_key)
    meeting, atol, states, lle, lle_se = agreed(mesh, (meeting, np.float64(atol), states, lle, lle_se))
    # Rows that a run of the chain itself would keep, if its history is of that size.
    block_size = block_size_of(num_steps, num_lanes, MAX_ROWS, 1)
    plan = make_plan(
        meeting, num_lanes, 1, num_steps, block_size, Measured(program.seconds_per_row, program.seconds_to_compile)
    )
    forgetful = _A_FORGETFUL_RECURSION if isinstance(dynamics, RecursionDynamics) else _A_FORGETFUL_KERNEL
    cause, remedy = _diagnose(plan, meeting, states, (float(lle), float(lle_se)), forgetful)
    return Report(float(lle), float(lle_se), meeting, float(atol), num_lanes, plan, cause, remedy, states)


@outermost_jit(0, 1, 2)
def _inputs(dynamics: Dynamics, num_lanes: int, num_rows: int, parameters: Any, rng_key: Array, number: Any) -> PyTree:
    """Inputs of `num_rows` rows of `num_lanes` lanes, each lane with a key of its own."""
    # Folded first: the first keys that `rng_key` splits into are the chain's own.
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(rng_key, PILOT), number), num_lanes)
    return jax.vmap(lambda key: dynamics(parameters, key, num_rows)[1].sequence)(keys)


def _along(path: Float[np.ndarray, "n L D"], state: PyTree) -> PyTree:
    """States at different steps of the last half of a path: without random inputs, all lanes go the same way."""
    num_rows, num_lanes, _ = path.shape
    rows = np.linspace(num_rows // 2, num_rows - 1, num_lanes).astype(int)
    states = jax.vmap(ravel_pytree(state)[1])(path[rows, np.arange(num_lanes)])
    return jax.tree.map(np.asarray, states)


def _on_host(inputs: PyTree) -> tuple[PyTree, np.ndarray]:
    """As lanes take them; all of them move in every row."""
    words = jax.tree.map(np.asarray, as_words(inputs))
    return words, np.ones(jax.tree.leaves(words)[0].shape[:2], bool)


def _pilot_lengths(dynamics: Dynamics, num_steps: int) -> tuple[int, int, int]:
    """Steps with tangents, the most of them, and steps for which pairs are watched."""
    growth = int(np.clip(num_steps // 1250, 40, 250))
    longest = LONGEST_GROWTH * growth
    if isinstance(dynamics, RecursionDynamics):
        # Steps may be small ones of a flow, and are often cheap. Longer stretches of the inputs would overlap.
        growth = longest = int(np.clip(num_steps // 64, 250, 2000))
    return growth, longest, int(np.clip(num_steps // 100, 256, 4000))


def _meeting(program: LaneProgram, stretch: Stretch, num_steps: int) -> tuple[MeetingTimes, float]:
    """Meeting times, and the tolerance within which lanes meet."""
    atol = MEETING_DISTANCE[str(program.dtype)]
    meeting = meeting_times(program, stretch, num_steps, atol)
    tolerance = meeting.tolerance(atol)
    return (meeting.within(tolerance), tolerance) if tolerance > atol else (meeting, atol)


def _exponent(
    dynamics: Dynamics, growth: int, most_growth: int, parameters: Any, starts: Float[np.ndarray, "N D"], key: Array
) -> tuple[Any, Any]:
    """The exponent by tangents and its standard error; NaN where there are no derivatives in forward mode."""
    try:
        return growth_of_chains(dynamics, growth, most_growth, parameters, starts, key)
    except (TypeError, ValueError) as error:
        if "forward-mode" not in str(error) and "JVP" not in str(error):
            raise
        return np.float64(math.nan), np.float64(math.nan)


def _diagnose(
    plan: Plan, meeting: MeetingTimes, states: np.ndarray, exponent: tuple[float, float], forgetful: str
) -> tuple[str, str]:
    """Why the plan is sequential and what to try; empty strings if it is not."""
    if plan.is_parallel:
        return "", ""
    if not np.isfinite(states).all():
        return "the pilot's states are not finite", "looking for where along the chain they cease to be"
    lle, lle_se = exponent
    if not meeting.num_unmet:
        return why_apart(meeting, len(meeting.times)), f"a longer run, or {forgetful}"
    last = np.median(meeting.distances[-meeting.num_steps // 4 :], axis=0)
    if lle + 2 * lle_se < 0 and (last < NOISE).all() and meeting.distances.dtype == np.float32:
        cause = f"paths approach to {last.max():.1g} standard deviations and no further: the noise of float32 gradients"
        return cause, "float64 (jax_enable_x64), or centred and scaled data"
    cause = why_apart(meeting, len(meeting.times))
    told = "" if math.isnan(lle) else f"Lyapunov exponent {lle:+.3g} +- {lle_se:.1g} nats per step"
    if lle - 2 * lle_se > 0:
        return f"the chain is not predictable: {told}, and {cause}", forgetful
    return f"{cause} ({told})" if told else cause, forgetful
