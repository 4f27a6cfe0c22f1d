"""Ill-conditioned Gaussian in 20 dimensions.

The covariance has eigenvalues spaced evenly on a log scale from 10^-4 to 1 (condition number
10^4), and the orthonormal sine transform as eigenvectors, so that no diagonal metric whitens
it; a dense metric does. Accepted steps are linear maps, so the largest Lyapunov exponent has a
formula.
"""

import jax
import jax.numpy as jnp
import numpy as np

D = 20
EIGENVALUES = np.logspace(-4.0, 0.0, D)
MEAN = np.linspace(-1.0, 1.0, D)

# Orthonormal sine transform (DST-I), a symmetric orthogonal matrix.
INDEX = np.arange(1, D + 1)
EIGENVECTORS = np.sqrt(2.0 / (D + 1)) * np.sin(np.pi * np.outer(INDEX, INDEX) / (D + 1))
WHITEN = EIGENVECTORS / np.sqrt(EIGENVALUES)[:, None]


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log density, up to a constant, as a sum of squares in the eigenbasis."""
    return -0.5 * jnp.sum((WHITEN @ (position["x"] - MEAN)) ** 2)


initial_position = {"x": np.zeros(D)}

dims = {"x": ["component"]}
coords = {"component": INDEX}

# Analytic: the mean, and the diagonal of the covariance.
reference = {
    "x": {
        "mean": MEAN,
        "sd": np.sqrt(EIGENVECTORS**2 @ EIGENVALUES),
        "mcse_mean": np.zeros(D),
        "mcse_sd": np.zeros(D),
    }
}

kernels = ("nuts", "hmc", "mala")
