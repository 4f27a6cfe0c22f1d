"""How fast a chain forgets, from its derivatives: Lyapunov exponents, and the norms of its Jacobians.

The largest exponent (LLE) is the mean log growth of a small difference between two paths that share their randomness.
Negative: the chain is predictable, and can be evaluated in parallel (Gonzalez et al., arXiv 2508.16817). Exponents are
in nats per step, or per unit of time where a step is said to take `dt`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.compilation import outermost_jit
from parsample.linearize import push_forward
from parsample.transition import Inputs, Transition, Vector, as_inputs, from_step, rollout
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

    @property
    def finite_time(self) -> Float[np.ndarray, " T"]:
        """The exponent of each leading part of the path, of 1 to T steps, shape (T,): all lengths at once."""
        growth = np.asarray(self.growth).mean(0)
        return np.cumsum(growth) / (self.dt * np.arange(1, growth.size + 1))

    @property
    def overshoot(self) -> float:
        """The least a >= 1 with ``growth over k steps <= log(a) + k lle dt``, for every stretch of the tangents' way.

        Norms of products of Jacobians may exceed it, since no tangent grows as fast as the fastest at all times; NaN
        where the exponent is not finite.
        """
        if not np.isfinite(self.lle):
            return float("nan")
        detrended = np.asarray(self.growth)[:, self.num_discarded :] - float(self.lle) * self.dt
        level = np.concatenate([np.zeros_like(detrended[:, :1]), np.cumsum(detrended, axis=1)], axis=1)
        return float(np.exp((level - np.minimum.accumulate(level, axis=1)).max()))


class LyapunovSpectrum(NamedTuple):
    """Lyapunov exponents, in the order in which QR finds them: falling, if the path is long.

    Attributes
    ----------
    exponents
        Shape (K,), nats per step, or per unit of time.
    se
        Their standard errors by batch means, shape (K,).
    growth
        Log growth of each direction in each step, nats, shape (T, K).
    """

    exponents: Float[Array, " K"]
    se: Float[Array, " K"]
    growth: Float[Array, "T K"]


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
    _check_batches(entries.num_steps, num_discarded, num_batches)
    _check_dt(dt)
    growth = _growth(step, num_probes, initial_state, entries, jax.random.key(0) if rng_key is None else rng_key)
    counted = growth[:, num_discarded:]
    # Tangents of one path end up in one direction: they are no independent measurements of it.
    lle, se = batch_means(counted.mean(0), num_batches)
    spread = counted.mean(1).std(ddof=1) if num_probes > 1 else jnp.full((), jnp.nan, growth.dtype)
    return LyapunovExponent(lle / dt, se / dt, spread / dt, growth, num_discarded, dt)


def lyapunov_exponent_of_jacobians(
    jacobians: Float[Any, "T D D"] | Float[Any, " T"], **settings: object
) -> LyapunovExponent:
    """Largest Lyapunov exponent of given Jacobians.

    Parameters
    ----------
    jacobians
        Those of each step, shape (T, D, D), or (T,) for a state of one dimension.
    **settings
        Of `lyapunov_exponent`.

    Returns
    -------
    LyapunovExponent

    Raises
    ------
    ValueError
        If the Jacobians are not square, or too few.
    """
    given = jnp.asarray(jacobians)
    given = given[:, None, None] if given.ndim == 1 else given
    if given.ndim != 3 or given.shape[1] != given.shape[2]:
        raise ValueError(f"jacobians must have shape (T, D, D) or (T,); got {jnp.shape(jacobians)}.")
    # The recursion whose Jacobians they are.
    still = jnp.zeros(given.shape[2], given.dtype)
    return lyapunov_exponent(_apply, still, given, **settings)  # type: ignore[arg-type]


def lyapunov_spectrum(
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    num_exponents: int | None = None,
    num_discarded: int = 0,
    num_batches: int = 20,
    dt: float = 1.0,
) -> LyapunovSpectrum:
    """The largest Lyapunov exponents of ``state = step(state, input)`` along its path.

    Tangents are carried along and made orthogonal in every step by a QR decomposition (Benettin et al. 1980), in
    O(T D K^2).

    Parameters
    ----------
    step, initial_state, inputs, num_discarded, num_batches, dt
        As for `lyapunov_exponent`.
    num_exponents
        K; None: all D.

    Returns
    -------
    LyapunovSpectrum

    Raises
    ------
    ValueError
        If fewer steps than batches are left, more exponents asked for than there are dimensions, or `inputs` do not
        share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    _check_batches(entries.num_steps, num_discarded, num_batches)
    _check_dt(dt)
    dimension = sum(np.size(leaf) for leaf in jax.tree.leaves(initial_state))
    number = dimension if num_exponents is None else checked_count("num_exponents", num_exponents)
    if number > dimension:
        raise ValueError(f"num_exponents={number} exceeds the {dimension} dimensions of the state.")
    growth = _spectrum(step, number, initial_state, entries)
    means, errors = jax.vmap(lambda values: batch_means(values, num_batches))(growth[num_discarded:].T)
    return LyapunovSpectrum(means / dt, errors / dt, growth)


