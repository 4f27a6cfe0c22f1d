"""Metropolis needs no gradients: it runs on log densities that JAX cannot differentiate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import black_box
from kernel_steps import KEYS, exact_draws, state_of, step, target

from parsample import Status
from parsample.chain.multishift import lattice_point
from parsample.internal.threefry import step_uniforms
from parsample.kernels.metropolis import Metropolis
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


@pytest.mark.parametrize("needs_evaluation", [False, True])
def test_a_step_decides_on_one_coordinate_after_another(needs_evaluation):
    kernel, moves = Metropolis(), set()
    one_step = jax.jit(partial(step, kernel, 5, needs_evaluation))
    for key, start in zip(KEYS[:20], exact_draws(), strict=False):
        known = state_of(kernel, jnp.asarray(start))
        found, statistics = one_step(key, known._replace(logdensity=jnp.asarray(99.0)) if needs_evaluation else known)
        uniforms = np.asarray(step_uniforms(jnp.asarray(key), jnp.int32(5), 0, 8, np.dtype(float)))
        proposals = lattice_point(jnp.asarray(uniforms[:6].reshape(3, 2)), jnp.asarray(start), 2.4)
        position, rates = np.array(start), []
        for i in range(2):
            moved = np.where(np.arange(2) == i, proposals, position)
            rates.append(min(1.0, float(jnp.exp(target(moved) - target(position)))))
            position = moved if uniforms[6 + i] < rates[-1] else position
        moves.add(tuple((position != start).tolist()))
        np.testing.assert_allclose(found.position, position, rtol=1e-12)
        assert float(found.logdensity) == pytest.approx(float(target(position)), rel=1e-12)
        assert float(statistics.acceptance_rate) == pytest.approx(np.mean(rates), rel=1e-9)
    assert len(moves) == 4
