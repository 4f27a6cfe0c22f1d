"""What a solve keeps of its way: the merit, the front, and from it the sweeps of shorter paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, affine_step, contraction, fade, logistic_map, noise

from parsample import ParallelStallWarning, Status, deer, merit
from parsample.grid import Grid
from parsample.progress import Tidings, advance, no_progress


def test_the_first_merit_is_that_of_the_guess():
    num_steps = 20
    chain = Recursion(affine_step, jnp.ones(3), noise(num_steps, 3))
    guess = noise(num_steps, 3, seed=1)
    solution = deer(*chain, initial_guess=guess)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    # Starts of blocks are compared; the state after the last step is no block's start, and right by construction.
    expected = merit(chain.step, chain.initial_state, chain.inputs[:-1], guess[:-1])
    np.testing.assert_allclose(float(solution.merit_history[0]), float(expected), rtol=1e-12)
    assert float(solution.merit_history[1]) < 1e-20
    assert np.isnan(solution.merit_history[2:]).all()


@pytest.mark.parametrize("block_size", [1, 5])
def test_the_first_merit_is_half_the_sum_of_squared_defects(block_size):
    chain = Recursion(fade, jnp.array(0.0), noise(20))
    solution = deer(*chain, block_size=block_size, scale=jnp.array(1.0))
    assert Status(int(solution.status)) is Status.CONVERGED
    np.testing.assert_allclose(
        float(solution.merit_history[0]), float(jnp.square(solution.block_defects[0]).sum() / 2), rtol=1e-12
    )


@pytest.mark.slow
def test_one_long_solve_tells_the_sweeps_of_every_shorter_one():
    chain, unit = contraction(60), {"x": jnp.ones(2), "y": jnp.array(1.0)}
    solution = deer(*chain, scale=unit, stall_after=1000)
    assert Status(int(solution.status)) is Status.CONVERGED
    lengths = [3, 30, 60]
    separate = []
    for length in lengths[:2]:
        inputs = jax.tree.map(lambda leaf, n=length: leaf[:n], chain.inputs)
        separate.append(int(deer(*chain._replace(inputs=inputs), scale=unit, stall_after=1000).num_iters))
    assert solution.sweeps_for(lengths).tolist() == [*separate, int(solution.num_iters)]
    assert separate[0] < separate[1] <= int(solution.num_iters)
    assert solution.sweeps_for([[1, 30]]).tolist() == [[1, separate[1]]]
    assert float(solution.sweeps_for(30)) == separate[1]
    assert np.isinf(solution.sweeps_for(61))
    front = np.asarray(solution.prefix_history[: int(solution.num_iters)])
    assert (np.diff(front) >= 0).all()
    assert front[-1] == 60


def test_what_a_stopped_solve_did_not_reach_takes_for_ever():
    with pytest.warns(ParallelStallWarning, match="stopped at max_iters"):
        solution = deer(*logistic_map(100), max_iters=5, scale=jnp.ones(1))
    assert Status(int(solution.status)) is Status.MAX_ITERS
    reached = int(solution.prefix_history.max())
    assert 5 <= reached < 100
    assert np.isfinite(solution.sweeps_for([reached, reached + 1])).tolist() == [True, False]


def test_a_solve_without_histories_says_so():
    solution = deer(fade, jnp.array(0.0), noise(40), window=20)
    assert Status(int(solution.status)) is Status.CONVERGED
    with pytest.raises(ValueError, match="kept no prefix_history"):
        solution.sweeps_for([10])


@pytest.mark.parametrize(("num_met", "front"), [([2, 1], 3), ([1, 2], 1), ([2, 2], 4), ([0, 2], 0)])
def test_the_front_ends_where_the_first_device_has_not_met(num_met, front):
    counts, grid = jnp.array(num_met), Grid(40, 10, 2)
    heard = Tidings(counts, jnp.array([False, False]), 2 - counts, counts, jnp.array([0.5, 2.0]), jnp.array([1.0, 3.0]))
    progress = advance(no_progress(4, jnp.float64), heard, grid)
    assert (int(progress.num_iters), int(progress.front), int(progress.met_fronts[0])) == (1, front, front)
    assert int(progress.unmet[0]) == 4 - sum(num_met)
    assert (float(progress.defects[0]), float(progress.merits[0])) == (2.0, 2.0)
    assert np.isnan(progress.defects[1:]).all()
    assert not bool(progress.hopeless)
