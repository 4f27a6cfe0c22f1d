"""A Gibbs sampler of eight schools with 18 parameters: mu, tau^2, eight effects theta_j, eight variances sigma_j^2.

y_j ~ N(theta_j, sigma_j^2), theta_j ~ N(mu, tau^2); mu ~ N(0, 10^2), tau^2 ~ IG(2, 50), and sigma_j^2 is centred near
the published squared standard error by an inverse gamma of 10 degrees of freedom (Rubin 1981; Gelman et al., BDA 5.5).
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from parsample import Conditional, Gibbs, Recursion

DATA = json.loads((Path(__file__).parents[1] / "data" / "eight_schools.json").read_text())
MU_SD, TAU_SHAPE, TAU_SCALE, SIGMA_DEGREES = 10.0, 2.0, 50.0, 10.0


def gibbs() -> Gibbs:
    """The sampler; variances are kept as logarithms, so that every real vector is a valid state."""
    effect, error = (jnp.asarray(DATA[name], float) for name in ("effect", "standard_error"))
    num_schools = effect.size

    def theta(state: dict, z: Array) -> Array:
        sigma2, tau2 = jnp.exp(state["log_sigma2"]), jnp.exp(state["log_tau2"])
        variance = 1 / (1 / sigma2 + 1 / tau2)
        return variance * (effect / sigma2 + state["mu"] / tau2) + jnp.sqrt(variance) * z

    def mu(state: dict, z: Array) -> Array:
        tau2 = jnp.exp(state["log_tau2"])
        precision = num_schools / tau2 + 1 / MU_SD**2
        return state["theta"].sum() / tau2 / precision + z / jnp.sqrt(precision)

    def log_tau2(state: dict, g: Array) -> Array:
        return jnp.log((TAU_SCALE + 0.5 * jnp.sum(jnp.square(state["theta"] - state["mu"]))) / g)

    def log_sigma2(state: dict, g: Array) -> Array:
        return jnp.log(0.5 * (SIGMA_DEGREES * error**2 + jnp.square(effect - state["theta"])) / g)

    normals, per_school = jax.random.normal, (num_schools,)
    return Gibbs(
        {
            "theta": Conditional(lambda key: normals(key, per_school), theta),
            "mu": Conditional(normals, mu),
            "log_tau2": Conditional(lambda key: jax.random.gamma(key, TAU_SHAPE + num_schools / 2), log_tau2),
            "log_sigma2": Conditional(
                lambda key: jax.random.gamma(key, (SIGMA_DEGREES + 1) / 2, per_school), log_sigma2
            ),
        }
    )


def eight_schools(num_steps: int = 10_000, *, seed: int = 0) -> Recursion:
    """One chain, started near the data, mu = 0 and tau^2 = 25: off them by N(0, 0.5^2) in every coordinate.

    Parameters
    ----------
    num_steps
        Number of steps T.
    seed
        Seed of the variates and of the start.
    """
    effect, error = (jnp.asarray(DATA[name], float) for name in ("effect", "standard_error"))
    sampler = gibbs()
    centre = {"theta": effect, "mu": jnp.zeros(()), "log_tau2": jnp.log(25.0), "log_sigma2": 2 * jnp.log(error)}
    key_variates, key_start = jax.random.split(jax.random.key(seed))
    keys = dict(zip(centre, jax.random.split(key_start, len(centre)), strict=True))
    start = {name: at + 0.5 * jax.random.normal(keys[name], at.shape) for name, at in centre.items()}
    return Recursion(sampler.step, start, sampler.variates(key_variates, num_steps))
