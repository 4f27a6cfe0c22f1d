"""Latent Gaussian process: the changing rate of coal-mining disasters. Not predictable.

The number of disasters in a year is Poisson, and the log rate is a constant plus a Gaussian
process with squared exponential covariance, whose length scale and amplitude are unknown. The
process is a sum of 16 sines on an interval 1.5 times as wide as the data, with spectral weights
(A. Solin and S. Sarkka, Hilbert space methods for reduced-rank Gaussian process regression,
Statistics and Computing 30 (2020), 419-446). Length scale and amplitude multiply the standard
normal weights, which curves the posterior: NUTS and HMC chains that share their randomness drift
apart, the largest Lyapunov exponent is positive, and such chains do not meet.

Data: disasters with at least 10 deaths in British coal mines, 1851-1962; R. G. Jarrett, A note on
the intervals between coal-mining disasters, Biometrika 66 (1979), 191-193, counted by year.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

NUM_SINES = 16
SHOWN = slice(14, None, 20)  # the rate is shown in 1865, 1885, ..., 1945

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
    """Hyperparameters, and the rate in five of the years."""
    return {
        "level": position["level"],
        "amplitude": jnp.exp(position["log_amplitude"]),
        "length_scale": jnp.exp(position["log_length"]),
        "rate": jnp.exp(log_rate(position))[SHOWN],
    }


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log posterior, up to a constant.

    Priors: level ~ N(0, 1), amplitude ~ HalfNormal(1), with log Jacobian log_amplitude, and log
    length scale in years ~ N(log 40, 0.5^2).
    """
    log_prior = -0.5 * position["level"] ** 2
    log_prior += position["log_amplitude"] - 0.5 * jnp.exp(2.0 * position["log_amplitude"])
    log_prior -= 0.5 * ((position["log_length"] - np.log(40.0)) / 0.5) ** 2
    log_prior -= 0.5 * jnp.sum(position["weights"] ** 2)
    eta = log_rate(position)
    return log_prior + jnp.sum(disasters * eta - jnp.exp(eta))


initial_position = {
    "level": np.zeros(()),
    "log_amplitude": np.zeros(()),
    "log_length": np.full((), np.log(40.0)),
    "weights": np.zeros(NUM_SINES),
}

dims = {"rate": ["year"]}
coords = {"year": year[SHOWN].astype(int)}

# Long run: NUTS with a dense metric in float64, 4 chains of 150,000 draws after 4,000 of warm-up,
# target acceptance 0.95, seed 1; 214 divergences. R-hat at most 1.0001; mcse by ArviZ.
reference = {
    "level": {
        "mean": 0.1354,
        "sd": 0.5397,
        "mcse_mean": 0.00111,
        "mcse_sd": 0.00108,
    },
    "amplitude": {
        "mean": 1.0350,
        "sd": 0.4071,
        "mcse_mean": 0.00096,
        "mcse_sd": 0.00085,
    },
    "length_scale": {
        "mean": 25.6097,
        "sd": 9.2851,
        "mcse_mean": 0.02953,
        "mcse_sd": 0.03265,
    },
    "rate": {
        "mean": [3.3984, 2.4155, 0.9915, 0.9823, 0.9226],
        "sd": [0.4247, 0.3431, 0.2286, 0.2013, 0.2034],
        "mcse_mean": [0.00056, 0.00046, 0.00046, 0.00027, 0.00028],
        "mcse_sd": [0.00045, 0.00039, 0.00030, 0.00023, 0.00024],
    },
}

# No "mala": about 400 steps for one effective draw of the length scale.
kernels = ("nuts", "hmc")

# The curved posterior needs small steps.
settings = {"target_acceptance_rate": 0.95, "num_warmup": 2000}
