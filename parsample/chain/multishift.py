"""Random-walk Metropolis moves that make paths with common keys meet exactly.

A normal proposal is drawn as the one point of a random lattice that lies in a random interval around the state (layered
multishift coupling: D. B. Wilson, *Layered multishift coupling for use in perfect sampling algorithms*, 2000). The
lattice depends on the key only, so nearby states are often mapped to the same proposal; if both accept it, their paths
are equal from then on. The move leaves the target invariant, and so does its composition with any kernel that does.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from parsample.chain.blackjax_chain import DETERMINED_FIELDS, checked_algorithm
from parsample.internal.random_keys import Kinds, as_keys, as_words, kinds_of
from parsample.internal.trees import select
from parsample.internal.validation import checked_function, dtype_of

if TYPE_CHECKING:
    import blackjax.base

# Share of the steps of `with_exact_meeting` that make the move. A move costs an evaluation, and drives two
# paths slightly apart if it does not merge them: paths meet soonest with a move in one of four to eight steps.
MOVE_PROBABILITY = 0.25


def multishift_normal(
    rng_key: Array, position: Float[Array, " n"], scale: Float[Array, "..."] | float
) -> Float[Array, " n"]:
    """Draw from ``N(position, scale^2)`` so that nearby positions are often mapped to the same point.

    The normal density is a mixture of uniforms over its layers: the layer at a uniform height under the density has
    half-width ``r = scale sqrt(z^2 + 2 e)``, with z normal and e exponential. A uniform on ``[x - r, x + r)`` is the
    one point of the lattice ``2 r (u + Z)`` in it, u uniform on [0, 1). In each coordinate two positions that differ by
    ``d < 2 r`` are mapped to the same point with probability ``1 - d / (2 r)``.

    Parameters
    ----------
    rng_key
        Key of the draw; the coupling is between draws with the same key.
    position
        Mean of the draw.
    scale
        Standard deviation, a scalar or one per coordinate.
    """
    uniforms = jax.random.uniform(rng_key, (3, *position.shape), position.dtype)
    return lattice_point(uniforms, position, scale)


def lattice_point(
    uniforms: Float[Array, "3 n"], position: Float[Array, " n"], scale: Float[Array, "..."] | float
) -> Float[Array, " n"]:
    """`multishift_normal` from three uniform numbers on [0, 1) for each coordinate."""
    z, u = normal(uniforms[0]), uniforms[2]
    width = 2 * scale * jnp.sqrt(z * z - 2 * jnp.log1p(-uniforms[1]))
    # Half the width is subtracted as 0.5 in units of the lattice, to round only once.
    return width * (u + jnp.ceil(position / width - 0.5 - u))


def normal(uniform: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """Standard normal numbers from uniform ones on [0, 1)."""
    # 0 is replaced by half the spacing of the numbers, so that the inverse is finite.
    smallest = jnp.finfo(uniform.dtype).epsneg
    return jnp.sqrt(jnp.asarray(2, uniform.dtype)) * jax.lax.erf_inv(2 * jnp.maximum(uniform, smallest / 2) - 1)


def accepted(uniform: Float[Array, ""], log_ratio: Float[Array, ""]) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Metropolis's decision, and the probability of accepting; NaN is rejected."""
    probability = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0))
    return uniform < probability, probability


def multishift_random_walk(logdensity_fn: Callable, scale: PyTree) -> "blackjax.base.SamplingAlgorithm":
    """Random-walk Metropolis whose normal proposals are multishift-coupled, as a BlackJAX algorithm.

    All coordinates move at once: in up to about five dimensions, two paths with common keys soon become equal. No
    derivative of the log density is needed.

    Parameters
    ----------
    logdensity_fn
        Log density of a position pytree, a scalar.
    scale
        Standard deviation of the proposal: a scalar, or a pytree like the position.

    Returns
    -------
    SamplingAlgorithm
        With the state and info of ``blackjax.additive_step_random_walk``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> walk = parsample.multishift_random_walk(lambda x: -0.5 * jnp.sum(x**2), 1.5)
    >>> state, info = walk.step(jax.random.key(0), walk.init(jnp.zeros(2)))
    >>> state.position.shape
    (2,)
    """
    checked_function("logdensity_fn", logdensity_fn)
    _check_scale(scale)
    # Imported late: BlackJAX takes a second, and `parsample.sample` does not need it.
    from blackjax.base import SamplingAlgorithm  # noqa: PLC0415
    from blackjax.mcmc.random_walk import RWInfo, RWState  # noqa: PLC0415

    def init(position: PyTree, rng_key: Array | None = None) -> RWState:
        del rng_key
        return RWState(position, logdensity_fn(position))

    def step(rng_key: Array, state: RWState) -> tuple[RWState, RWInfo]:
        key_proposal, key_accept = jax.random.split(rng_key)
        proposal = init(_proposal(key_proposal, state.position, scale))
        accept, probability = accepted(
            jax.random.uniform(key_accept, dtype=state.logdensity.dtype), proposal.logdensity - state.logdensity
        )
        return select(accept, proposal, state), RWInfo(probability, accept, proposal)

    return SamplingAlgorithm(init, step)


