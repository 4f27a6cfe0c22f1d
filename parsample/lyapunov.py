"""How fast a chain forgets: its largest Lyapunov exponent, and the steps until two paths meet.

The exponent (LLE) is the mean log growth of a small difference between two paths that share their randomness, in
nats per step. Negative: the chain is predictable, and can be evaluated in parallel (Gonzalez et al., arXiv 2508.16817).
It cannot see the jumps of accept-reject decisions; coalescence can, so both are measured.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from parsample.grid import ALONE, Team
from parsample.linearize import push_forward
from parsample.sweep import Tolerance, default_tolerance
from parsample.transition import Inputs, Transition, Vector, as_inputs, from_step, rollout, write
from parsample.validation import checked_recursion


class LyapunovExponent(NamedTuple):
    """The largest Lyapunov exponent of a chain.

    Attributes
    ----------
    lle
        Mean log growth of a tangent, nats per step.
    se
        Standard error of `lle` by batch means, nats per step.
    growth
        Log growth in each step, shape (T,), the discarded ones included.
    """

    lle: Float[Array, ""]
    se: Float[Array, ""]
    growth: Float[Array, " T"]


class Coalescence(NamedTuple):
    """How paths with shared randomness approach each other.

    Attributes
    ----------
    times
        Steps after which each path stays within tolerance of the first one, shape (R - 1,); inf where it never does.
    distances
        Largest coordinate difference to the first path after each step, in units of the scale, shape (T, R - 1).
    """

    times: Float[Array, " R"]
    distances: Float[Array, "T R"]


def lyapunov_exponent(
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    rng_key: Array | None = None,
    num_discarded: int = 0,
    num_batches: int = 20,
) -> LyapunovExponent:
    """Largest Lyapunov exponent of ``state = step(state, input)`` along its path.

    One random tangent is carried along by forward differentiation and rescaled at every step (Benettin et al. 1980).

    Parameters
    ----------
    step
        ``step(state, input) -> state``, differentiable in forward mode.
    initial_state
        Pytree of floating-point arrays.
    inputs
        Pytree with leading axis T.
    rng_key
        Key of the first tangent.
    num_discarded
        Leading steps left out of the mean: those the chain takes to forget its start and the tangent to turn into
        the leading direction.
    num_batches
        Number of batches of the standard error.

    Returns
    -------
    LyapunovExponent
        In nats per step; ``-inf`` if the state is forgotten altogether in some step.

    Raises
    ------
    ValueError
        If fewer steps than batches are left, or `inputs` do not share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    transition, start = from_step(step, initial_state)
    if not 0 <= num_discarded <= entries.num_steps - num_batches or num_batches < 2:
        raise ValueError(
            f"num_discarded={num_discarded} of T={entries.num_steps} steps leaves too few for "
            f"num_batches={num_batches} batches (at least 2): give more steps or discard fewer."
        )
    key = jax.random.key(0) if rng_key is None else rng_key
    growth, _ = log_growth(transition, start, entries, key)
    return LyapunovExponent(*batch_means(growth[num_discarded:], num_batches), growth)


def log_growth(
    transition: Transition, start: Vector, inputs: Inputs, rng_key: Array
) -> tuple[Float[Array, " T"], Float[Array, "T D"]]:
    """Log growth of a tangent in each step, and the reduced states it was carried along."""
    direction = jax.random.normal(rng_key, start.shape, start.dtype)
    direction = direction / jnp.linalg.norm(direction)
    carry, tangents, _ = push_forward(lambda x: (transition.restore(x), None), start, [direction[None]])

    def advance(loop: tuple, t: Array) -> tuple[tuple, tuple]:
        carry, tangents, length = loop
        carry, tangents, _ = push_forward(lambda c: transition.step(c, inputs.at(t)), carry, tangents)
        state, images, _ = push_forward(lambda c: (transition.reduce(c), None), carry, tangents)
        new_length = jnp.linalg.norm(images[0])
        # Rescaling by a power of two is exact: a step that changes nothing adds exactly 0.
        mantissa, exponent = jnp.frexp(new_length)
        tangents = jax.tree.map(lambda tangent: jnp.ldexp(tangent, -exponent), tangents)
        return (carry, tangents, mantissa), (jnp.log(new_length / jnp.where(length > 0, length, 1)), state)

    begin = (carry, tangents, jnp.linalg.norm(direction))
    _, (growth, path) = jax.lax.scan(advance, begin, jnp.arange(inputs.num_steps))
    return growth, path


