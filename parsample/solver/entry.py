"""`deer` and `rollout` for any recursion ``state = step(state, input)``: the solver as users call it."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.chain.transition import Inputs, as_inputs, from_step
from parsample.chain.transition import rollout as sequential_rollout
from parsample.internal.compilation import is_being_compiled, jit_with_xla_options
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.trees import on_device
from parsample.internal.validation import batching_needed, checked_key, checked_recursion, checked_scale
from parsample.solver.corrections import Correction, Newton
from parsample.solver.finish import completed, finish, warn_of_solution
from parsample.solver.grid import Grid
from parsample.solver.linearization import Dense, Linearization
from parsample.solver.method import DEER
from parsample.solver.newton import solve
from parsample.solver.solution import Solution


def deer(  # noqa: PLR0913
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    block_size: int = 1,
    linearization: Linearization | None = None,
    initial_guess: PyTree = None,
    scale: PyTree = None,
    atol: float | None = None,
    rtol: float | None = None,
    max_iters: int | None = None,
    stall_after: int | None = None,
    clip: float | None = 1.0,
    max_step: float | None = 8.0,
    correction: Correction | None = None,
    rng_key: Array | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Solution:
    """The path of ``state = step(state, input)``, found in parallel over its length by block DEER.

    Solves ``s_t = f_t(s_{t-1})`` for all t at once, by Newton's method on the starts of blocks of `block_size` steps
    (Lim et al., arXiv 2309.12252; see `parsample.deer`). Works under ``jax.jit`` and ``jax.vmap``, and
    has no derivatives: differentiate `rollout`.

    Parameters
    ----------
    step
        ``step(state, input) -> state``, with the structure, shapes and dtypes of `initial_state`. Differentiable in
        forward mode, unless the linearization is `Zero` or `Identity`.
    initial_state
        Pytree of floating-point arrays: the state before the first step.
    inputs
        Pytree with leading axis T: the input of each step, random keys included. A recursion without inputs takes
        ``jnp.arange(T)``.
    block_size
        Steps per block, 1 to T; T need not be a multiple.
    linearization
        `Dense`, `Diagonal`, `Identity` or `Zero`; None: `Dense`.
    initial_guess
        Pytree like `initial_state` with leading axis T: a guess of the path. None: `initial_state` everywhere.
    scale
        Pytree like `initial_state`: standard deviation of the path, the unit of `atol` and of the defect. None:
        estimated from the path in each sweep.
    atol, rtol, max_iters, stall_after, clip, max_step
        See `parsample.DEER`.
    correction
        How block starts are corrected; None: `Newton`.
    rng_key
        Key of Hutchinson's probes; the solution does not depend on it beyond the tolerance.
    devices
        JAX devices that share the blocks. None: all local ones; inside ``jax.jit``, the one it runs on. If they belong
        to several processes, every process must make this call. Each gets the whole path, except under a
        transformation, where the path stays distributed over the devices.

    Returns
    -------
    Solution
        With states like `initial_state`, leading axis T.

    Raises
    ------
    ValueError, TypeError
        If arguments do not fit each other; the message names them.

    Warns
    -----
    ParallelStallWarning
        If the path was finished step by step; under a transformation only the status says so.
    UncertifiedChainWarning
        If the path was stopped at `max_iters`, or is not finite; under a transformation only the status says so.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> inputs = jax.random.normal(jax.random.key(0), (1000, 3))
    >>> solution = parsample.deer(lambda s, u: 0.5 * jnp.sin(s) + u, jnp.zeros(3), inputs, block_size=10)
    >>> parsample.Status(int(solution.status)).name, bool(solution.defect < 1e-4)
    ('CONVERGED', True)
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    num_steps = entries.num_steps
    settings = (atol, rtol, max_iters, stall_after, clip, max_step)
    method = DEER(block_size, linearization or Dense(), *settings, correction or Newton())
    if block_size > num_steps:
        raise ValueError(f"block_size={block_size} exceeds the T={num_steps} steps of inputs.")
    guess = None if initial_guess is None else _checked_guess(initial_guess, initial_state, num_steps)
    units = None if scale is None else checked_scale(scale, initial_state)
    key = None if rng_key is None else checked_key(rng_key)
    mesh = None if devices is None and is_being_compiled() else mesh_of(devices)
    initial_state, entries, guess, units, key = broadcast_from_first(mesh, (initial_state, entries, guess, units, key))
    with batching_needed("deer"):
        solution = _deer(step, method, mesh, initial_state, entries, guess, units, key)
    solution = completed(solution, mesh, partial(_finish, step, block_size, initial_state, entries))
    warn_of_solution(solution)
    return solution


@jit_with_xla_options(3)
def _deer(  # noqa: PLR0913
    step: Callable,
    method: DEER,
    mesh: Mesh | None,
    initial_state: PyTree,
    inputs: Inputs,
    guess: PyTree,
    scale: Array | None,
    rng_key: Array | None,
) -> Solution:
    transition, start = from_step(step, initial_state)
    path = None if guess is None else jax.vmap(transition.reduce)(guess)
    places = jnp.maximum(Grid(inputs.num_steps, method.block_size).places_before(), 0)
    starts = None if path is None else path[places]
    solution = solve(transition, start, inputs, method, block_starts=starts, scale=scale, probe_key=rng_key, mesh=mesh)
    return solution._replace(states=jax.vmap(transition.restore)(solution.states))


@jit_with_xla_options(2, donated=(4,))
def _finish(step: Callable, block_size: int, initial_state: PyTree, inputs: Inputs, solution: Solution) -> Solution:
    transition, _ = from_step(step, initial_state)
    solution = solution._replace(states=jax.vmap(transition.reduce)(solution.states))
    solution = finish(transition, inputs, solution, block_size)
    return solution._replace(states=jax.vmap(transition.restore)(solution.states))


def rollout(step: Callable, initial_state: PyTree, inputs: PyTree) -> PyTree:
    """The path of ``state = step(state, input)``, evaluated step by step: the reference for `deer`.

    Parameters
    ----------
    step, initial_state, inputs
        As for `deer`.

    Returns
    -------
    PyTree
        States after each step, like `initial_state` with leading axis T.

    Raises
    ------
    ValueError, TypeError
        If arguments do not fit each other; the message names them.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> parsample.rollout(lambda s, u: s + u, jnp.zeros(()), jnp.ones(4)).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    return _rollout(step, initial_state, entries)


@jit_with_xla_options(1)
def _rollout(step: Callable, initial_state: PyTree, inputs: Inputs) -> PyTree:
    transition, start = from_step(step, initial_state)
    _, path, _ = sequential_rollout(transition, start, inputs)
    return jax.vmap(transition.restore)(path)


def _checked_guess(guess: PyTree, initial_state: PyTree, num_steps: int) -> PyTree:
    paths = jax.tree.map(jnp.shape, guess)
    wanted = jax.tree.map(lambda leaf: (num_steps, *jnp.shape(leaf)), initial_state)
    if paths != wanted:
        raise ValueError(f"initial_guess has shapes {paths}; it must have those of the path, {wanted}.")
    return jax.tree.map(lambda leaf, like: on_device(leaf, jnp.result_type(like)), guess, initial_state)
