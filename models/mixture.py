"""Mixture of four Gaussians in the plane.

Means (+-2, +-2), unit covariance, equal weights. The two coordinates are then independent, each
an equal mixture of N(-2, 1) and N(2, 1), so the density is written one coordinate at a time.
Chains with shared randomness meet once they have fallen into the same mode.
"""

import jax
import jax.numpy as jnp
import numpy as np

MODE = 2.0


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log density of (x1, x2), up to a constant."""
    x = position["x"]
    return jnp.sum(jnp.logaddexp(-0.5 * (x - MODE) ** 2, -0.5 * (x + MODE) ** 2))


initial_position = {"x": np.array([MODE, -MODE])}

dims = {"x": ["axis"]}
coords = {"axis": ["x1", "x2"]}

# Analytic: each coordinate has variance 1 within a mode plus MODE^2 between the modes.
reference = {
    "x": {
        "mean": np.zeros(2),
        "sd": np.full(2, np.sqrt(1.0 + MODE**2)),
        "mcse_mean": np.zeros(2),
        "mcse_sd": np.zeros(2),
    }
}

kernels = ("nuts", "hmc", "mala")
