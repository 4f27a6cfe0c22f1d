"""The check before a long run: will evaluating this chain in parallel pay, and if not, why not?

Lanes with keys of their own leave the start; each is then run again from its neighbour's state, which shows how soon
paths with common randomness meet. Tangents of some of them give the Lyapunov exponent. The plan follows from meeting
times and from the time that a row of lanes took, and so does the explanation where it is sequential.
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
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import as_words
from parsample.internal.validation import checked_count, checked_key, checked_position, checked_recursion, checked_start
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.meeting import MEETING_DISTANCE, MeetingTimes, Stretch, meeting_times, stretch_of
from parsample.lanes.program import MAX_ROWS, PERIOD, LaneProgram, default_num_lanes
from parsample.planning.plan import Measured, block_size_of, make_plan
from parsample.planning.report import Report
from parsample.predictability.tangents import NUM_TANGENTS, exponent

if TYPE_CHECKING:
    import blackjax.base

# Steps in which lanes leave the start, and of the stretch that they are compared with.
LEAVING_STEPS, STRETCH_STEPS = 256, 64

# The longest time for which tangents are followed until they have turned into the leading direction, as a multiple of
# the shortest.
LONGEST_GROWTH = 16

# What tells the pilot's keys from the chain's.
PILOT = 0x9A9A

# What to try where paths do not meet.
_A_FORGETFUL_KERNEL = (
    "parsample.with_exact_meeting, a better adapted metric, trajectory lengths that vary, or another kernel"
)
_A_FORGETFUL_RECURSION = "a recursion that forgets sooner, such as a stable observer of this one"


def check(
    rng_key: Array,
    inference_algorithm: "blackjax.base.SamplingAlgorithm | Callable",
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
    if hasattr(inference_algorithm, "init") and hasattr(inference_algorithm, "step"):
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
        entries = as_inputs(inputs)
        checked_recursion(inference_algorithm, initial_position, entries.sequence)
        num_steps = checked_count("num_steps", entries.num_steps if num_steps is None else num_steps)
        dynamics, state = RecursionDynamics(inference_algorithm), initial_position
        parameters = (initial_position, entries.sequence)
    rng_key, parameters, state = broadcast_from_first(mesh, (rng_key, parameters, state))
    report = examine(dynamics, parameters, state, rng_key, num_steps, mesh)
    report.warn()
    return report


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
    lle, lle_se = exponent(dynamics, growth, most_growth, parameters, states[:NUM_TANGENTS], rng_key)
    meeting, atol, lle, lle_se = broadcast_from_first(mesh, (meeting, np.float64(atol), lle, lle_se))
    # Rows that a run of the chain itself would keep, if its history is of that size.
    block_size = block_size_of(num_steps, num_lanes, MAX_ROWS, 1)
    measured = Measured(program.seconds_per_row, program.seconds_to_compile)
    plan = make_plan(meeting, num_lanes, 1, num_steps, block_size, measured)
    contracting = _A_FORGETFUL_RECURSION if isinstance(dynamics, RecursionDynamics) else _A_FORGETFUL_KERNEL
    return Report(meeting, num_lanes, measured, plan, contracting, float(atol), float(lle), float(lle_se))


@jit_with_xla_options(0, 1, 2)
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