class ExactMeetingInfo(NamedTuple):
    """Info of an algorithm composed by `with_exact_meeting`.

    Attributes
    ----------
    info
        Info of the algorithm's own step.
    is_moved
        Whether a multishift move was made after that step and accepted.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> import blackjax
    >>> algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(x**2), 0.9, jnp.ones(2), 3)
    >>> composed = parsample.with_exact_meeting(algorithm, lambda x: -0.5 * jnp.sum(x**2), 0.5 * jnp.ones(2))
    >>> state, info = composed.step(jax.random.key(1), composed.init(jnp.zeros(2)))
    >>> isinstance(info, parsample.ExactMeetingInfo), info.is_moved.shape
    (True, ())
    """

    info: Any
    is_moved: Bool[Array, ""]


def with_exact_meeting(
    algorithm: "blackjax.base.SamplingAlgorithm", logdensity_fn: Callable, scale: PyTree
) -> "blackjax.base.SamplingAlgorithm":
    """Compose a BlackJAX algorithm with multishift moves, so that its paths with common keys meet exactly.

    After one step in four, chosen by the key, a random-walk Metropolis step with multishift-coupled proposals follows.
    It leaves the target invariant, and merges paths that the algorithm has brought near.

    Parameters
    ----------
    algorithm
        Any BlackJAX algorithm whose state has a ``position``, and fields that ``init`` computes from it.
    logdensity_fn
        The log density that the algorithm samples.
    scale
        Standard deviation of the move: a scalar, or a pytree like the position. Use a tenth to a third of the
        target's standard deviation, less in many dimensions.

    Returns
    -------
    SamplingAlgorithm
        With the state of `algorithm`, and an info of type `ExactMeetingInfo`.

    Examples
    --------
    >>> import blackjax, jax, jax.numpy as jnp, parsample
    >>> def logdensity(x):
    ...     return -0.5 * jnp.sum(x**2)
    >>> hmc = parsample.with_exact_meeting(blackjax.hmc(logdensity, 0.5, jnp.ones(2), 4), logdensity, 0.3)
    >>> final, history = parsample.run_inference_algorithm(
    ...     jax.random.key(0), hmc, 100, initial_position=jnp.zeros(2), transform=lambda state, info: state.position
    ... )
    >>> history.shape
    (100, 2)
    """
    checked_algorithm(algorithm)
    checked_function("logdensity_fn", logdensity_fn)
    _check_scale(scale)

    def step(rng_key: Array, state: Any) -> tuple[Any, ExactMeetingInfo]:
        key_step, key_choice, key_move = jax.random.split(rng_key, 3)
        state, info = algorithm.step(key_step, state)
        moves = jax.random.bernoulli(key_choice, MOVE_PROBABILITY)
        move = partial(_moved, kinds_of(key_move))
        # Under vmap, cond selects among its operands, which JAX's checker takes for another use of keys, not of words.
        words = as_words(key_move)
        state, is_moved = jax.lax.cond(moves, move, lambda _, state: (state, jnp.asarray(False)), words, state)
        return state, ExactMeetingInfo(info, is_moved)

    def _moved(kinds: Kinds, words: Array, state: Any) -> tuple[Any, Bool[Array, ""]]:
        key_proposal, key_accept = jax.random.split(as_keys(words, kinds))
        position = _proposal(key_proposal, state.position, scale)
        present = state.logdensity if hasattr(state, "logdensity") else logdensity_fn(state.position)
        uniform = jax.random.uniform(key_accept, dtype=present.dtype)
        accept, _ = accepted(uniform, logdensity_fn(position) - present)
        # `init` may need a key, for fields that the move does not change: momentum, or random numbers.
        fresh = algorithm.init(position, as_keys(words, kinds))
        determined = {name: getattr(fresh, name) for name in state._fields if name in DETERMINED_FIELDS}
        return select(accept, state._replace(position=position, **determined), state), accept

    return algorithm._replace(step=step)


def _check_scale(scale: PyTree) -> None:
    leaves = jax.tree.leaves(scale)
    known = [leaf for leaf in leaves if not isinstance(leaf, jax.core.Tracer)]
    if not leaves or any(dtype_of(leaf) is None or not (np.asarray(leaf) > 0).all() for leaf in known):
        raise ValueError(f"scale must be a positive number, or a pytree of them like the position; got {scale!r}.")


def _proposal(rng_key: Array, position: PyTree, scale: PyTree) -> PyTree:
    vector, unravel = ravel_pytree(position)
    is_scalar = len(jax.tree.leaves(scale)) == 1 and jnp.ndim(jax.tree.leaves(scale)[0]) == 0
    scales = jnp.asarray(jax.tree.leaves(scale)[0] if is_scalar else ravel_pytree(scale)[0], vector.dtype)
    return unravel(multishift_normal(rng_key, vector, scales))
