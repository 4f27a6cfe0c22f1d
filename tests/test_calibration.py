"""Simulation-based calibration of every kernel of `sample`, in blocks and step by step.

Parameters are drawn from the prior, data given the parameters, and draws given the data: the rank of the parameters
among independent draws is then uniform (Talts et al., arXiv 1804.06788). The log likelihood is ranked as well, because
the ranks of parameters alone cannot tell a posterior from the prior (Modrak et al., arXiv 2211.02383).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from parsample import Model, Status, sample
from parsample.kernels import KERNELS

NUM_REPLICATIONS, NUM_OBSERVATIONS = 400, 5
NUM_DRAWS, NUM_BINS = 39, 10  # 40 ranks
NUM_LEFT_OUT = 5  # first draws, because chains start at draws given other data

# Steps between draws, so many that draws are independent.
THIN = {"hmc": 16, "nuts": 16, "mala": 48, "metropolis": 32}

METHODS = ["sequential", "deer"]
QUANTITIES = ["mu", "log_sigma", "log_likelihood"]
MIN_P = 1e-3 / (len(KERNELS) * 2 * len(METHODS) * len(QUANTITIES))  # Bonferroni

LOG_SIGMA_SD = 0.5


def log_likelihood(position: Any, y: Any) -> Any:
    """Of observations with normal errors of unknown mean and scale; for NumPy and JAX, with any leading axes."""
    z = (y - position["mu"][..., None]) * jnp.exp(-position["log_sigma"])[..., None]
    return -0.5 * jnp.sum(z**2, axis=-1) - y.shape[-1] * position["log_sigma"]


def logdensity(position: Any, y: jax.Array) -> jax.Array:
    prior = -0.5 * position["mu"] ** 2 - 0.5 * (position["log_sigma"] / LOG_SIGMA_SD) ** 2
    return prior + log_likelihood(position, y)


def replications(seed: int, dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters from the prior, and data given these."""
    rng = np.random.default_rng(seed)
    mu, log_sigma = rng.normal(size=NUM_REPLICATIONS), LOG_SIGMA_SD * rng.normal(size=NUM_REPLICATIONS)
    noise = rng.normal(size=(NUM_REPLICATIONS, NUM_OBSERVATIONS))
    y = mu[:, None] + np.exp(log_sigma)[:, None] * noise
    return {"mu": mu.astype(dtype), "log_sigma": log_sigma.astype(dtype)}, y.astype(dtype)


def p_values(kernel: str, method: str, dtype: str) -> dict[str, float]:
    """Of the chi-square test that ranks are uniform, for every quantity."""
    seed = sum(map(ord, kernel + method + dtype))
    truth, data = replications(seed, dtype)
    start = {name: np.zeros((), dtype) for name in truth}
    model = Model(logdensity, start, data=np.linspace(-1.5, 1.5, NUM_OBSERVATIONS, dtype=dtype))
    settings: dict[str, Any] = {
        "num_samples": NUM_LEFT_OUT + NUM_DRAWS,
        "thin": THIN[kernel],
        "num_chains": 1,
        "num_lanes": 8,
        "kernel": kernel,
        "method": method,
        "progress_bar": False,
    }
    # One warm-up for all data: a kernel that is tuned for others is as exact.
    adaptation = sample(jax.random.key(seed), model, **settings).adaptation
    found = []
    for number, y in enumerate(data):
        key = jax.random.key(1000 * seed + number)
        result = sample(key, model.with_data(y), num_warmup=0, adaptation=adaptation, **settings)
        assert result.status is (Status.SEQUENTIAL if method == "sequential" else Status.CONVERGED)
        found.append(jax.tree.map(lambda leaf: leaf[0, NUM_LEFT_OUT:], result.positions))
    draws = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    ours = {**draws, "log_likelihood": log_likelihood(draws, data[:, None])}
    theirs = {**truth, "log_likelihood": log_likelihood(truth, data)}
    return {name: uniformity(np.asarray(ours[name]), np.asarray(theirs[name])) for name in QUANTITIES}


def uniformity(draws: np.ndarray, truth: np.ndarray) -> float:
    """The p-value of the chi-square test that the rank of `truth`, shape (n,), among `draws` is uniform."""
    ranks = (draws < truth[:, None]).sum(1)
    return float(stats.chisquare(np.bincount(ranks * NUM_BINS // (NUM_DRAWS + 1), minlength=NUM_BINS)).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_ranks_of_true_parameters_are_uniform(kernel, method, dtype):
    with jax.enable_x64(dtype == "float64"):
        found = p_values(kernel, method, dtype)
    assert min(found.values()) > MIN_P, found
