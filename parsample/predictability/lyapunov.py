"""The largest Lyapunov exponent of a chain, from its derivatives: how fast the chain forgets its start.

The largest exponent (LLE) is the mean log growth of a small difference between two paths that share their randomness.
Negative: the chain is predictable, and can be evaluated in parallel (Gonzalez et al., arXiv 2508.16817). Exponents are
in nats per step, or per unit of time if a step takes time `dt`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.chain.transition import Inputs, Transition, Vector, as_inputs, from_step
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.validation import as_number, checked_count, checked_key, checked_recursion
from parsample.solver.linearization import push_forward


class LyapunovExponent(NamedTuple):
    """The largest Lyapunov exponent of a chain, and the growth of its tangents in each step.

    Attributes
    ----------
    lle
        Mean log growth of all tangents after the discarded steps, nats per step, or per unit of time.
    se
        Standard error of `lle` by batch means, in the same unit.
    spread
        Standard deviation of the exponent between tangents from different directions, in the same unit; None for P = 1.
    growth
        Log growth of each tangent in each step, nats, shape (P, T), the discarded ones included.
    num_discarded
        Leading steps left out of `lle`.
    dt
        Time of a step.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> found = parsample.lyapunov_exponent(lambda s, u: 0.5 * s + u, jnp.zeros(2), jnp.ones(100), num_probes=3)
    >>> found.growth.shape
    (3, 100)
    """

    lle: Float[Array, ""]
    se: Float[Array, ""]
    spread: Float[Array, ""] | None
    growth: Float[Array, "P T"]
    num_discarded: int
    dt: float


def lyapunov_exponent(  # noqa: PLR0913
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    rng_key: Array | None = None,
    num_probes: int = 1,
    num_discarded: int = 0,
    num_batches: int = 20,
    dt: float = 1.0,
) -> LyapunovExponent:
    """Largest Lyapunov exponent of ``state = step(state, input)`` along its path.

    Random tangents are propagated by forward differentiation and rescaled at every step (Benettin et al. 1980), at a
    cost of O(T D) each.

    Parameters
    ----------
    step
        ``step(state, input) -> state``, differentiable in forward mode.
    initial_state
        Pytree of floating-point arrays.
    inputs
        Pytree with leading axis T.
    rng_key
        Key of the initial tangents.
    num_probes
        Number of tangents P.
    num_discarded
        Leading steps left out of the mean, while the chain forgets its start and the tangents turn into the leading
        direction.
    num_batches
        Number of batches of the standard error.
    dt
        Time of a step, for a discretised flow: exponents are then per unit of time.

    Returns
    -------
    LyapunovExponent
        In nats per step, or per unit of time; ``-inf`` if the derivative of some step is zero.

    Raises
    ------
    ValueError
        If fewer steps than batches are left, or `inputs` do not share a leading axis.

    Examples
    --------
    Every difference halves in every step, so the exponent is log(1/2):

    >>> import jax, jax.numpy as jnp, parsample
    >>> found = parsample.lyapunov_exponent(lambda s, u: 0.5 * s + u, jnp.zeros(2), jnp.ones(100))
    >>> round(float(found.lle), 3)
    -0.693
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    checked_count("num_probes", num_probes)
    check_batches(entries.num_steps, num_discarded, num_batches)
    check_dt(dt)
    key = None if rng_key is None else checked_key(rng_key)
    numbers = (num_probes, num_discarded, num_batches)
    lle, se, spread, growth = _measured(step, numbers, initial_state, entries, key, dt)
    return LyapunovExponent(lle, se, spread, growth, num_discarded, dt)


