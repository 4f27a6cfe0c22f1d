"""The leapfrog recursion against BlackJAX's integrator, and parallel solves along its steps with 2 x 2 blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import new_integrator_state, velocity_verlet
from blackjax.mcmc.metrics import default_metric
from chains import gaussian, gaussian_start, logistic_regression, logistic_regression_start
from jax.flatten_util import ravel_pytree

from benchmarks.papers.tools.leapfrog import PhasePoint, leapfrog_step
from benchmarks.papers.tools.linearizations import BlockDiagonal
from parsample import Diagonal, Status, deer, rollout

STEPS = jnp.arange(32)


def recursion(logdensity, start, momentum, step_size, metric):
    """Log density, leapfrog step and first phase point of a trajectory; the momentum is half a step ahead."""
    position, unravel = ravel_pytree(start)

    def of_vector(vector):
        return logdensity(unravel(vector))

    ahead = momentum + step_size / 2 * jax.grad(of_vector)(position)
    return of_vector, leapfrog_step(of_vector, step_size, metric), PhasePoint(position, ahead)


@pytest.mark.slow
def test_trajectories_end_where_blackjax_ends():
    metric, momentum = jnp.array([0.5, 1.0, 2.0, 0.7]), jnp.array([1.0, 0.3, -2.0, -0.7])
    target, step, first = recursion(logistic_regression, logistic_regression_start(), momentum, 0.03, metric)
    advance = velocity_verlet(target, default_metric(metric).kinetic_energy)
    begin = new_integrator_state(target, first.position, momentum)
    end = jax.lax.fori_loop(0, 32, lambda _, state: advance(state, 0.03), begin)
    solution = deer(step, first, STEPS, linearization=BlockDiagonal(2), clip=None, max_step=None)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) < 12
    for path in (solution.states, rollout(step, first, STEPS)):
        position, ahead = path.position[-1], path.momentum[-1]
        np.testing.assert_allclose(position, end.position, atol=1e-10)
        np.testing.assert_allclose(ahead - 0.015 * jax.grad(target)(position), end.momentum, atol=1e-10)


@pytest.mark.slow
def test_small_blocks_need_fewer_sweeps_than_a_diagonal():
    # Coordinates of this target do not interact: 2 x 2 blocks are the whole Jacobian, and its dynamics are linear.
    _, step, first = recursion(gaussian, gaussian_start(), jnp.ones(3), 0.03, jnp.array([1.0, 0.5, 0.3]))
    settings = {"clip": None, "max_step": None, "stall_after": 1000}
    blocks, diagonal = (
        deer(step, first, STEPS, linearization=each, **settings) for each in (BlockDiagonal(2), Diagonal())
    )
    assert (Status(int(blocks.status)), int(blocks.num_iters)) == (Status.CONVERGED, 2)
    assert Status(int(diagonal.status)) is Status.CONVERGED
    assert int(diagonal.num_iters) > 10
    np.testing.assert_allclose(diagonal.states.position, blocks.states.position, atol=1e-8)
