"""BlackJAX's accept steps with the derivative of a sigmoid, which is smoother for Newton's method.

The derivative of an accept-reject step is that of the branch taken, and ignores the decision. The surrogate
differentiates the mixture ``g proposal + (1 - g) state`` with ``g = sigmoid((log ratio - log u) / temperature)``
instead (Zoltowski et al., arXiv 2508.18413); the values of the step do not change.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from blackjax import hmc
from blackjax.base import SamplingAlgorithm, build_sampling_algorithm
from blackjax.mcmc import diffusions, mala
from blackjax.mcmc.hmc import hmc_proposal
from blackjax.mcmc.proposal import compute_asymmetric_acceptance_ratio
from jaxtyping import Array, Float, PyTree

# Below it, log u of a uniform draw of 0 would be infinite.
SMALLEST_UNIFORM = 1e-30


def surrogate_hmc(
    logdensity_fn: Callable,
    step_size: float,
    inverse_mass_matrix: Float[Array, "..."],
    num_integration_steps: int,
    *,
    temperature: float = 1.0,
) -> SamplingAlgorithm:
    """``blackjax.hmc``, the same chain, with the surrogate's derivative.

    Parameters
    ----------
    logdensity_fn, step_size, inverse_mass_matrix, num_integration_steps
        As for ``blackjax.hmc``.
    temperature
        Width of the sigmoid in units of the log ratio, nats; towards 0 the derivative is that of the branch taken.

    Returns
    -------
    SamplingAlgorithm

    Raises
    ------
    ValueError
        If `temperature` is not positive.
    """
    sampling = partial(_accept, _checked(temperature))
    return hmc(
        logdensity_fn,
        step_size,
        inverse_mass_matrix,
        num_integration_steps,
        build_proposal=partial(hmc_proposal, sample_proposal=sampling),
    )


def surrogate_mala(logdensity_fn: Callable, step_size: float, *, temperature: float = 1.0) -> SamplingAlgorithm:
    """``blackjax.mala``, the same chain, with the surrogate's derivative.

    Parameters
    ----------
    logdensity_fn, step_size
        As for ``blackjax.mala``.
    temperature
        As for `surrogate_hmc`.

    Returns
    -------
    SamplingAlgorithm

    Raises
    ------
    ValueError
        If `temperature` is not positive.
    """
    sampling = partial(_accept, _checked(temperature))

    def kernel(rng_key: Array, state: Any, logdensity: Callable) -> tuple[Any, Any]:
        key_proposal, key_accept = jax.random.split(rng_key)
        propose = diffusions.overdamped_langevin(jax.value_and_grad(logdensity))
        proposal = mala.MALAState(*propose(key_proposal, state, step_size))
        log_ratio = compute_asymmetric_acceptance_ratio(_langevin_energy)(state, proposal, step_size=step_size)
        state, (is_accepted, acceptance_rate, _) = sampling(key_accept, log_ratio, state, proposal)
        return state, mala.MALAInfo(acceptance_rate, is_accepted)

    return build_sampling_algorithm(kernel, mala.init, logdensity_fn)


def _langevin_energy(state: Any, new_state: Any, step_size: float) -> Array:
    """Minus the log of the product of the target at `new_state` and the proposal density from there to `state`."""
    steps = jax.tree.map(
        lambda to, origin, gradient: jnp.sum(jnp.square(to - origin - step_size * gradient)),
        state.position,
        new_state.position,
        new_state.logdensity_grad,
    )
    return -new_state.logdensity + 0.25 * (1.0 / step_size) * jax.tree.reduce(operator.add, steps)


def _accept(temperature: float, rng_key: Array, log_ratio: Array, state: Any, proposal: Any) -> tuple[Any, tuple]:
    """BlackJAX's ``static_binomial_sampling``, with the surrogate's derivative."""
    acceptance_rate = jnp.clip(jnp.exp(log_ratio), max=1)
    uniform = jax.random.uniform(rng_key, jnp.shape(acceptance_rate), acceptance_rate.dtype)
    is_accepted = uniform < acceptance_rate  # as jax.random.bernoulli decides
    logit = (log_ratio - jnp.log(jnp.maximum(uniform, SMALLEST_UNIFORM))) / temperature
    chosen = jax.tree.map(lambda old, new: _choose(is_accepted, logit, new, old), state, proposal)
    return chosen, (is_accepted, acceptance_rate, None)


@jax.custom_jvp
def _choose(is_accepted: Array, _logit: Array, new: PyTree, old: PyTree) -> Array:
    return jnp.where(is_accepted, new, old)


@_choose.defjvp
def _choose_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    is_accepted, logit, new, old = primals
    _, logit_tangent, new_tangent, old_tangent = tangents
    # A proposal that is not finite is never accepted, so the mixture leaves it out.
    is_possible = jnp.isfinite(new) & jnp.isfinite(new_tangent) & jnp.isfinite(logit) & jnp.isfinite(logit_tangent)
    gate = jax.nn.sigmoid(logit)
    mixture = gate * new_tangent + (1 - gate) * old_tangent + gate * (1 - gate) * logit_tangent * (new - old)
    mixture = jnp.where(is_possible, mixture, old_tangent)
    return jnp.where(is_accepted, new, old), mixture


def _checked(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature!r}.")
    return float(temperature)