@jit_with_xla_options(2)
def _measured(
    step: Callable,
    numbers: tuple[int, int, int],
    initial_state: PyTree,
    inputs: Inputs,
    rng_key: Array | None,
    dt: float | Array,
) -> tuple[Array, Array, Array | None, Array]:
    """Exponent, its standard error, its spread and the growth; `numbers` are those of probes, left out and batches."""
    num_probes, num_discarded, num_batches = numbers
    transition, start = from_step(step, initial_state)
    key = jax.random.key(0) if rng_key is None else rng_key
    growth, _ = log_growth(transition, start, inputs, key, num_probes)
    counted = growth[:, num_discarded:]
    # All tangents of one path turn into the same direction, so they are not independent measurements.
    lle, se = batch_means(counted.mean(0), num_batches)
    spread = counted.mean(1).std(ddof=1) / dt if num_probes > 1 else None
    return lle / dt, se / dt, spread, growth


def check_batches(num_steps: int, num_discarded: int, num_batches: int) -> None:
    """Raise ValueError unless every batch gets at least one step."""
    checked_count("num_discarded", num_discarded, 0)
    if num_discarded > num_steps - checked_count("num_batches", num_batches, 2):
        raise ValueError(
            f"num_discarded={num_discarded} of T={num_steps} steps leaves too few for "
            f"num_batches={num_batches} batches: give more steps or discard fewer."
        )


def check_dt(dt: float) -> None:
    """Raise ValueError unless `dt` is positive and finite."""
    if not 0 < as_number(dt) < np.inf:
        raise ValueError(f"dt must be positive and finite; got {dt!r}.")


def carried(
    transition: Transition, moving: tuple[PyTree, list, Float[Array, " P"]], driven: PyTree
) -> tuple[tuple[PyTree, list, Float[Array, " P"]], Float[Array, " P"], Vector]:
    """Carry, tangents and their lengths after one step; the tangents' log growth in it, nats; the reduced state."""
    carry, tangents, lengths = moving
    carry, tangents, _ = push_forward(lambda c: transition.step(c, driven), carry, tangents)
    state, output_tangents, _ = push_forward(lambda c: (transition.reduce(c), None), carry, tangents)
    new = jnp.linalg.norm(output_tangents[0], axis=-1)
    # Rescaling by a power of two is exact: a step that changes nothing adds exactly 0.
    mantissas, exponents = jnp.frexp(new)
    tangents = jax.tree.map(lambda leaf: jnp.ldexp(leaf, -exponents.reshape(-1, *[1] * (leaf.ndim - 1))), tangents)
    return (carry, tangents, mantissas), jnp.log(new / jnp.where(lengths > 0, lengths, 1)), state


def unit_tangents(
    transition: Transition, start: Vector, rng_key: Array, number: int
) -> tuple[PyTree, list, Float[Array, " P"]]:
    """The carry at `start`, random tangents of length 1, and their lengths: the argument `moving` of `carried`."""
    directions = jax.random.normal(rng_key, (number, *start.shape), start.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1)[:, None]
    carry, tangents, _ = push_forward(lambda x: (transition.restore(x), None), start, [directions])
    return carry, tangents, jnp.linalg.norm(directions, axis=1)


def log_growth(
    transition: Transition, start: Vector, inputs: Inputs, rng_key: Array, num_probes: int = 1
) -> tuple[Float[Array, "P T"], Float[Array, "T D"]]:
    """Log growth of each tangent in each step, nats, and the reduced state after each step."""

    def advance(moving: tuple, t: Array) -> tuple[tuple, tuple]:
        moving, growth, state = carried(transition, moving, inputs.at(t))
        return moving, (growth, state)

    begin = unit_tangents(transition, start, rng_key, num_probes)
    _, (growth, path) = jax.lax.scan(advance, begin, jnp.arange(inputs.num_steps))
    return growth.T, path


def batch_means(values: Float[Array, "... T"], num_batches: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over all axes, and its standard error from `num_batches` batches of consecutive steps per series."""
    length = values.shape[-1] // num_batches
    batches = values[..., : num_batches * length].reshape(-1, length).mean(-1)
    return values.mean(), batches.std(ddof=1) / jnp.sqrt(batches.size)
