"""A drop-in for ``blackjax.util.run_inference_algorithm`` that evaluates the same chain in parallel."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.chain.blackjax_chain import (
    AlgorithmDynamics,
    begin,
    check_determined_fields,
    check_state,
    from_algorithm,
)
from parsample.chain.transition import Vector
from parsample.internal.arithmetic import ceil_div
from parsample.internal.compilation import is_transformed, jit_with_xla_options
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.trees import on_device
from parsample.internal.validation import (
    batching_needed,
    checked_choice,
    checked_count,
    checked_key,
    checked_position,
    checked_start,
)
from parsample.samplers.chain_run import AFTER_STEPS, evaluate_chain
from parsample.solver.finish import completed, finish, warn_of_solution
from parsample.solver.linearization import Zero
from parsample.solver.method import DEER, Sequential
from parsample.solver.newton import solve
from parsample.solver.solution import Solution, rolled_out

if TYPE_CHECKING:
    import blackjax.base

# Blocks per chain under a transformation such as ``jax.jit``, where nothing can be timed.
NUM_TRACED_BLOCKS = 64

Method = DEER | Sequential | Literal["auto", "deer", "sequential"]


def state_and_info(state: Any, info: Any) -> tuple[Any, Any]:
    """BlackJAX's default transform, which keeps states and infos."""
    return state, info


def run_inference_algorithm(  # noqa: PLR0913
    rng_key: Array,
    inference_algorithm: "blackjax.base.SamplingAlgorithm",
    num_steps: int,
    initial_state: PyTree = None,
    initial_position: PyTree = None,
    transform: Callable = state_and_info,
    *,
    method: Method = "auto",
    devices: Sequence[jax.Device] | None = None,
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
        ``transform(state, info)`` computes the entry of the history for each step, inside the compiled program.
    method
        "auto": in blocks while these meet and are expected to be faster than single steps, else step by step; "deer":
        in blocks; "sequential": step by step; or explicit `parsample.DEER` or `parsample.Sequential` settings. Under
        ``jax.jit`` or ``jax.vmap`` nothing can be timed, so "auto" means "sequential", and "deer" means 64 blocks with
        `parsample.Zero`, finished step by step if they do not meet.
    devices
        JAX devices that share the blocks; None: all local ones, or the device that a transformation runs on. The chain
        does not depend on them. If the devices belong to several processes, each process must make this call; the
        arguments of the first process are used, and each process gets the whole chain.

    Returns
    -------
    final_state, history
        The state after step T, and the transformed states and infos with leading axis T.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable; the message names the argument, its value and the remedy.

    Warns
    -----
    ParallelStallWarning
        If the chain will not be, or was not, evaluated in parallel.
    UncertifiedChainWarning
        If the path was stopped at the `max_iters` of `parsample.DEER`, or is not finite. Under a transformation neither
        warning is issued.

    References
    ----------
    Evaluation in parallel over the length of a chain: Lim et al., arXiv 2309.12252, and Zoltowski et al., arXiv
    2508.18413.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> import blackjax
    >>> algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(x**2), 0.9, jnp.ones(2), 3)
    >>> final_state, (states, infos) = parsample.run_inference_algorithm(
    ...     jax.random.key(0), algorithm, 1000, initial_position=jnp.zeros(2)
    ... )
    >>> states.position.shape
    (1000, 2)
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
    )
    return solution.final, solution.outputs


