"""The work of the suite: chains of BlackJAX algorithms on its posteriors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.flatten_util import ravel_pytree

from benchmarks.posteriors import Posterior, embeddings_logistic, gaussian, model_posterior, synthetic_logistic


@dataclass(frozen=True, eq=False)
class Problem:
    """Chains of one algorithm.

    Attributes
    ----------
    name
        As shown in tables.
    logdensity
        The log density that is sampled.
    algorithm
        The BlackJAX algorithm.
    positions
        Where the chains start; every leaf has a leading axis of chains.
    num_steps
        T.
    gradients_per_step
        Gradients of the log density that one step takes.
    setting
        Further entries that identify the work: step size, start and so on.
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
        """Entries of a result row that identify the work."""
        return {"T": self.num_steps, "D": self.dimension, "num_chains": self.num_chains, **self.setting}


def laplace(target: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mode of a log density of flat positions, by Newton's method, and the inverse of minus its Hessian there."""
    mode, gradient, hessian = start, jax.jit(jax.grad(target)), jax.jit(jax.hessian(target))
    for _ in range(20):
        mode = mode - jnp.linalg.solve(hessian(mode), gradient(mode))
    covariance = jnp.linalg.inv(-hessian(mode))
    return mode, (covariance + covariance.T) / 2


def laplace_hmc(posterior: Posterior, num_chains: int = 1, num_steps: int = 100_000, name: str = "") -> Problem:
    """HMC whose metric is the curvature at the mode: the same setting on every device, without a warm-up.

    In whitened coordinates the step size is D^(-1/4), for which the acceptance rate hardly depends on D, and the
    trajectory length about 1.2: below pi / 2, at which a Gaussian forgets its start in one step.
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
    """HMC on a Gaussian with its own covariance as metric, which is diagonal and so works in high dimensions."""
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
    """MALA of step 0.0015 on a synthetic logistic regression, 1000 rows and 25 features as in arXiv 2508.18413."""
    posterior = synthetic_logistic(num_rows, 25)
    start = {"beta": 0.1 * jax.random.normal(jax.random.key(1), (num_chains, 25))}
    return _mala(f"logistic {num_rows} x 25, MALA 0.0015", posterior, 0.0015, start, num_steps, "N(0, 0.1^2)")


def embeddings_mala(num_steps: int = 16_384, num_rows: int = 1000, num_features: int = 768) -> Problem:
    """MALA on a logistic regression of synthetic embeddings, 768-dimensional as in arXiv 2508.18413."""
    posterior = embeddings_logistic(num_rows, num_features)
    start = {"beta": jax.random.normal(jax.random.key(1), (1, num_features))}
    name = f"logistic on {num_features}-dimensional embeddings, MALA"
    return _mala(name, posterior, EMBEDDINGS_STEP, start, num_steps, "N(0, 1)")


# Step size at which about six in ten proposals are accepted.
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
