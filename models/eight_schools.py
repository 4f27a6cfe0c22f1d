"""Eight schools, non-centred: the effect of coaching on test scores in eight schools.

effect_j ~ N(theta_j, standard_error_j^2), theta_j ~ N(mu, tau^2), mu ~ N(0, 5^2) and
tau ~ HalfCauchy(5), sampled in log tau and in theta_raw = (theta - mu) / tau.

Data: D. B. Rubin, Estimation in parallel randomized experiments, Journal of Educational
Statistics 6 (1981), 377-401, table 1 (eight estimates and their standard errors).
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

data = json.loads((Path(__file__).parent / "data" / "eight_schools.json").read_text())
effect = np.array(data["effect"])
standard_error = np.array(data["standard_error"])


def constrain(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Population mean and scale, and the effect of each school."""
    mu, tau = position["mu"], jnp.exp(position["log_tau"])
    return {"mu": mu, "tau": tau, "theta": mu + tau * position["theta_raw"]}


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log posterior, up to a constant; log_tau is the Jacobian of tau = exp(log_tau)."""
    mu, tau, theta = constrain(position).values()
    log_prior = -0.5 * (mu / 5.0) ** 2 - jnp.log1p((tau / 5.0) ** 2) + position["log_tau"]
    log_prior -= 0.5 * jnp.sum(position["theta_raw"] ** 2)
    return log_prior - 0.5 * jnp.sum(((effect - theta) / standard_error) ** 2)


initial_position = {"mu": np.zeros(()), "log_tau": np.zeros(()), "theta_raw": np.zeros(8)}

dims = {"theta": ["school"]}
coords = {"school": data["school"]}

# Quadrature: theta and mu are Gaussian given tau and are integrated out in closed form; the
# remaining integral, over log tau, is a trapezoidal sum of 200,001 nodes on [-40, 25]. A sum of
# 5,001 nodes on [-20, 10] and a two-dimensional sum over mu and log tau agree to 6 digits. The
# density of tau falls off as tau^-10, so that mean and sd exist.
reference = {
    name: {
        **moments,
        "mcse_mean": np.zeros(np.shape(moments["mean"])),
        "mcse_sd": np.zeros(np.shape(moments["sd"])),
    }
    for name, moments in data["reference"].items()
}

kernels = ("nuts", "hmc", "mala")
