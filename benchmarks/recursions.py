"""Recursions that are no BlackJAX kernel: a Gibbs sampler and a recurrent network, for `parsample.deer`."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.problems import MODELS


class Recursion(NamedTuple):
    """``state = step(state, input)``; initial states and inputs have a leading axis of chains, inputs then one of T."""

    name: str
    step: Any
    initial_states: jax.Array
    inputs: Any
    setting: dict[str, Any]

    @property
    def num_chains(self) -> int:
        return self.initial_states.shape[0]

    @property
    def num_steps(self) -> int:
        return jax.tree.leaves(self.inputs)[0].shape[1]

    @property
    def dimension(self) -> int:
        return self.initial_states.shape[1]

    def identity(self) -> dict[str, Any]:
        """What a row of results says of the work."""
        return {"T": self.num_steps, "D": self.dimension, "num_chains": self.num_chains, **self.setting}


# Priors of the Gibbs sampler: tau^2 ~ IG(2, 50), and sigma_j^2 centred near the published squared standard error by an
# inverse gamma of 10 degrees of freedom; mu ~ N(0, 10^2).
TAU_SHAPE, TAU_SCALE, SIGMA_DEGREES, MU_SD = 2.0, 50.0, 10.0, 10.0


def eight_schools_gibbs(num_steps: int = 10_000, num_chains: int = 2) -> Recursion:
    """A Gibbs sampler of eight schools with 18 parameters: mu, tau^2, eight effects theta_j, eight variances sigma_j^2.

    y_j ~ N(theta_j, sigma_j^2), theta_j ~ N(mu, tau^2), conjugate priors. The state is (mu, log tau^2, theta, log
    sigma^2), so that every vector is a valid one. Conditionals are drawn as functions of fixed variates: a normal as
    mean + sd z, an inverse gamma as scale / g with a gamma variate g of fixed shape.
    """
    data = json.loads((MODELS / "data" / "eight_schools.json").read_text())
    effect, error = jnp.asarray(data["effect"], float), jnp.asarray(data["standard_error"], float)

    def step(state: jax.Array, variates: tuple) -> jax.Array:
        z_mu, z_theta, g_tau, g_sigma = variates
        mu, tau2, sigma2 = state[0], jnp.exp(state[1]), jnp.exp(state[10:])
        variance = 1 / (1 / sigma2 + 1 / tau2)
        theta = variance * (effect / sigma2 + mu / tau2) + jnp.sqrt(variance) * z_theta
        precision = 8 / tau2 + 1 / MU_SD**2
        mu = theta.sum() / tau2 / precision + z_mu / jnp.sqrt(precision)
        log_tau2 = jnp.log((TAU_SCALE + 0.5 * jnp.sum((theta - mu) ** 2)) / g_tau)
        scales = 0.5 * (SIGMA_DEGREES * error**2 + (effect - theta) ** 2)
        return jnp.concatenate([mu[None], log_tau2[None], theta, jnp.log(scales / g_sigma)])

    keys = jax.random.split(jax.random.key(0), 4)
    shape = (num_chains, num_steps)
    inputs = (
        jax.random.normal(keys[0], shape),
        jax.random.normal(keys[1], (*shape, 8)),
        jax.random.gamma(keys[2], TAU_SHAPE + 4, shape),
        jax.random.gamma(keys[3], (SIGMA_DEGREES + 1) / 2, (*shape, 8)),
    )
    first = jnp.concatenate([jnp.array([0.0, jnp.log(25.0)]), effect, 2 * jnp.log(error)])
    starts = first[None] + 0.5 * jax.random.normal(jax.random.key(1), (num_chains, 18))
    setting = {"state": "mu, log tau^2, 8 theta, 8 log sigma^2", "start": "data, and N(0, 0.5^2)"}
    return Recursion("eight schools, Gibbs, 18 parameters", step, starts, inputs, setting)


def mean_field_network(gain: float, num_units: int = 100, num_steps: int = 1000) -> Recursion:
    """A recurrent network ``s = W tanh(s) + u``, entries of W ~ N(0, gain^2 / D), driven by weak noise u."""
    keys = jax.random.split(jax.random.key(0), 3)
    weights = gain / num_units**0.5 * jax.random.normal(keys[0], (num_units, num_units))

    def step(state: jax.Array, drive: jax.Array) -> jax.Array:
        return jnp.einsum("ij,j->i", weights, jnp.tanh(state), precision="highest") + drive

    starts = jax.random.normal(keys[1], (1, num_units))
    inputs = 0.1 * jax.random.normal(keys[2], (1, num_steps, num_units))
    return Recursion(f"network, g = {gain}", step, starts, inputs, {"gain": gain, "noise": 0.1, "start": "N(0, 1)"})