def spectral_norms(step: Callable, initial_state: PyTree, inputs: PyTree) -> Float[Array, " T"]:
    """Largest singular value of the Jacobian of each step of ``state = step(state, input)`` along its path.

    Parameters
    ----------
    step, initial_state, inputs
        As for `lyapunov_exponent`.

    Returns
    -------
    Array, shape (T,).

    Raises
    ------
    ValueError
        If `inputs` do not share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    return _spectral_norms(step, initial_state, entries)


def _apply(state: Array, jacobian: Array) -> Array:
    return jnp.einsum("ij,j->i", jacobian, state, precision="highest")


@outermost_jit(0, 1)
def _growth(step: Callable, num_probes: int, initial_state: PyTree, inputs: Inputs, rng_key: Array) -> Array:
    transition, start = from_step(step, initial_state)
    return jax.vmap(lambda key: log_growth(transition, start, inputs, key)[0])(jax.random.split(rng_key, num_probes))


@outermost_jit(0, 1)
def _spectrum(step: Callable, number: int, initial_state: PyTree, inputs: Inputs) -> Float[Array, "T K"]:
    transition, start = from_step(step, initial_state)

    def advance(loop: tuple, t: Array) -> tuple[tuple, Array]:
        state, directions = loop
        after, images, _ = push_forward(lambda x: (transition.reduced_step(x, inputs.at(t)), None), state, [directions])
        orthogonal, triangle = jnp.linalg.qr(images[0].T)
        return (after, orthogonal.T), jnp.log(jnp.abs(jnp.diagonal(triangle)))

    # Axes in general position, so that no direction starts out orthogonal to the leading ones.
    general = jax.random.normal(jax.random.key(0), (start.size, number), start.dtype)
    return jax.lax.scan(advance, (start, jnp.linalg.qr(general)[0].T), jnp.arange(inputs.num_steps))[1]


@outermost_jit(0)
def _spectral_norms(step: Callable, initial_state: PyTree, inputs: Inputs) -> Float[Array, " T"]:
    transition, start = from_step(step, initial_state)
    _, path, _ = rollout(transition, start, inputs)
    before = jnp.concatenate([start[None], path[:-1]])

    def norm(place: tuple) -> Array:
        state, t = place
        return jnp.linalg.norm(jax.jacfwd(lambda x: transition.reduced_step(x, inputs.at(t)))(state), ord=2)

    return jax.lax.map(norm, (before, jnp.arange(inputs.num_steps)), batch_size=64)


def _check_batches(num_steps: int, num_discarded: int, num_batches: int) -> None:
    if not 0 <= num_discarded <= num_steps - num_batches or num_batches < 2:
        raise ValueError(
            f"num_discarded={num_discarded} of T={num_steps} steps leaves too few for "
            f"num_batches={num_batches} batches (at least 2): give more steps or discard fewer."
        )


def _check_dt(dt: float) -> None:
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