def batch_means(values: Float[Array, "... T"], num_batches: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over all axes, and its standard error from `num_batches` batches of consecutive steps per leading entry."""
    length = values.shape[-1] // num_batches
    batches = values[..., : num_batches * length].reshape(-1, length).mean(-1)
    return values.mean(), batches.std(ddof=1) / jnp.sqrt(batches.size)


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
        Pytree like one state: the unit of distances, coordinate by coordinate. None: standard deviations of the first
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
    """
    entries = as_inputs(inputs)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(initial_states)}
    if len(lengths) != 1 or lengths.pop() in ((), (0,), (1,)):
        shapes = jax.tree.map(jnp.shape, initial_states)
        raise ValueError(
            f"initial_states needs one leading axis of at least 2 starts in all arrays; got shapes {shapes}."
        )
    first_state = jax.tree.map(lambda leaf: leaf[0], initial_states)
    checked_recursion(step, first_state, entries.sequence)
    transition, first = from_step(step, first_state)
    starts = jax.vmap(lambda state: ravel_pytree(state)[0])(initial_states)
    if scale is None:
        _, path, _ = rollout(transition, first, entries)
        units = unit_of(path)
    else:
        units = ravel_pytree(scale)[0]
    tolerance = default_tolerance(units, atol, rtol)
    return coalesce(transition, starts, entries, tolerance, stop_early=False)[0]


def unit_of(states: Float[Array, "T D"]) -> Vector:
    """Standard deviation of states in each coordinate; 1 where they do not move."""
    spread = states.std(0)
    return jnp.where(spread > 0, spread, 1)


def coalesce(
    transition: Transition,
    starts: Float[Array, "R D"],
    inputs: Inputs,
    tolerance: Tolerance,
    *,
    stop_early: bool,
    max_steps: Int[Array, ""] | int | None = None,
    team: Team = ALONE,
) -> tuple[Coalescence, Int[Array, ""]]:
    """Run paths from all starts on the same inputs, and measure their distance to the first.

    With `stop_early` the run ends once all paths, of every group in lockstep, are within tolerance at
    the same time, in any case after `max_steps`; distances beyond are NaN. Also returns the number of steps run.
    """
    num_steps, num_others = inputs.num_steps, starts.shape[0] - 1
    reduce = jax.vmap(transition.reduce)

    def advance(loop: tuple) -> tuple:
        t, _, last_apart, carries, distances = loop
        carries = jax.vmap(lambda carry, entry: transition.step(carry, entry)[0], in_axes=(0, None))(
            carries, inputs.at(t)
        )
        states = reduce(carries)
        difference = states[1:] - states[:1]
        apart = ~tolerance.accepts(difference, states[1:])
        distances = write(distances, tolerance.size(difference), t)
        return t + 1, team.least(~apart.any()), jnp.where(apart, t + 1, last_apart), carries, distances

    def unfinished(loop: tuple) -> Array:
        t, all_met = loop[:2]
        return (t < (num_steps if max_steps is None else max_steps)) & ~(all_met & stop_early)

    distances = jnp.full((num_steps, num_others), jnp.nan, starts.dtype)
    begin = (jnp.asarray(0), jnp.asarray(False), jnp.zeros((num_others,), int))
    num_run, _, last_apart, _, distances = jax.lax.while_loop(
        unfinished, advance, (*begin, jax.vmap(transition.restore)(starts), distances)
    )
    # A path that was apart after step n - 1 met at step n; one that was apart at the end has not met.
    met = last_apart < num_run
    times = jnp.where(met, last_apart + 1, jnp.inf).astype(starts.dtype)
    return Coalescence(times, distances), num_run
