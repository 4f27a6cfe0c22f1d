"""Latent Gaussian process: the changing rate of coal-mining disasters. Not predictable.

The number of disasters in a year is Poisson, and the log rate is a constant plus a Gaussian
process with squared exponential covariance, whose length scale and amplitude are unknown. The
process is a sum of 16 sines on an interval half as wide again as the data, with spectral weights
(A. Solin and S. Sarkka, Hilbert space methods for reduced-rank Gaussian process regression,
Statistics and Computing 30 (2020), 419-446). Length scale and amplitude multiply the standard
normal weights, a curved posterior on which NUTS and HMC chains that share their randomness drift
apart: the largest Lyapunov exponent is positive, and such chains do not meet.

Data: disasters with at least 10 deaths in British coal mines, 1851-1962; R. G. Jarrett, A note on
the intervals between coal-mining disasters, Biometrika 66 (1979), 191-193, counted by year.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

NUM_SINES = 16
SHOWN = slice(4, None, 10)  # the rate is shown in 1855, 1865, ..., 1955

path = Path(__file__).parent / "data" / "coal_mining_disasters.csv"
year, disasters = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)

time = year - year.mean()
half_width = 1.5 * time.max()
frequency = np.arange(1, NUM_SINES + 1) * np.pi / (2.0 * half_width)
sines = np.sin((time + half_width)[:, None] * frequency) / np.sqrt(half_width)


def log_rate(position: dict[str, jax.Array]) -> jax.Array:
    """Log of the expected number of disasters in each year."""
    amplitude, length_scale = jnp.exp(position["log_amplitude"]), jnp.exp(position["log_length"])
    sd = amplitude * jnp.sqrt(np.sqrt(2.0 * np.pi) * length_scale)
    sd = sd * jnp.exp(-0.25 * (length_scale * frequency) ** 2)
    return position["level"] + sines @ (sd * position["weights"])


def constrain(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Hyperparameters, and the rate in one year of each decade."""
    return {
        "level": position["level"],
        "amplitude": jnp.exp(position["log_amplitude"]),
        "length_scale": jnp.exp(position["log_length"]),
        "rate": jnp.exp(log_rate(position))[SHOWN],
    }


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log posterior, up to a constant. Length scale and amplitude have log-normal priors."""
    log_prior = -0.5 * (position["level"] / 2.0) ** 2
    log_prior -= 0.5 * (position["log_amplitude"] / 1.0) ** 2
    log_prior -= 0.5 * ((position["log_length"] - np.log(30.0)) / 0.5) ** 2
    log_prior -= 0.5 * jnp.sum(position["weights"] ** 2)
    eta = log_rate(position)
    return log_prior + jnp.sum(disasters * eta - jnp.exp(eta))


initial_position = {
    "level": np.zeros(()),
    "log_amplitude": np.zeros(()),
    "log_length": np.full((), np.log(30.0)),
    "weights": np.zeros(NUM_SINES),
}

dims = {"rate": ["year"]}
coords = {"year": year[SHOWN].astype(int)}

kernels = ("nuts", "hmc", "mala")

# The curved posterior needs small steps.
settings = {"target_acceptance_rate": 0.95}
