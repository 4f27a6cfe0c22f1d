"""The work of the suite: posteriors, and chains of BlackJAX algorithms on them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.flatten_util import ravel_pytree

from parsample.model import load_model

MODELS = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class Posterior:
    """A log density, where to start, what `parsample.sample` is asked for besides, and rows of data that it reads."""

    name: str
    logdensity: Callable
    initial_position: Any
    settings: dict[str, Any] = field(default_factory=dict)
    num_rows: int = 0

    @property
    def dimension(self) -> int:
        return ravel_pytree(self.initial_position)[0].size


@dataclass(frozen=True, eq=False)
class Problem:
    """Chains of one algorithm.

    Attributes
    ----------
    name
        As shown in tables.
    logdensity
        What is sampled.
    algorithm
        The BlackJAX algorithm.
    positions
        Where the chains start; every leaf has a leading axis of chains.
    num_steps
        T.
    gradients_per_step
        Gradients of the log density that one step takes.
    setting
        What else identifies the work: step size, start and so on.
    """

    name: str
    logdensity: Callable
    algorithm: SamplingAlgorithm
    positions: Any
    num_steps: int
    gradients_per_step: int
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def num_chains(self) -> int:
        return jax.tree.leaves(self.positions)[0].shape[0]

    @property
    def dimension(self) -> int:
        return sum(leaf[0].size for leaf in jax.tree.leaves(self.positions))

    def identity(self) -> dict[str, Any]:
        """What a row of results says of the work."""
        return {"T": self.num_steps, "D": self.dimension, "num_chains": self.num_chains, **self.setting}


@cache
def model_posterior(stem: str) -> Posterior:
    """A posterior of models/, by the name of its file; always the same object, so that compiled code is reused."""
    model = load_model(str(MODELS / f"{stem}.py"))
    return Posterior(stem, model.logdensity, jax.tree.map(jnp.asarray, model.initial_position), model.settings)


def logistic_posterior(features: np.ndarray, seed: int = 0) -> Posterior:
    """A logistic regression on given features, with outcomes drawn for it and a standard normal prior."""
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
    """A logistic regression on what looks like embeddings of texts.

    Vectors of about unit length, whose principal variances fall off as the inverse of the square root of their rank,
    in random directions; times 4, so that outcomes depend on them.
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


