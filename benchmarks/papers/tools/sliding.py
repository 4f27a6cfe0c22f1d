"""A path solved in a window that slides on as soon as its leading steps have met.

For paths whose Jacobians do not all fit in memory, or whose far end would be corrected in vain while its beginning is
still wrong (Zoltowski et al., arXiv 2508.18413). A window's states beyond its exact prefix are the initial guess of the
next window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from parsample.chain.transition import Inputs, Transition, Vector, as_inputs, from_step
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.validation import checked_count, checked_recursion
from parsample.solver.finish import completed, finish
from parsample.solver.grid import Grid
from parsample.solver.method import DEER
from parsample.solver.newton import solve
from parsample.solver.solution import Solution, sequential_solution
from parsample.solver.status import Status, warn_of

# A window slides on once this fraction of it has met.
SLIDE_AT = 0.5


def deer_in_windows(
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    window: int,
    initial_guess: PyTree = None,
    rng_key: Array | None = None,
    **settings: Any,
) -> Solution:
    """`parsample.deer` of `window` steps at a time, on one device; other settings are those of `parsample.DEER`."""
    entries, method = as_inputs(inputs), DEER(**settings)
    checked_recursion(step, initial_state, entries.sequence)
    if checked_count("window", window, method.block_size) > entries.num_steps:
        raise ValueError(f"window={window} exceeds the T={entries.num_steps} steps of inputs.")
    solution = _deer_in_windows(step, method, window, initial_state, entries, initial_guess, rng_key)
    solution = completed(solution, None, partial(_finish, step, method.block_size, initial_state, entries))
    warn_of(Status(int(solution.status)), f" (defect {float(solution.defect):.2g})")
    return solution


@jit_with_xla_options(3)
def _deer_in_windows(
    step: Callable,
    method: DEER,
    window: int,
    initial_state: PyTree,
    inputs: Inputs,
    guess: PyTree,
    rng_key: Array | None,
) -> Solution:
    transition, start = from_step(step, initial_state)
    path = None if guess is None else jax.vmap(transition.reduce)(guess)
    solution = slide(transition, start, inputs, method, window, guess=path, probe_key=rng_key)
    return solution._replace(states=jax.vmap(transition.restore)(solution.states))


@jit_with_xla_options(2)
def _finish(step: Callable, block_size: int, initial_state: PyTree, inputs: Inputs, solution: Solution) -> Solution:
    transition, _ = from_step(step, initial_state)
    solution = solution._replace(states=jax.vmap(transition.reduce)(solution.states))
    solution = finish(transition, inputs, solution, block_size)
    return solution._replace(states=jax.vmap(transition.restore)(solution.states))


class _Windows(NamedTuple):
    """Loop state: the current window, and totals of the windows before it."""

    first: Int[Array, ""]  # steps of the path before this window
    path: Float[Array, "T D"]
    guesses: Float[Array, "C D"]
    num_iters: Int[Array, ""]
    work: Float[Array, ""]
    defect: Float[Array, ""]
    exact_prefix: Int[Array, ""]
    status: Int[Array, ""]  # -1 while running


@dataclass(frozen=True)
class _Path:
    """A path and how its windows are solved; arguments as of `slide`."""

    transition: Transition
    start: Vector
    inputs: Inputs
    method: DEER
    window: int
    guess: Float[Array, "T D"] | None
    scale: Vector | None
    probe_key: Array | None

    def starts_at(self, path: Array, first: Array, known: Array | int) -> Array:
        """Block starts of the window at `first`; beyond the `known` steps of `path`, the last known state."""
        at = jnp.minimum(first + Grid(self.window, self.method.block_size).places_before(), known - 1)
        guesses = jnp.where(at[:, None] < 0, self.start[None], path[jnp.maximum(at, 0)])
        # Replace guesses that are not finite, which would stay so, by the first start, which is exact.
        return jnp.where(jnp.isfinite(guesses).all(-1, keepdims=True), guesses, guesses[:1])

    def solved(self, windows: _Windows) -> _Windows:
        """The windows after one more has been solved."""
        num_steps, window = self.inputs.num_steps, self.window
        is_last = windows.first == num_steps - window
        entries = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, windows.first, window), self.inputs.sequence
        )
        found = solve(
            self.transition,
            jnp.where(windows.first == 0, self.start, windows.path[jnp.maximum(windows.first - 1, 0)]),
            self.inputs._replace(sequence=entries),
            self.method,
            block_starts=windows.guesses,
            scale=self.scale,
            probe_key=self.probe_key,
            num_required_steps=jnp.where(is_last, window, max(1, int(SLIDE_AT * window))),
        )
        path = jax.lax.dynamic_update_slice_in_dim(windows.path, found.states, windows.first, 0)
        first = jnp.minimum(windows.first + found.exact_prefix, num_steps - window)
        going_on = (found.status == int(Status.CONVERGED)) & ~is_last
        return _Windows(
            first=jnp.where(going_on, first, windows.first),
            path=path,
            guesses=self.starts_at(path, first, windows.first + window if self.guess is None else num_steps),
            num_iters=windows.num_iters + found.num_iters,
            work=windows.work + found.evals_per_step * window,
            defect=jnp.maximum(found.defect, windows.defect),
            exact_prefix=windows.first + found.exact_prefix,
            status=jnp.where(going_on, -1, found.status),
        )


def slide(  # noqa: PLR0913
    transition: Transition,
    start: Vector,
    inputs: Inputs,
    method: DEER,
    window: int,
    *,
    guess: Float[Array, "T D"] | None = None,
    scale: Vector | None = None,
    probe_key: Array | None = None,
) -> Solution:
    """Solve the path of `transition`, `window` steps at a time; shapes and arguments as for `newton.solve`.

    Sweeps are counted over all windows; histories are not kept. A window that stalls is the last, and `finish`
    evaluates the rest of the path.
    """
    num_steps, dtype = inputs.num_steps, start.dtype
    if method.max_iters is not None:
        raise ValueError("max_iters does not go with window=: a window slides on when its leading steps have met.")
    whole = _Path(transition, start, inputs, method, window, guess, scale, probe_key)
    path = jnp.broadcast_to(start, (num_steps, *start.shape)) if guess is None else guess
    zero, none = jnp.zeros((), dtype), jnp.asarray(0)
    begin = _Windows(none, path, whole.starts_at(path, none, num_steps), none, zero, zero, none, jnp.asarray(-1))
    last = jax.lax.while_loop(lambda windows: windows.status < 0, whole.solved, begin)
    # The work of a stalled window includes its own rest; steps beyond the window are evaluated step by step too.
    beyond = jnp.where(last.status == int(Status.STALLED), num_steps - window - last.first, 0)
    ends = Grid(num_steps, method.block_size).places_last()
    final = transition.restore(last.path[jnp.maximum(last.exact_prefix - 1, 0)])
    return sequential_solution(start, True, num_steps, None, final)._replace(
        states=last.path,
        block_ends=last.path[ends],
        status=last.status,
        defect=last.defect,
        num_iters=last.num_iters,
        evals_per_step=(last.work + beyond) / num_steps,
        exact_prefix=last.exact_prefix,
        block_defects=jnp.zeros((0, ends.size), dtype),
    )
