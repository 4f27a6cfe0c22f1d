"""The grid: every step of a chain has one place in it."""

import jax.numpy as jnp
import numpy as np
import pytest

from parsample.solver.grid import Grid


@pytest.mark.parametrize(("num_steps", "block_size", "num_devices"), [(20, 4, 1), (21, 4, 2), (3, 5, 4), (40, 4, 5)])
def test_every_step_has_one_place_in_the_grid(num_steps, block_size, num_devices):
    grid = Grid(num_steps, block_size, num_devices)
    assert grid.num_blocks == -(-num_steps // block_size)
    assert grid.num_lanes % num_devices == 0
    steps = np.asarray(grid.steps())
    last = grid.num_lanes - grid.lanes_per_device
    running = np.stack([np.asarray(grid.running(last, jnp.asarray(step))) for step in range(block_size)])
    np.testing.assert_array_equal(running, steps[:, last:] < num_steps)
    assert sorted(steps[steps < num_steps]) == list(range(num_steps))
    assert grid.is_ragged == bool((steps >= num_steps).any())
    arranged = grid.arrange(jnp.arange(num_steps))
    np.testing.assert_array_equal(arranged, np.minimum(steps, num_steps - 1))
    np.testing.assert_array_equal(grid.flatten(arranged)[:num_steps], np.arange(num_steps))
