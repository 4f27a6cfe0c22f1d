"""The Lyapunov exponent of a chain from short runs, each until its tangents turn into the leading direction."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.chain.transition import Inputs, Transition, Vector
from parsample.internal.compilation import jit_with_xla_options
from parsample.predictability.lyapunov import carried, unit_tangents
from parsample.solver.linearization import push_forward

# ``family(parameters, key, T)`` returns the chain of this key and its inputs for T steps.
Family = Callable[[Any, Array, int], tuple[Transition, Inputs]]

# Number of paths with tangents.
NUM_TANGENTS = 12

# Tangents count as turned into the leading direction if the growth they may miss is below this share of the exponent,
# or below its standard error.
BIAS_SHARE = 0.1

# Angles between tangents count as unchanged if their cosines differ by at most this many units of rounding.
ROUNDINGS = 1000

# Folded into the key, so that these keys differ from the chain's.
TANGENTS = 0x7A7A


class Alignment(NamedTuple):
    """Growth of tangents over the last window of a path, and a bound on its bias.

    Attributes
    ----------
    growth
        Mean log growth of the tangents over the window, nats per step.
    bias
        Upper bound on the exponent minus `growth`, nats per step: the leading growth that the tangents may miss,
        because they had not turned when the window began.
    """

    growth: Float[Array, ""]
    bias: Float[Array, ""]


def aligned_growth(
    transition: Transition,
    start: Vector,
    inputs: Callable[[Array], Any],
    rng_key: Array,
    num_steps: int,
    is_enough: Callable[[Array, Array, Array], Array],
) -> Alignment:
    """Growth of two tangents of a path over windows that end at `num_steps`, 2 `num_steps`, 4 `num_steps`, ...

    A tangent grows with the leading exponent once it has turned into the leading direction, and slower before. Two
    tangents that started apart and point the same way have turned: a window that begins when the cosine between them is
    c misses at most ``-log c`` of the leading growth. If the angle never changes, growth is the same in every
    direction, and nothing is missed.

    Parameters
    ----------
    transition, start, inputs
        The chain, its reduced initial state, and the function from t to the input of step t.
    rng_key
        Key of the tangents.
    num_steps
        Steps of the first window, whose growth is discarded.
    is_enough
        ``is_enough(growth, bias, steps)``: whether to stop after a window.
    """

    def advance(t: Any, loop: tuple) -> tuple:
        moving, total = loop
        moving, growth, _ = carried(transition, moving, inputs(t))
        return moving, total + growth.mean()

    def cosine(carry: PyTree, tangents: list, _lengths: Array) -> Array:
        output_tangents = push_forward(lambda c: (transition.reduce(c), None), carry, tangents)[1][0]
        norms = jnp.linalg.norm(output_tangents, axis=-1)
        return jnp.abs(jnp.sum(output_tangents[0] * output_tangents[1])) / jnp.maximum(
            norms[0] * norms[1], jnp.finfo(start.dtype).tiny
        )

    def window(loop: tuple) -> tuple:
        t, before, moving, *_ = loop
        end = jnp.maximum(2 * t, num_steps)
        moving, total = jax.lax.fori_loop(t, end, advance, (moving, zero))
        after, length = cosine(*moving), end - t
        turns = jnp.abs(after - before) > ROUNDINGS * jnp.finfo(start.dtype).eps
        missing = jnp.where(turns, -jnp.log(jnp.clip(before, jnp.finfo(start.dtype).eps, 1)), 0)
        growth, bias = total / length, missing / length
        # In the first window, the path leaves its start and the tangents turn.
        return end, after, moving, growth, bias, (t > 0) & is_enough(growth, bias, end)

    zero = jnp.zeros((), start.dtype)
    begin = (jnp.asarray(0), zero, unit_tangents(transition, start, rng_key, 2), zero, zero, jnp.asarray(False))
    _, _, _, growth, bias, _ = jax.lax.while_loop(lambda loop: ~loop[5], window, begin)
    return Alignment(growth, bias)


@jit_with_xla_options(3)
def growth_of_chains(
    dynamics: Family,
    num_growth: int,
    most_growth: int,
    parameters: Any,
    starts: Float[Array, "N D"],
    rng_key: Array,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Lyapunov exponent, averaged over chains from `starts` with separate keys, and its standard error, nats per step.

    The standard error includes the growth that tangents may miss because they have not turned yet.
    """
    num_paths, half = starts.shape[0], num_growth // 2

    def is_enough(growth: Array, bias: Array, steps: Array) -> Array:
        lle, errors = jax.lax.pmean(growth, "paths"), growth - jax.lax.pmean(growth, "paths")
        lle_se = jnp.sqrt(jax.lax.pmean(errors**2, "paths") / (num_paths - 1))
        is_known = jax.lax.pmean(bias, "paths") <= jnp.maximum(lle_se, BIAS_SHARE * jnp.abs(lle))
        return is_known | (2 * steps > most_growth)

    def grow(start: Vector, key_chain: Array, key_tangent: Array) -> Alignment:
        transition, inputs = dynamics(parameters, key_chain, most_growth)
        return aligned_growth(transition, start, inputs.at, key_tangent, half, is_enough)

    keys = jax.random.split(jax.random.fold_in(rng_key, TANGENTS), (2, num_paths))
    found = jax.vmap(grow, axis_name="paths")(starts, keys[0], keys[1])
    bias = found.bias.mean()
    return found.growth.mean(), jnp.sqrt(jnp.square(found.growth.std(ddof=1)) / num_paths + jnp.square(bias))


def exponent(
    dynamics: Family, growth: int, most_growth: int, parameters: Any, starts: Float[np.ndarray, "N D"], key: Array
) -> tuple[Any, Any]:
    """Like `growth_of_chains`, but NaN for a chain without forward-mode derivatives."""
    try:
        return growth_of_chains(dynamics, growth, most_growth, parameters, starts, key)
    except (TypeError, ValueError) as error:
        if "forward-mode" not in str(error) and "JVP" not in str(error):
            raise
        return np.float64(math.nan), np.float64(math.nan)