def evaluate_inference_algorithm(  # noqa: PLR0913
    rng_key: Array,
    inference_algorithm: "blackjax.base.SamplingAlgorithm",
    num_steps: int,
    initial_state: PyTree = None,
    initial_position: PyTree = None,
    transform: Callable = state_and_info,
    *,
    method: Method = "auto",
    devices: Sequence[jax.Device] | None = None,
) -> Solution:
    """Run a BlackJAX algorithm like `run_inference_algorithm`, and return the chain with its certificate.

    Parameters
    ----------
    rng_key, inference_algorithm, num_steps, initial_state, initial_position, transform, method, devices
        As for `run_inference_algorithm`.

    Returns
    -------
    Solution
        History in ``outputs`` with leading axis T, last state in ``final``, and certificate; ``states`` is None.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable.

    Warns
    -----
    ParallelStallWarning
        If the chain will not be, or was not, evaluated in parallel.
    UncertifiedChainWarning
        If the path was stopped at the `max_iters` of `parsample.DEER`, or is not finite. Under a transformation neither
        warning is issued; the status is in the solution.

    References
    ----------
    Evaluation in parallel over the length of a chain: Lim et al., arXiv 2309.12252, and Zoltowski et al., arXiv
    2508.18413.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> import blackjax
    >>> algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(x**2), 0.9, jnp.ones(2), 3)
    >>> solution = parsample.evaluate_inference_algorithm(
    ...     jax.random.key(0), algorithm, 1000, initial_position=jnp.zeros(2), method="sequential"
    ... )
    >>> parsample.Status(int(solution.status)).name, float(solution.evals_per_step)
    ('SEQUENTIAL', 1.0)
    """
    checked_count("num_steps", num_steps)
    rng_key = checked_key(rng_key)
    resolved = checked_method(method, num_steps)
    transformed = is_transformed()
    mesh = None if transformed and devices is None else mesh_of(devices)
    dynamics = AlgorithmDynamics(inference_algorithm, transform)
    rng_key, initial_state, start = _started(
        dynamics, rng_key, initial_state, initial_position, may_check=not transformed
    )
    rng_key, initial_state, start = broadcast_from_first(mesh, (rng_key, initial_state, start))
    if resolved == "auto" and transformed:
        resolved = Sequential()
    elif resolved == "deer" and transformed:
        resolved = DEER(ceil_div(num_steps, NUM_TRACED_BLOCKS), Zero())
    if isinstance(resolved, str):
        solution = evaluate_chain(dynamics, initial_state, rng_key, num_steps, mesh, may_end_blocks=resolved == "auto")
    elif isinstance(resolved, Sequential):
        solution = _run_sequentially(dynamics, num_steps, initial_state, start, rng_key)
    else:
        with batching_needed("method=DEER(...)"):
            solution = _run_in_blocks(dynamics, num_steps, resolved, mesh, initial_state, start, rng_key)
        finish_stalled = partial(_finish, dynamics, num_steps, resolved.block_size, initial_state, rng_key)
        solution = completed(solution, mesh, finish_stalled)
        if not transformed:
            check_determined_fields(dynamics, solution.final, AFTER_STEPS)
    warn_of_solution(solution)
    return solution


def _started(
    dynamics: AlgorithmDynamics, rng_key: Array, initial_state: PyTree, initial_position: PyTree, *, may_check: bool
) -> tuple[Array, PyTree, Vector]:
    """Key of the chain, checked initial state and reduced initial state."""
    if (initial_state is None) == (initial_position is None):
        raise ValueError("Exactly one of initial_state and initial_position must be given.")
    if initial_state is None:
        rng_key, initial_state, start = begin(dynamics, rng_key, checked_position(initial_position))
    else:
        initial_state = on_device(initial_state)  # `init` keeps Python numbers
        if hasattr(initial_state, "position"):
            checked_position(initial_state.position, "initial_state.position")
        _, start = from_algorithm(dynamics.algorithm, initial_state, dynamics.transform)
        check_state(dynamics.algorithm, initial_state)
        if may_check:
            check_determined_fields(dynamics, initial_state, "initial_state")
    checked_start(initial_state)
    return rng_key, initial_state, start


def checked_method(method: Any, num_steps: int) -> Method:
    """Validate the `method` argument, and turn "sequential" into `Sequential`."""
    if isinstance(method, DEER):
        if method.block_size > num_steps:
            raise ValueError(f"block_size={method.block_size} exceeds the {num_steps} steps of the chain.")
        return method
    if isinstance(method, Sequential):
        return method
    checked_choice("method", method, ("auto", "deer", "sequential"))
    return Sequential() if method == "sequential" else method


@jit_with_xla_options(2)
def _run_sequentially(
    dynamics: AlgorithmDynamics, num_steps: int, state: PyTree, start: Vector, rng_key: Array
) -> Solution:
    transition, inputs = dynamics(state, rng_key, num_steps)
    return rolled_out(transition, start, inputs)


@jit_with_xla_options(4)
def _run_in_blocks(
    dynamics: AlgorithmDynamics,
    num_steps: int,
    method: DEER,
    mesh: Mesh | None,
    state: PyTree,
    start: Vector,
    rng_key: Array,
) -> Solution:
    transition, inputs = dynamics(state, rng_key, num_steps)
    return solve(transition, start, inputs, method, mesh=mesh)._replace(states=None)


@jit_with_xla_options(3, donated=(5,))
def _finish(
    dynamics: AlgorithmDynamics, num_steps: int, block_size: int, state: PyTree, rng_key: Array, solution: Solution
) -> Solution:
    return finish(*dynamics(state, rng_key, num_steps), solution, block_size)
