"""Warm-up: from a log density and a start to coordinates, a step size, and one state per chain.

First BlackJAX's window adaptation of NUTS, every chain by itself, finds the posterior; its draws give the centre and
the covariance, pooled over chains. Then, in whitened coordinates, all chains together tune one step size for the
kernel that will sample, by dual averaging.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import dual_averaging_adaptation
from jaxtyping import Array, Float, Int

from parsample.compilation import outermost_jit
from parsample.kernels import (
    KernelDynamics,
    KernelParameters,
    guarded,
    schedule,
)
from parsample.transition import Vector

MIN_WARMUP = 100

# Share of the warm-up that adapts NUTS; the rest tunes the step size in whitened coordinates.
NUTS_SHARE = 0.7

# Beyond this dimension a dense covariance costs more than it brings.
MAX_DENSE_DIMENSION = 100


class Adaptation(NamedTuple):
    """What the warm-up found.

    Attributes
    ----------
    parameters
        Coordinates, step size and trajectory lengths, the same for all chains.
    states
        Whitened state of each chain at the end, shape (chains, D).
    draws
        Whitened draws of the second half of the NUTS stage, shape (chains, n, D): states typical of the posterior.
    acceptance_rate
        Mean acceptance rate of the sampling kernel over the last half of its tuning.
    num_diverging
        Divergent transitions of each chain in the NUTS stage, shape (chains,).
    """

    parameters: KernelParameters
    states: Float[Array, "K D"]
    draws: Float[Array, "K n D"]
    acceptance_rate: Float[Array, ""]
    num_diverging: Int[Array, " K"]


@outermost_jit(0, 3, 4)
def warmup(
    dynamics: KernelDynamics,
    rng_key: Array,
    initial_position: Vector,
    num_warmup: int,
    num_chains: int,
    target_acceptance_rate: Float[Array, ""] | float,
) -> Adaptation:
    """Adapt the coordinates and step size of `dynamics`, from dispersed starts.

    Parameters
    ----------
    dynamics
        The kernel to adapt.
    rng_key
        One key for all of it.
    initial_position
        Flat position, shape (D,).
    num_warmup
        Steps per chain, at least `MIN_WARMUP`.
    num_chains
        Number of chains.
    target_acceptance_rate
        What the step size is tuned to.
    """
    key_start, key_nuts, key_tune = jax.random.split(rng_key, 3)
    target = guarded(dynamics.logdensity_fn, dynamics.layout)
    starts = dispersed_starts(key_start, target, initial_position, num_chains)
    num_nuts = int(NUTS_SHARE * num_warmup)
    positions, step_sizes, diverging = jax.vmap(partial(_adapt_nuts, target, num_nuts))(
        jax.random.split(key_nuts, num_chains), starts
    )
    settled = positions[:, num_nuts // 2 :]
    center, factor = coordinates(settled.reshape(-1, settled.shape[-1]))
    rough = KernelParameters(center, factor, jnp.median(step_sizes), schedule(jnp.median(step_sizes)))
    if dynamics.kernel == "mala":
        # A Langevin step of size h moves by noise of variance 2 h; h ~ D^(-1/3) is its scaling in D.
        rough = rough._replace(step_size=jnp.asarray(0.5 * center.shape[0] ** (-1 / 3), center.dtype))
    parameters, states, acceptance = _tune_step_size(
        dynamics, key_tune, rough, rough.whiten(positions[:, -1]), num_warmup - num_nuts, target_acceptance_rate
    )
    return Adaptation(parameters, states, rough.whiten(settled), acceptance, diverging)


def dispersed_starts(rng_key: Array, logdensity_fn: Callable, position: Vector, num_chains: int) -> Float[Array, "K D"]:
    """One start per chain: `position` plus uniform noise on (-1, 1), less of it where the log density is not finite."""
    noise = jax.random.uniform(rng_key, (num_chains, *position.shape), position.dtype, -1, 1)
    candidates = position[None, None] + jnp.einsum(
        "s,kd->skd", jnp.asarray([1.0, 0.1, 0.01, 0.0], position.dtype), noise
    )
    finite = jnp.isfinite(jax.vmap(jax.vmap(logdensity_fn))(candidates))
    finite = finite.at[-1].set(True)
    return jnp.take_along_axis(candidates, jnp.argmax(finite, axis=0)[None, :, None], axis=0)[0]


def _adapt_nuts(logdensity_fn: Callable, num_steps: int, rng_key: Array, start: Vector) -> tuple[Array, Array, Array]:
    """Positions of a NUTS window adaptation with a diagonal metric, its final step size, its number of divergences."""
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        logdensity_fn,
        adaptation_info_fn=lambda state, info, _: (state.position, info.is_divergent),
    )
    result, (positions, diverging) = adaptation.run(rng_key, start, num_steps=num_steps)
    return positions, result.parameters["step_size"], diverging.sum()


def coordinates(draws: Float[Array, "n D"]) -> tuple[Vector, Float[Array, "D D"] | Float[Array, " D"]]:
    """Centre and factor of whitened coordinates.

    The covariance is shrunk towards its diagonal as by five extra draws (Stan's rule of thumb); only the diagonal is
    used where there are too few draws, or too many dimensions, for more.
    """
    num_draws, dimension = draws.shape
    center = draws.mean(0)
    centred = draws - center[None]
    variances = jnp.square(centred).mean(0)
    variances = jnp.where(variances > 0, variances, 1)
    if dimension > min(MAX_DENSE_DIMENSION, num_draws // 10):
        return center, jnp.sqrt(variances)
    # Correlations, not covariances, are factored: scales may differ by more than the precision of the dtype.
    scaled = centred / jnp.sqrt(variances)[None]
    correlations = jnp.einsum("ni,nj->ij", scaled, scaled, precision="highest") / num_draws
    shrunk = (num_draws * correlations + 5 * jnp.eye(dimension, dtype=draws.dtype)) / (num_draws + 5)
    factor = jnp.linalg.cholesky(shrunk)
    identity = jnp.eye(dimension, dtype=draws.dtype)
    return center, jnp.sqrt(variances)[:, None] * jnp.where(jnp.isfinite(factor).all(), factor, identity)


def _tune_step_size(
    dynamics: KernelDynamics,
    rng_key: Array,
    parameters: KernelParameters,
    states: Float[Array, "K D"],
    num_steps: int,
    target_acceptance_rate: Float[Array, ""] | float,
) -> tuple[KernelParameters, Float[Array, "K D"], Float[Array, ""]]:
    """Dual averaging of one step size on the mean acceptance rate of all chains."""
    init, update, final = dual_averaging_adaptation(target_acceptance_rate)
    keys = jax.random.split(rng_key, states.shape[0])

    def with_step_size(step_size: Array) -> KernelParameters:
        step_size = step_size.astype(states.dtype)
        steps = schedule(step_size) if dynamics.kernel == "hmc" else jnp.ones((1,), jnp.int32)
        return parameters._replace(step_size=step_size, num_integration_steps=steps)

    def advance(loop: tuple, t: Array) -> tuple[tuple, Array]:
        states, averaging = loop
        now = with_step_size(jnp.exp(averaging.log_step_size))

        def one(key: Array, u: Vector) -> tuple[Vector, Array]:
            transition, _ = dynamics(now, key, 1)
            carry, draw = transition.step(
                transition.restore(u), (t, now.num_integration_steps[t % now.num_integration_steps.shape[0]])
            )
            return transition.reduce(carry), draw.acceptance_rate

        states, rates = jax.vmap(one)(keys, states)
        return (states, update(averaging, rates.mean())), rates.mean()

    begin = (states, init(parameters.step_size))
    (states, averaging), rates = jax.lax.scan(advance, begin, jnp.arange(num_steps))
    return with_step_size(final(averaging)), states, rates[num_steps // 2 :].mean()