def laplace(target: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mode of a log density of flat positions, by Newton's method, and the inverse of minus its Hessian there."""
    mode, gradient, hessian = start, jax.jit(jax.grad(target)), jax.jit(jax.hessian(target))
    for _ in range(20):
        mode = mode - jnp.linalg.solve(hessian(mode), gradient(mode))
    covariance = jnp.linalg.inv(-hessian(mode))
    return mode, (covariance + covariance.T) / 2


def laplace_hmc(posterior: Posterior, num_chains: int = 1, num_steps: int = 100_000, name: str = "") -> Problem:
    """HMC whose metric is the curvature at the mode: the same setting on every device, without a warm-up.

    In whitened coordinates the step size is D^(-1/4), where the acceptance rate hardly depends on D, and a trajectory
    about 1.2 long: short of the pi / 2 at which a Gaussian forgets everything in one step.
    """
    mode, unravel = ravel_pytree(posterior.initial_position)

    def target(x: jax.Array) -> jax.Array:
        return posterior.logdensity(unravel(x))

    mode, covariance = laplace(target, mode)
    step_size = float(mode.size**-0.25)
    num_leapfrogs = max(1, round(1.2 / step_size))
    noise = jax.random.normal(jax.random.key(1), (num_chains, mode.size))
    starts = mode[None] + noise @ jnp.linalg.cholesky(covariance).T
    return Problem(
        name or f"{posterior.name}, HMC",
        posterior.logdensity,
        blackjax.hmc(posterior.logdensity, step_size, covariance, num_leapfrogs),
        jax.vmap(unravel)(starts),
        num_steps,
        num_leapfrogs,
        {
            "step_size": step_size,
            "num_integration_steps": num_leapfrogs,
            "metric": "inverse Hessian at the mode",
            "num_rows": posterior.num_rows,
            "start": "N(mode, inverse Hessian)",
        },
    )


def gaussian_hmc(dimension: int, num_steps: int) -> Problem:
    """HMC on a Gaussian with the metric that fits it, which is diagonal and so works in high dimensions."""
    posterior = gaussian(dimension)
    step_size = dimension**-0.25
    num_leapfrogs = max(1, round(1.2 / step_size))
    variances = jnp.logspace(-1, 0, dimension) ** 2
    start = {"x": jnp.sqrt(variances)[None] * jax.random.normal(jax.random.key(1), (1, dimension))}
    algorithm = blackjax.hmc(posterior.logdensity, step_size, variances, num_leapfrogs)
    setting = {"step_size": step_size, "num_integration_steps": num_leapfrogs, "start": "the Gaussian itself"}
    return Problem(posterior.name, posterior.logdensity, algorithm, start, num_steps, num_leapfrogs, setting)


def banana_hmc(num_chains: int = 1, num_steps: int = 100_000) -> Problem:
    """HMC of 8 leapfrog steps of 0.5 on the banana (arXiv 2508.18413)."""
    posterior = model_posterior("banana")
    algorithm = blackjax.hmc(posterior.logdensity, 0.5, jnp.ones(2), 8)
    start = {"x": 10 * jax.random.normal(jax.random.key(1), (num_chains, 2))}
    setting = {"step_size": 0.5, "num_integration_steps": 8, "start": "N(0, 10^2)"}
    return Problem("banana, HMC 0.5 x 8", posterior.logdensity, algorithm, start, num_steps, 8, setting)


def mixture_mala(num_chains: int = 1, num_steps: int = 100_000) -> Problem:
    """MALA of step 0.5 on the mixture of four Gaussians (arXiv 2508.18413)."""
    posterior = model_posterior("mixture")
    start = {"x": 2 * jax.random.normal(jax.random.key(1), (num_chains, 2))}
    return _mala("mixture, MALA 0.5", posterior, 0.5, start, num_steps, "N(0, 2^2)")


def logistic_mala(num_chains: int = 2, num_steps: int = 2048, num_rows: int = 1000) -> Problem:
    """MALA of step 0.0015 on a logistic regression of 1000 rows and 25 features (arXiv 2508.18413), ours synthetic."""
    posterior = synthetic_logistic(num_rows, 25)
    start = {"beta": 0.1 * jax.random.normal(jax.random.key(1), (num_chains, 25))}
    return _mala(f"logistic {num_rows} x 25, MALA 0.0015", posterior, 0.0015, start, num_steps, "N(0, 0.1^2)")


def embeddings_mala(num_steps: int = 16_384, num_rows: int = 1000, num_features: int = 768) -> Problem:
    """MALA on a logistic regression of 768-dimensional embeddings (arXiv 2508.18413), ours synthetic."""
    posterior = embeddings_logistic(num_rows, num_features)
    start = {"beta": jax.random.normal(jax.random.key(1), (1, num_features))}
    name = f"logistic on {num_features}-dimensional embeddings, MALA"
    return _mala(name, posterior, EMBEDDINGS_STEP, start, num_steps, "N(0, 1)")


# Accepts about six proposals in ten.
EMBEDDINGS_STEP = 0.02


def _mala(name: str, posterior: Posterior, step_size: float, start: Any, num_steps: int, where: str) -> Problem:
    algorithm = blackjax.mala(posterior.logdensity, step_size)
    setting = {"step_size": step_size, "start": where, "num_rows": posterior.num_rows}
    return Problem(name, posterior.logdensity, algorithm, start, num_steps, 1, setting)


def real_logistic(num_chains: int = 1, num_steps: int = 100_000) -> Problem:
    """HMC on the breast cancer regression."""
    posterior = replace(model_posterior("logistic_regression"), num_rows=569)
    return laplace_hmc(posterior, num_chains, num_steps, "logistic 569 x 11 (real), HMC")


def large_logistic(num_chains: int = 1, num_steps: int = 100_000, num_rows: int = 4000) -> Problem:
    """HMC on a synthetic regression of 40 features."""
    return laplace_hmc(
        synthetic_logistic(num_rows, 40), num_chains, num_steps, f"logistic {num_rows} x 40 (synthetic), HMC"
    )
