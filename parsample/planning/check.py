"""Check before a long run whether evaluating this chain in parallel pays, and if not, why.

In a short pilot, lanes (batched copies of the chain) take steps with independent keys, away from the start. Each lane
then runs again with the same keys from its neighbour's state, which shows how soon paths with common randomness meet.
Tangents from some of the states give the Lyapunov exponent. The plan follows from the meeting times and the measured
time per row; a row is one step of every lane.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from parsample.chain.blackjax_chain import AlgorithmDynamics, begin
from parsample.chain.recursion import RecursionDynamics, nothing
from parsample.chain.transition import Dynamics, as_inputs
from parsample.internal.arithmetic import round_up
from parsample.internal.compilation import jit_with_xla_options, refuse_transformations
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import as_words
from parsample.internal.trees import on_device
from parsample.internal.validation import (
    batching_needed,
    checked_count,
    checked_key,
    checked_position,
    checked_recursion,
    checked_start,
)
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.meeting import MEETING_DISTANCE, MeetingTimes, Stretch, meeting_times, stretch_of
from parsample.lanes.program import MAX_ROWS, PERIOD, LaneProgram, default_num_lanes
from parsample.models.model import Model
from parsample.planning.plan import Measured, block_size_of, make_plan
from parsample.planning.report import Report
from parsample.predictability.tangents import NUM_TANGENTS, exponent

if TYPE_CHECKING:
    import blackjax.base

# Steps of the burn-in, which moves lanes away from the start, and steps of the first comparison with restarted lanes.
BURN_IN_STEPS, STRETCH_STEPS = 256, 64

# Maximum number of tangent steps, as a multiple of the minimum; tangents need time to align with the leading direction.
MAX_TANGENT_RATIO = 16

# Folded into the key, so that the pilot's random numbers differ from the chain's.
PILOT_TAG = 0x9A9A

# Remedies where paths do not meet.
_KERNEL_REMEDIES = (
    "parsample.with_exact_meeting, a better adapted metric, trajectory lengths that vary, or another kernel"
)
_RECURSION_REMEDIES = "a recursion that forgets its initial state sooner, such as a stable observer of this one"


def check(
    rng_key: Array,
    inference_algorithm: "blackjax.base.SamplingAlgorithm | Callable",
    initial_position: PyTree = None,
    *,
    num_steps: int | None = None,
    inputs: PyTree = None,
    devices: Sequence[jax.Device] | None = None,
) -> Report:
    """Measure in a short pilot whether a long chain or recursion can be evaluated in parallel.

    Parameters
    ----------
    rng_key
        Key of the pilot. A chain with the same key uses other random numbers.
    inference_algorithm
        A BlackJAX sampling algorithm, or a function ``step(state, input) -> state`` together with its `inputs`. For a
        log density or a `Model`, see `check_sampler`.
    initial_position
        Pytree of floating-point arrays, as for ``inference_algorithm.init``, or the initial state of the recursion.
    num_steps
        Steps of the planned run; None: 100,000, or the number of inputs. Once compiled, the pilot takes a few percent
        of the time of that run.
    inputs
        Inputs of the recursion, with leading axis T; the pilot runs on stretches of them. None for an algorithm.
    devices
        JAX devices that would share the run; None: all local ones. If they belong to several processes, each process
        must make this call, and all get the same report.

    Returns
    -------
    Report
        Meeting times, Lyapunov exponent and plan.

    Raises
    ------
    ValueError, TypeError
        If the position, the log density there or another argument is unusable, or if the state of the algorithm has
        unsupported fields.
    NotImplementedError
        If steps cannot be batched over lanes, for example if the log density calls back to Python without a batching
        rule.

    Warns
    -----
    ParallelStallWarning
        If a parallel evaluation will not pay; the message states cause and remedy.

    References
    ----------
    Predictability of a chain by its Lyapunov exponent: Gonzalez et al., arXiv 2508.16817.

    Examples
    --------
    >>> import blackjax, jax, jax.numpy as jnp, parsample
    >>> mala = blackjax.mala(lambda x: -0.5 * jnp.sum(x**2), 0.2)
    >>> parsample.check(jax.random.key(0), mala, jnp.zeros(2), num_steps=20_000).parallelizable
    True
    """
    refuse_transformations("check", "one report holds for all chains of an algorithm")
    if isinstance(inference_algorithm, Model):
        raise TypeError("check takes an algorithm or a recursion; check_sampler(rng_key, model) takes a Model.")
    mesh = mesh_of(devices)
    rng_key = checked_key(rng_key)
    dynamics: Dynamics
    if hasattr(inference_algorithm, "init"):
        if inputs is not None:
            raise ValueError("inputs drive a function step(state, input); a BlackJAX algorithm draws its own.")
        num_steps = checked_count("num_steps", 100_000 if num_steps is None else num_steps)
        dynamics = AlgorithmDynamics(inference_algorithm, nothing)
        rng_key, state, _ = begin(dynamics, rng_key, checked_position(initial_position))
        checked_start(state)
        parameters = state
    else:
        if not callable(inference_algorithm):
            raise TypeError(
                f"inference_algorithm must be a BlackJAX algorithm or a function step(state, input); got "
                f"{inference_algorithm!r}."
            )
        entries, initial_position = as_inputs(inputs), on_device(initial_position)
        checked_recursion(inference_algorithm, initial_position, entries.sequence)
        num_steps = checked_count("num_steps", entries.num_steps if num_steps is None else num_steps)
        dynamics, state = RecursionDynamics(inference_algorithm), initial_position
        parameters = (initial_position, entries.sequence)
    rng_key, parameters, state = broadcast_from_first(mesh, (rng_key, parameters, state))
    with batching_needed("check"):
        report = examine(dynamics, parameters, state, rng_key, num_steps, mesh)
    report.warn()
    return report


def examine(
    dynamics: Dynamics, parameters: Any, state: PyTree, rng_key: Array, num_steps: int, mesh: Mesh | None = None
) -> Report:
    """Run the pilot, and plan a run of `num_steps` steps from `state`.

    `parameters` select the chain within the family `dynamics`.
    """
    num_tangent_steps, max_tangent_steps, num_meeting_steps = _pilot_lengths(dynamics, num_steps)
    num_lanes, num_rows = default_num_lanes(), round_up(num_meeting_steps, PERIOD)
    inputs_of = partial(_pilot_inputs, dynamics, num_lanes, num_rows, parameters, rng_key)
    burn_in_inputs = inputs_of(0)
    lanes, records = ChainLanes.of(dynamics, state, burn_in_inputs, num_axes=2)
    program = LaneProgram(lanes, num_lanes, mesh, records, max_rows=num_rows)
    starts = jax.tree.map(lambda leaf: np.repeat(leaf[None], num_lanes, axis=0), jax.device_get(as_words(state)))
    size = min(BURN_IN_STEPS, num_meeting_steps, program.num_rows)
    unit_scale = np.ones(records[0].shape, program.dtype)
    lane_inputs = _lane_inputs(burn_in_inputs)
    stretch_of(program, unit_scale, lane_inputs, starts, PERIOD)  # compiles, so that later calls measure the row time
    burn_in = stretch_of(program, unit_scale, lane_inputs, starts, size)
    states = burn_in.ends
    if isinstance(dynamics, RecursionDynamics):
        states = _states_along_path(burn_in.records[0], state)
    stretch = stretch_of(program, unit_scale, _lane_inputs(inputs_of(1)), states, min(STRETCH_STEPS, size))
    stretch = stretch._replace(parameters=lanes.with_estimated_scale(unit_scale, lambda: stretch.records[0]))
    meeting, atol = _measure_meeting(program, stretch, num_meeting_steps)
    positions = lanes.positions(stretch.ends)[:NUM_TANGENTS]
    lle, lle_se = exponent(dynamics, num_tangent_steps, max_tangent_steps, parameters, positions, rng_key)
    meeting, atol, lle, lle_se = broadcast_from_first(mesh, (meeting, np.float64(atol), lle, lle_se))
    # The run itself records MAX_ROWS rows per segment, or fewer if its history is too large.
    block_size = block_size_of(num_steps, num_lanes, MAX_ROWS, 1)
    measured = Measured(program.seconds_per_row, program.seconds_to_compile)
    plan = make_plan(meeting, num_lanes, 1, num_steps, block_size, measured)
    remedies = _RECURSION_REMEDIES if isinstance(dynamics, RecursionDynamics) else _KERNEL_REMEDIES
    return Report(meeting, num_lanes, measured, plan, remedies, float(atol), float(lle), float(lle_se))


@jit_with_xla_options(3)
def _pilot_inputs(
    dynamics: Dynamics, num_lanes: int, num_rows: int, parameters: Any, rng_key: Array, number: Any
) -> PyTree:
    """Inputs with leading axes (num_lanes, num_rows) and an independent key per lane; `number` selects the keys."""
    # The chain itself uses the keys that `rng_key` splits into, so the tag is folded in before the split.
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(rng_key, PILOT_TAG), number), num_lanes)
    return jax.vmap(lambda key: dynamics(parameters, key, num_rows)[1].sequence)(keys)


def _states_along_path(path: Float[np.ndarray, "n L D"], state: PyTree) -> PyTree:
    """One state per lane, at different steps of the last half of a path.

    Without random inputs all lanes follow the same path, so their states differ only between steps.
    """
    num_rows, num_lanes, _ = path.shape
    rows = np.linspace(num_rows // 2, num_rows - 1, num_lanes).astype(int)
    states = on_device(path[rows, np.arange(num_lanes)])
    return jax.device_get(jax.vmap(ravel_pytree(state)[1])(states))


def _lane_inputs(inputs: PyTree) -> tuple[PyTree, np.ndarray]:
    """Inputs as `ChainLanes` takes them: words on the host, and a mask (L, n), true because every lane always steps."""
    words = jax.device_get(as_words(inputs))
    return words, np.ones(jax.tree.leaves(words)[0].shape[:2], bool)


def _pilot_lengths(dynamics: Dynamics, num_steps: int) -> tuple[int, int, int]:
    """Minimum and maximum number of tangent steps, and maximum number of steps over which pairs are compared."""
    shortest = int(np.clip(num_steps // 1250, 40, 250))
    longest = MAX_TANGENT_RATIO * shortest
    if isinstance(dynamics, RecursionDynamics):
        # Steps may be small time steps of a flow, and are often cheap. Longer stretches of the inputs would overlap.
        shortest = longest = int(np.clip(num_steps // 64, 250, 2000))
    return shortest, longest, int(np.clip(num_steps // 100, 256, 4000))


def _measure_meeting(program: LaneProgram, stretch: Stretch, num_steps: int) -> tuple[MeetingTimes, float]:
    """Meeting times, and the tolerance in standard deviations within which lanes meet."""
    atol = MEETING_DISTANCE[str(program.dtype)]
    meeting = meeting_times(program, stretch, num_steps, atol)
    tolerance = meeting.tolerance(atol)
    return (meeting.within(tolerance), tolerance) if tolerance > atol else (meeting, atol)
