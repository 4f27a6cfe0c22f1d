"""A discretised mean-field network: predictable at small gain, chaotic at large (Engelken et al., arXiv 2006.02427)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from parsample import Recursion


def mean_field_network(
    gain: float, *, num_steps: int = 1000, num_units: int = 100, nonlinearity: str = "before", seed: int = 0
) -> Recursion:
    """``s = W tanh(s) + u``, or ``s = tanh(W s + u)``, driven by sinusoids, as in figure 2 of arXiv 2508.16817.

    Parameters
    ----------
    gain
        g: entries of W ~ N(0, g^2 / D), with zero diagonal. It becomes chaotic at g a little above 1.
    num_steps
        Number of steps T.
    num_units
        Number of units D.
    nonlinearity
        Whether tanh is applied "before" or "after" the weights.
    seed
        Seed of the weights, the start, uniform in (-1, 1), and the sinusoids, with amplitudes uniform in (0, 0.2),
        frequencies in (0.5, 3) and phases in (0, 2 pi).
    """
    if nonlinearity not in ("before", "after"):
        raise ValueError(f"nonlinearity must be 'before' or 'after' the weights; got {nonlinearity!r}.")
    keys = jax.random.split(jax.random.key(seed), 5)
    amplitude = jax.random.uniform(keys[0], (num_units,), maxval=0.2)
    frequency = jax.random.uniform(keys[1], (num_units,), minval=0.5, maxval=3.0)
    phase = jax.random.uniform(keys[2], (num_units,), maxval=2 * jnp.pi)
    start = jax.random.uniform(keys[3], (num_units,), minval=-1.0, maxval=1.0)
    weights = gain / num_units**0.5 * jax.random.normal(keys[4], (num_units, num_units))
    weights = jnp.fill_diagonal(weights, 0, inplace=False)

    def synapses(rates: Array) -> Array:
        return jnp.einsum("ij,j->i", weights, rates, precision="highest")

    def before(state: Array, drive: Array) -> Array:
        return synapses(jnp.tanh(state)) + drive

    def after(state: Array, drive: Array) -> Array:
        return jnp.tanh(synapses(state) + drive)

    times = jnp.arange(num_steps, dtype=float)[:, None]
    drives = amplitude[None] * jnp.sin(frequency[None] * times + phase[None])
    return Recursion(before if nonlinearity == "before" else after, start, drives)
