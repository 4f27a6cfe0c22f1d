"""Banana: a Gaussian bent along a parabola.

x1 ~ N(0, 10^2) and x2 | x1 ~ N(0.03 (x1^2 - 100), 1). Haario, Saksman and Tamminen, Adaptive
proposal distribution for random walk Metropolis algorithm, Computational Statistics 14 (1999),
375-395. No single metric suits both arms of the banana, and x2 has a long right tail.
Under common random numbers HMC chains in whitened coordinates do not approach each other, and their
largest Lyapunov exponent is positive; with the multishift moves of `parsample.sample` they meet.
"""

import jax
import numpy as np

SCALE = 10.0
CURVATURE = 0.03


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log density of (x1, x2), up to a constant."""
    x1, x2 = position["x"]
    residual = x2 - CURVATURE * (x1**2 - SCALE**2)
    return -0.5 * ((x1 / SCALE) ** 2 + residual**2)


initial_position = {"x": np.zeros(2)}

dims = {"x": ["axis"]}
coords = {"axis": ["x1", "x2"]}

# Analytic: var(x2) = 1 + CURVATURE^2 var(x1^2), and var(x1^2) = 2 SCALE^4.
reference = {
    "x": {
        "mean": np.zeros(2),
        "sd": np.array([SCALE, np.sqrt(1.0 + 2.0 * CURVATURE**2 * SCALE**4)]),
        "mcse_mean": np.zeros(2),
        "mcse_sd": np.zeros(2),
    }
}

# No "mala": steps short enough for the thin arms need 500 or more for one effective draw.
kernels = ("nuts", "hmc")

# With larger steps the ends of the arms are missed, and the sd of x2 comes out too small.
settings = {"target_acceptance_rate": 0.98, "num_warmup": 2000}
