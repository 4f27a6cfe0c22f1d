"""Unadjusted Langevin dynamics in a potential with two wells: locally unstable, but predictable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from parsample import Recursion

# The mixture of figure 3 of arXiv 2508.16817: weights, means and variances of two Gaussians.
WEIGHTS = (0.49, 0.51)
MEANS = ((-1.4, 0.0), (1.6, 0.0))
VARIANCES = ((0.45, 0.45), (0.54, 0.45))

# Step of the Euler-Maruyama discretisation.
STEP_SIZE = 0.01


def logdensity(position: Array) -> Array:
    """Log density of the mixture, shape (2,) to scalar."""
    means, variances = jnp.array(MEANS), jnp.array(VARIANCES)
    terms = -0.5 * (jnp.square(position[None] - means) / variances + jnp.log(2 * jnp.pi * variances)).sum(1)
    return jax.nn.logsumexp(terms + jnp.log(jnp.array(WEIGHTS)))


def two_well(num_steps: int = 10_000, *, step_size: float = STEP_SIZE, seed: int = 0) -> Recursion:
    """``s = s + eps grad log p(s) + sqrt(2 eps) z``, from the origin.

    Parameters
    ----------
    num_steps
        Number of steps T.
    step_size
        Step size eps.
    seed
        Seed of the noise z, shape (T, 2).
    """

    def step(state: Array, noise: Array) -> Array:
        return state + step_size * jax.grad(logdensity)(state) + (2 * step_size) ** 0.5 * noise

    return Recursion(step, jnp.zeros(2), jax.random.normal(jax.random.key(seed), (num_steps, 2)))
