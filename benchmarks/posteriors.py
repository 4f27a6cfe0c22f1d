"""The posteriors of the suite. Nothing here imports a sampler, so that each library is charged only its own imports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

MODELS = Path(__file__).parent.parent / "models"
MODEL_STEMS = tuple(sorted(path.stem for path in MODELS.glob("*.py")))


@dataclass(frozen=True)
class Posterior:
    """A log density, its initial position, other arguments of `parsample.sample`, and its number of data rows."""

    name: str
    logdensity: Callable
    initial_position: Any
    settings: dict[str, Any] = field(default_factory=dict)
    num_rows: int = 0

    @property
    def dimension(self) -> int:
        return ravel_pytree(self.initial_position)[0].size


@cache
def model_posterior(stem: str) -> Posterior:
    """A posterior of models/, by the name of its file; always the same object, so that compiled code is reused."""
    model = import_module(f"models.{stem}")
    start = jax.tree.map(jnp.asarray, model.initial_position)
    return Posterior(stem, model.logdensity, start, getattr(model, "settings", {}))


def logistic_posterior(features: np.ndarray, seed: int = 0) -> Posterior:
    """A logistic regression on given features, with simulated outcomes and a standard normal prior."""
    rng = np.random.default_rng(seed)
    num_rows, num_features = features.shape
    beta = rng.normal(size=num_features) / num_features**0.5
    sign = np.where(rng.random(num_rows) < 1 / (1 + np.exp(-features @ beta)), 1.0, -1.0)
    signed = sign[:, None] * features

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        margin = signed @ position["beta"]
        # log(1 + exp(-margin)) as in models/logistic_regression.py: XLA's log1p takes three times as long on a CPU.
        loss = jnp.maximum(-margin, 0) + jnp.log(1 + jnp.exp(-jnp.abs(margin)))
        return -jnp.sum(loss) - 0.5 * jnp.sum(position["beta"] ** 2)

    start = {"beta": jnp.zeros(num_features)}
    return Posterior(f"logistic_{num_rows}x{num_features}", logdensity, start, num_rows=num_rows)


def synthetic_logistic(num_rows: int = 4000, num_features: int = 40) -> Posterior:
    """A logistic regression on independent Gaussian features."""
    return logistic_posterior(np.random.default_rng(0).normal(size=(num_rows, num_features)))


def embeddings_logistic(num_rows: int = 1000, num_features: int = 768) -> Posterior:
    """A logistic regression on synthetic features that resemble text embeddings.

    Vectors of about unit length, with random principal directions and principal variances proportional to
    rank^(-1/2); multiplied by 4, so that outcomes depend on them.
    """
    rng = np.random.default_rng(0)
    sd = np.arange(1, num_features + 1) ** -0.25
    directions = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0]
    features = rng.normal(size=(num_rows, num_features)) * (sd / np.linalg.norm(sd)) @ directions
    return logistic_posterior(4 * features)


def poisson_hierarchical(num_rows: int = 400, num_groups: int = 40) -> Posterior:
    """Counts in groups: log rates from three covariates and a group effect of unknown spread, not centred."""
    rng = np.random.default_rng(1)
    covariates, group = rng.normal(size=(num_rows, 3)), rng.integers(num_groups, size=num_rows)
    effects = 0.5 * rng.normal(size=num_groups)
    counts = rng.poisson(np.exp(1.0 + covariates @ np.array([0.3, -0.2, 0.1]) + effects[group]))
    member = np.eye(num_groups)[group]

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        level, beta, log_tau, raw = (position[name] for name in ("level", "beta", "log_tau", "raw"))
        eta = level + covariates @ beta + jnp.exp(log_tau) * (member @ raw)
        log_prior = -0.5 * (level**2 + jnp.sum(beta**2) + jnp.sum(raw**2)) + log_tau - 0.5 * jnp.exp(2 * log_tau)
        return log_prior + jnp.sum(counts * eta - jnp.exp(eta))

    start = {"level": jnp.zeros(()), "beta": jnp.zeros(3), "log_tau": jnp.zeros(()), "raw": jnp.zeros(num_groups)}
    return Posterior(f"poisson_hierarchical_{num_rows}", logdensity, start)


def state_space(num_rows: int = 300) -> Posterior:
    """A time series of counts: the log rate is a level plus a first-order autoregression, one state per row.

    Persistence and innovation are unknown, so the dimension is the number of rows plus 3.
    """
    rng = np.random.default_rng(2)
    states = np.zeros(num_rows)
    for t in range(1, num_rows):
        states[t] = 0.9 * states[t - 1] + 0.3 * rng.normal()
    counts = rng.poisson(np.exp(1.5 + states))

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        level, logit_phi, log_sigma, h = (position[name] for name in ("level", "logit_phi", "log_sigma", "h"))
        phi, sigma = jax.nn.sigmoid(logit_phi), jnp.exp(log_sigma)
        # phi ~ Beta(10, 2) with its Jacobian; log sigma ~ N(-1, 0.5^2); the first state has the stationary variance.
        log_prior = 10 * jnp.log(phi) + 2 * jnp.log1p(-phi) - 2 * (log_sigma + 1) ** 2 - 0.5 * level**2
        innovations = (h[1:] - phi * h[:-1]) / sigma
        first = 0.5 * jnp.log1p(-(phi**2)) - 0.5 * (1 - phi**2) * (h[0] / sigma) ** 2
        log_states = first - 0.5 * jnp.sum(innovations**2) - num_rows * log_sigma
        eta = level + h
        return log_prior + log_states + jnp.sum(counts * eta - jnp.exp(eta))

    start = {
        "level": jnp.asarray(1.0),
        "logit_phi": jnp.asarray(2.0),
        "log_sigma": jnp.asarray(-1.0),
        "h": jnp.zeros(num_rows),
    }
    return Posterior(f"state_space_{num_rows}", logdensity, start)


def gaussian(dimension: int) -> Posterior:
    """Independent coordinates whose standard deviations run from 0.1 to 1."""
    sd = np.logspace(-1, 0, dimension)

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        return -0.5 * jnp.sum((position["x"] / sd) ** 2)

    return Posterior(f"gaussian_{dimension}", logdensity, {"x": jnp.zeros(dimension)})


def narrow_banana() -> Posterior:
    """A banana narrower than that of models/: x1 ~ N(0, 5^2), x2 | x1 ~ N(0.05 (x1^2 - 25), 0.8^2)."""

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        x1, x2 = position["x"]
        return -0.5 * ((x1 / 5) ** 2 + ((x2 - 0.05 * (x1**2 - 25)) / 0.8) ** 2)

    return Posterior("narrow_banana", logdensity, {"x": jnp.zeros(2)})


# Posteriors without a file in models/, by their name on the command line.
MADE: dict[str, Callable[[], Posterior]] = {
    "logistic_4000x40": synthetic_logistic,
    "logistic_600x12": partial(synthetic_logistic, 600, 12),
    "poisson_hierarchical": poisson_hierarchical,
    "state_space": state_space,
    "narrow_banana": narrow_banana,
}


def posterior_of(name: str) -> Posterior:
    """A posterior of models/ or of `MADE` by its name."""
    return MADE[name]() if name in MADE else model_posterior(name)
