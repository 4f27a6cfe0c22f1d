"""How fast a chain forgets, from its derivatives: the largest Lyapunov exponent.

The largest exponent (LLE) is the mean log growth of a small difference between two paths that share their randomness.
Negative: the chain is predictable, and can be evaluated in parallel (Gonzalez et al., arXiv 2508.16817). Exponents are
in nats per step, or per unit of time where a step is said to take `dt`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.compilation import outermost_jit
from parsample.linearize import push_forward
from parsample.transition import Inputs, Transition, Vector, as_inputs, from_step
from parsample.validation import checked_count, checked_recursion


class LyapunovExponent(NamedTuple):
    """The largest Lyapunov exponent of a chain, and what its tangents did on the way.

    Attributes
    ----------
    lle
        Mean log growth of all tangents after the discarded steps, nats per step, or per unit of time.
    se
        Standard error of `lle` by batch means, in the same unit.
    spread
        Standard deviation of the exponent between tangents from different directions, in the same unit; NaN of one.
    growth
        Log growth of each tangent in each step, nats, shape (P, T), the discarded ones included.
    num_discarded
        Leading steps left out of `lle`.
    dt
        Time of a step.
    """

    lle: Float[Array, ""]
    se: Float[Array, ""]
    spread: Float[Array, ""]
    growth: Float[Array, "P T"]
    num_discarded: int
    dt: float


def lyapunov_exponent(
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

    Random tangents are carried along by forward differentiation and rescaled at every step (Benettin et al. 1980), in
    O(T D) for each.

    Parameters
    ----------
    step
        ``step(state, input) -> state``, differentiable in forward mode.
    initial_state
        Pytree of floating-point arrays.
    inputs
        Pytree with leading axis T.
    rng_key
        Key of the first tangents.
    num_probes
        Number of tangents P.
    num_discarded
        Leading steps left out of the mean: those the chain takes to forget its start and the tangent to turn into
        the leading direction.
    num_batches
        Number of batches of the standard error.
    dt
        Time of a step, for a discretised flow: exponents are then per unit of time.

    Returns
    -------
    LyapunovExponent
        In nats per step, or per unit of time; ``-inf`` if the state is forgotten altogether in some step.

    Raises
    ------
    ValueError
        If fewer steps than batches are left, or `inputs` do not share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    checked_count("num_probes", num_probes)
    check_batches(entries.num_steps, num_discarded, num_batches)
    check_dt(dt)
    growth = _growth(step, num_probes, initial_state, entries, jax.random.key(0) if rng_key is None else rng_key)
    counted = growth[:, num_discarded:]
    # Tangents of one path end up in one direction: they are no independent measurements of it.
    lle, se = batch_means(counted.mean(0), num_batches)
    spread = counted.mean(1).std(ddof=1) if num_probes > 1 else jnp.full((), jnp.nan, growth.dtype)
    return LyapunovExponent(lle / dt, se / dt, spread / dt, growth, num_discarded, dt)


@outermost_jit(0, 1)
def _growth(step: Callable, num_probes: int, initial_state: PyTree, inputs: Inputs, rng_key: Array) -> Array:
    transition, start = from_step(step, initial_state)
    return jax.vmap(lambda key: log_growth(transition, start, inputs, key)[0])(jax.random.split(rng_key, num_probes))


def check_batches(num_steps: int, num_discarded: int, num_batches: int) -> None:
    """Raise ValueError unless steps are left for every batch."""
    if not 0 <= num_discarded <= num_steps - num_batches or num_batches < 2:
        raise ValueError(
            f"num_discarded={num_discarded} of T={num_steps} steps leaves too few for "
            f"num_batches={num_batches} batches (at least 2): give more steps or discard fewer."
        )


def check_dt(dt: float) -> None:
    """Raise ValueError unless a step takes time."""
    if not 0 < dt < np.inf:
        raise ValueError(f"dt must be positive and finite; got {dt!r}.")


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
