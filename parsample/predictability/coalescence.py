"""Coalescence: the steps until paths of one chain from different starts, with the same randomness, meet.

Coalescence times include the jumps of accept-reject decisions, which derivatives miss. Parallel blocks depend on them:
a block whose start was guessed is right from the step at which it meets the chain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample.chain.transition import Inputs, Transition, Vector, as_inputs, from_step, rollout
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.trees import on_device
from parsample.internal.validation import checked_number, checked_recursion, checked_scale
from parsample.solver.tolerance import Tolerance, default_tolerance


class Coalescence(NamedTuple):
    """How paths with shared randomness approach each other.

    Attributes
    ----------
    times
        Steps after which each path stays within tolerance of the first one, shape (R - 1,); inf where it never does.
    distances
        Largest coordinate difference to the first path after each step, in units of the scale, shape (T, R - 1).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> found = parsample.coalescence_times(lambda s, u: 0.5 * s + u, jnp.array([[0.0], [1.0]]), jnp.ones(200))
    >>> found.times.shape, found.distances.shape
    ((1,), (200, 1))
    """

    times: Float[Array, " R"]
    distances: Float[Array, "T R"]


def coalescence_times(
    step: Callable,
    initial_states: PyTree,
    inputs: PyTree,
    *,
    scale: PyTree | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> Coalescence:
    """Steps until paths of ``state = step(state, input)`` from different starts, with the same inputs, meet.

    Parameters
    ----------
    step
        ``step(state, input) -> state``.
    initial_states
        Pytree with leading axis R >= 2; the other paths are compared with the first.
    inputs
        Pytree with leading axis T, shared by all paths.
    scale
        Pytree like one state: the unit of distances in each coordinate. None: standard deviations of the first
        path.
    atol, rtol
        Tolerance as in `parsample.DEER`.

    Returns
    -------
    Coalescence

    Raises
    ------
    ValueError
        If there are fewer than two starts, or `inputs` do not share a leading axis.

    Examples
    --------
    A difference that halves in every step is below the tolerance within 60 steps:

    >>> import jax, jax.numpy as jnp, parsample
    >>> found = parsample.coalescence_times(lambda s, u: 0.5 * s + u, jnp.array([[0.0], [1.0]]), jnp.ones(200))
    >>> bool(found.times[0] < 60)
    True
    """
    entries = as_inputs(inputs)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(initial_states)}
    if len(lengths) != 1 or lengths.pop() in ((), (0,), (1,)):
        shapes = jax.tree.map(jnp.shape, initial_states)
        raise ValueError(
            f"initial_states needs one leading axis of at least 2 starts in all arrays; got shapes {shapes}."
        )
    initial_states = on_device(initial_states)
    first_state = jax.tree.map(lambda leaf: jnp.unstack(leaf)[0], initial_states)
    checked_recursion(step, first_state, entries.sequence)
    atol = None if atol is None else checked_number("atol", atol)
    rtol = None if rtol is None else checked_number("rtol", rtol)
    units = None if scale is None else checked_scale(scale, first_state, "one state")
    return _coalescence(step, atol, rtol, initial_states, entries, units)


@jit_with_xla_options(3)
def _coalescence(
    step: Callable,
    atol: float | None,
    rtol: float | None,
    initial_states: PyTree,
    inputs: Inputs,
    units: Vector | None,
) -> Coalescence:
    transition, first = from_step(step, jax.tree.map(lambda leaf: leaf[0], initial_states))
    starts = jax.vmap(lambda state: ravel_pytree(state)[0])(initial_states)
    units = unit_of(rollout(transition, first, inputs)[1]) if units is None else units
    return _coalesce(transition, starts, inputs, default_tolerance(units, atol, rtol))


def unit_of(states: Float[Array, "T D"]) -> Vector:
    """Standard deviation of states in each coordinate; 1 for a coordinate that never changes."""
    spread = states.std(0)
    return jnp.where(spread > 0, spread, 1)


def _coalesce(transition: Transition, starts: Float[Array, "R D"], inputs: Inputs, tolerance: Tolerance) -> Coalescence:
    """Run paths from all starts on the same inputs, and measure their distance to the first."""
    num_steps, num_others = inputs.num_steps, starts.shape[0] - 1

    def advance(loop: tuple, t: Array) -> tuple[tuple, Float[Array, " R"]]:
        carries, last_apart = loop
        carries = jax.vmap(lambda carry: transition.step(carry, inputs.at(t))[0])(carries)
        states = jax.vmap(transition.reduce)(carries)
        difference = states[1:] - states[:1]
        apart = ~tolerance.accepts(difference, states[1:])
        return (carries, jnp.where(apart, t + 1, last_apart)), tolerance.size(difference)

    begin = (jax.vmap(transition.restore)(starts), jnp.zeros((num_others,), int))
    (_, last_apart), distances = jax.lax.scan(advance, begin, jnp.arange(num_steps))
    # A path that was apart after step n - 1 met at step n; one that was apart at the end has not met.
    times = jnp.where(last_apart < num_steps, (last_apart + 1).astype(starts.dtype), jnp.inf)
    return Coalescence(times, distances)
