"""The plug: a drop-in for ``blackjax.util.run_inference_algorithm`` that evaluates the same chain in parallel."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from parsample.check import Report, examine
from parsample.compilation import outermost_jit
from parsample.conditions import Conditions
from parsample.costs import StepCosts, checked_costs, known_costs, remember_costs
from parsample.deer import in_order, solve_lanes
from parsample.finish import completed, finish
from parsample.grid import Grid, Room, Team, ceil_div, first_devices, mesh_of
from parsample.linearize import Zero
from parsample.plan import MIN_STEPS
from parsample.processes import agreed
from parsample.solution import DEER, Sequential, Solution, rolled_out
from parsample.status import ParallelStallWarning, Status, report
from parsample.threefry import is_numbered
from parsample.transition import AlgorithmDynamics, Vector, begin, from_algorithm
from parsample.validation import checked_choice, checked_count, checked_key, checked_position, checked_start

# What a user is told of an algorithm whose steps cannot be taken side by side.
WITHOUT_BATCHING = (
    "This chain will be evaluated sequentially: its log density calls back to Python and has no batching rule. Try: "
    "jax.pure_callback(..., vmap_method='expand_dims') and a function that takes leading axes"
)

Method = DEER | Sequential | Literal["auto", "deer", "sequential"]


def state_and_info(state: Any, info: Any) -> tuple[Any, Any]:
    """BlackJAX's default transform: everything is kept."""
    return state, info


def run_inference_algorithm(
    rng_key: Array,
    inference_algorithm: SamplingAlgorithm,
    num_steps: int,
    initial_state: PyTree = None,
    initial_position: PyTree = None,
    transform: Callable = state_and_info,
    *,
    method: Method = "auto",
    devices: Sequence[jax.Device] | None = None,
    costs: StepCosts | None = None,
) -> tuple[PyTree, PyTree]:
    """Run a BlackJAX algorithm: same keys, same chain, same return value as ``blackjax.util.run_inference_algorithm``.

    Parameters
    ----------
    rng_key
        Key of the chain, used exactly as BlackJAX uses it.
    inference_algorithm
        A BlackJAX sampling algorithm. Compiled code is reused as long as the same object (and `transform`) is passed.
    num_steps
        Number of steps T.
    initial_state, initial_position
        Exactly one of them: a state of the algorithm, or a position for its ``init``.
    transform
        ``transform(state, info)`` is what the history holds of each step; it runs inside the sweep.
    method
        "auto": what `parsample.check` plans; "deer": its best parallel plan, whether or not it pays; "sequential"; or
        explicit `parsample.DEER` or `parsample.Sequential` settings. Under ``jax.jit`` or ``jax.vmap`` nothing can be
        measured: there "auto" is "sequential", and "deer" is 64 coalescing blocks, finished step by step if need be.
    devices
        JAX devices that share the blocks; None: all local ones, or the one that a transformation runs on. The chain is
        the same. If they belong to several processes, each must make this call and gets the whole chain, that of the
        first one's arguments.
    costs
        ``report.costs`` of `parsample.check`, or `parsample.StepCosts.load`; None: they are measured when a chain of
        this algorithm and length is first planned, and known from then on.

    Returns
    -------
    final_state, history
        The state after step T, and the transformed states and infos with leading axis T.

    Raises
    ------
    ValueError, TypeError
        For unusable arguments, naming the argument, its value and the remedy.

    Warns
    -----
    ParallelStallWarning
        If the chain will not be, or was not, evaluated in parallel.
    """
    solution = evaluate_inference_algorithm(
        rng_key,
        inference_algorithm,
        num_steps,
        initial_state,
        initial_position,
        transform,
        method=method,
        devices=devices,
        costs=costs,
    )
    return solution.final, solution.outputs


def evaluate_inference_algorithm(
    rng_key: Array,
    inference_algorithm: SamplingAlgorithm,
    num_steps: int,
    initial_state: PyTree = None,
    initial_position: PyTree = None,
    transform: Callable = state_and_info,
    *,
    method: Method = "auto",
    devices: Sequence[jax.Device] | None = None,
    costs: StepCosts | None = None,
) -> Solution:
    """`run_inference_algorithm`, with the certificate: the history is in ``outputs``, the last state in ``final``.

    Parameters
    ----------
    rng_key, inference_algorithm, num_steps, initial_state, initial_position, transform, method, devices, costs
        As for `run_inference_algorithm`.

    Returns
    -------
    Solution
        Its ``states`` are None: what is wanted of them is in ``outputs``.

    Raises
    ------
    ValueError, TypeError
        For unusable arguments.

    Warns
    -----
    ParallelStallWarning
        If the chain will not be, or was not, evaluated in parallel.
    """
    checked_count("num_steps", num_steps)
    rng_key = checked_key(rng_key)
    resolved = checked_method(method, num_steps)
    traced = _is_traced((rng_key, initial_state, initial_position))
    mesh = None if traced and devices is None else mesh_of(devices)
    if (initial_state is None) == (initial_position is None):
        raise ValueError("Exactly one of initial_state and initial_position must be given.")
    dynamics = AlgorithmDynamics(inference_algorithm, transform)
    if initial_state is None:
        rng_key, initial_state, start = begin(dynamics, rng_key, checked_position(initial_position))
    else:
        if hasattr(initial_state, "position"):
            checked_position(initial_state.position, "initial_state.position")
        _, start = from_algorithm(inference_algorithm, initial_state, transform)
    checked_start(initial_state)
    rng_key, initial_state, start = agreed(mesh, (rng_key, initial_state, start))
    costs = checked_costs(costs, Conditions.of(dynamics, start, num_steps, 1, mesh), Team(mesh=mesh).num_devices)
    if isinstance(resolved, str) and (traced or (resolved == "auto" and num_steps < MIN_STEPS)):
        resolved = Sequential() if resolved == "auto" else parallel_method(None, num_steps)
    guesses = None
    if isinstance(resolved, str):
        examine_it = partial(_examine, dynamics, initial_state, start, rng_key, num_steps, mesh, costs)
        resolved, guesses, mesh = _planned(resolved, num_steps, mesh, examine_it)
    if isinstance(resolved, Sequential):
        solution = _run_sequentially(dynamics, num_steps, initial_state, start, rng_key)
    else:
        solution = _run_in_blocks(dynamics, num_steps, resolved, mesh, initial_state, start, rng_key, guesses)
        solution = in_order(num_steps, resolved.block_size, mesh, solution)
        solution = completed(
            solution, mesh, partial(_finish, dynamics, num_steps, resolved.block_size, initial_state, rng_key)
        )
    if not _is_traced(solution.status):
        report(Status(int(solution.status)), f" (defect {float(solution.defect):.2g})", stacklevel=4)
    return solution


