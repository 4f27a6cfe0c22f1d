"""Metropolis needs no gradients: it runs on log densities that JAX cannot differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
from chains import black_box

from parsample import Status
from parsample.samplers.sample import sample

KEY = jax.random.key(0)


def test_a_black_box_runs_in_blocks_without_gradients():
    result = sample(KEY, black_box, jnp.zeros(2), num_samples=2000, kernel="metropolis", progress_bar=False)
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
    assert result.positions.shape == (4, 2000, 2)
    # At least 0.15 effective draws per draw: five standard errors are 0.15.
    assert np.abs(result.positions.mean((0, 1))).max() < 0.15
    assert np.abs(result.positions.std((0, 1)) - 1).max() < 0.15


def test_a_while_loop_density_needs_no_derivative():
    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] - x @ x / 6), (0, 0.0 * x[0]))[1]

    result = sample(KEY, looped, jnp.zeros(2), num_samples=500, kernel="metropolis", progress_bar=False)
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