def _planned(
    method: str, num_steps: int, mesh: Mesh | None, examine_it: Callable[[], Report]
) -> tuple[DEER | Sequential, Float[np.ndarray, "R D"] | None, Mesh | None]:
    """The evaluation that a check plans, first guesses of block starts, and the devices to use."""
    try:
        found = examine_it()
    except NotImplementedError as error:
        warnings.warn(f"{WITHOUT_BATCHING} ({error}).", ParallelStallWarning, stacklevel=4)
        return Sequential(), None, mesh
    if method == "auto":
        found.warn(stacklevel=5)
    resolved = found.plan.method if method == "auto" else parallel_method(found.plan.fallback, num_steps)
    return resolved, found.block_starts, first_devices(mesh, found.costs.num_devices)


def _is_traced(tree: PyTree) -> bool:
    """Whether a transformation of the caller's is looking: values are not known."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _examine(
    dynamics: AlgorithmDynamics,
    state: PyTree,
    start: Vector,
    rng_key: Array,
    num_steps: int,
    mesh: Mesh | None,
    costs: StepCosts | None,
) -> Report:
    if costs is not None:  # the caller's, which are not taken for measured ones later
        return examine(dynamics, state, start, rng_key, num_steps, costs=costs, mesh=mesh)
    chains = (dynamics, Conditions.of(dynamics, start, num_steps, 1, mesh), mesh)
    found = examine(dynamics, state, start, rng_key, num_steps, costs=known_costs(chains), mesh=mesh)
    remember_costs(chains, found.costs)
    return found


def checked_method(method: Any, num_steps: int) -> Method:
    """The `method` argument, with names of explicit settings resolved."""
    if isinstance(method, DEER):
        if method.block_size > num_steps:
            raise ValueError(f"block_size={method.block_size} exceeds the {num_steps} steps of the chain.")
        return method
    if isinstance(method, Sequential):
        return method
    checked_choice("method", method, ("auto", "deer", "sequential"))
    return Sequential() if method == "sequential" else method


def parallel_method(planned: DEER | None, num_steps: int) -> DEER:
    """The planned parallel settings; without any, 64 coalescing blocks, which are finished sequentially if need be."""
    return planned or DEER(block_size=ceil_div(num_steps, 64), linearization=Zero())


@outermost_jit(0, 1)
def _run_sequentially(
    dynamics: AlgorithmDynamics, num_steps: int, state: PyTree, start: Vector, rng_key: Array
) -> Solution:
    transition, inputs = dynamics(state, rng_key, num_steps)
    return rolled_out(transition, start, inputs)


def _run_in_blocks(
    dynamics: AlgorithmDynamics,
    num_steps: int,
    method: DEER,
    mesh: Mesh | None,
    state: PyTree,
    start: Vector,
    rng_key: Array,
    guesses: Float[Array | np.ndarray, "R D"] | None,
) -> Solution:
    """Sweeps in a programme that serves runs of similar length; what it found is left for `in_order`."""
    room = Room.for_blocks(ceil_div(num_steps, method.block_size), method.block_size)
    num_inputs = room.num_blocks * room.block_size if is_numbered(rng_key) else num_steps
    settings = replace(method, block_size=room.block_size)
    cut = (jnp.asarray(num_steps), jnp.asarray(method.block_size))
    return _run_lanes(dynamics, room, num_inputs, settings, mesh, cut, state, start, rng_key, guesses)


@outermost_jit(0, 1, 2, 3, 4)
def _run_lanes(
    dynamics: AlgorithmDynamics,
    room: Room,
    num_inputs: int,
    method: DEER,
    mesh: Mesh | None,
    cut: tuple[Array, Array],
    state: PyTree,
    start: Vector,
    rng_key: Array,
    guesses: Float[Array | np.ndarray, "R D"] | None,
) -> Solution:
    transition, inputs = dynamics(state, rng_key, num_inputs)
    team = Team(mesh=mesh)
    grid = Grid(*cut, team.num_devices, room)
    starts = None if guesses is None else jnp.asarray(guesses)[jnp.arange(room.num_blocks) % guesses.shape[0]]
    return solve_lanes(transition, start, inputs, method, grid, team, block_starts=starts)._replace(states=None)


@outermost_jit(0, 1, 2, donated=(5,))
def _finish(
    dynamics: AlgorithmDynamics, num_steps: int, block_size: int, state: PyTree, rng_key: Array, solution: Solution
) -> Solution:
    return finish(*dynamics(state, rng_key, num_steps), solution, block_size)
