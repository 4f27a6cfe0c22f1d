"""Windows that slide along a path find the rollout with less memory."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, contraction, logistic_map, noise
from marks import slow
from warned import warns_here

from benchmarks.papers.tools.sliding import deer_in_windows
from parsample import Dense, Diagonal, ParallelStallWarning, Status, Zero, deer, rollout

T = 120


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


def largest_difference(states, expected) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (states, expected)), strict=True))


@pytest.mark.parametrize(
    ("window", "block_size", "linearization", "tangents"),
    [
        (30, 1, None, 3),
        slow(64, 8, Diagonal(1), 1),
        slow(16, 16, None, 3),
    ],
    ids=["newton", "blocks", "one-block"],
)
def test_windows_of_any_size_find_the_rollout_and_count_their_work(
    chain, truth, window, block_size, linearization, tangents
):
    settings = {"block_size": block_size, "linearization": linearization or Dense(), "stall_after": 1000}
    solution = deer_in_windows(*chain, window=window, **settings)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert largest_difference(solution.states, truth) < 1e-8
    assert float(solution.defect) < 2e-10
    assert int(solution.exact_prefix) == T
    # Every sweep runs the whole window, with its tangents.
    expected = int(solution.num_iters) * window * (1 + tangents) / T
    np.testing.assert_allclose(float(solution.evals_per_step), expected, rtol=1e-12)
    np.testing.assert_allclose(solution.block_ends[-1], jnp.concatenate([truth["x"][-1], truth["y"][-1:]]), atol=1e-8)


def test_coalescing_blocks_slide_too_and_a_guess_that_is_the_path_costs_one_sweep_a_window(chain, truth):
    solution = deer_in_windows(*chain, window=60, block_size=20, linearization=Zero(), initial_guess=truth)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) == 2
    assert largest_difference(solution.states, truth) < 1e-12


@pytest.mark.slow
def test_a_window_as_long_as_the_path_is_the_plain_solve(chain):
    plain, slid = deer(*chain, block_size=3), deer_in_windows(*chain, block_size=3, window=T)
    assert int(plain.status) == int(slid.status) == Status.CONVERGED
    assert int(plain.num_iters) == int(slid.num_iters)
    for first, second in zip(*map(jax.tree.leaves, (plain.states, slid.states)), strict=True):
        np.testing.assert_array_equal(first, second)


def jumps_of_chaos(solution, chaos: Recursion) -> np.ndarray:
    before = jnp.concatenate([chaos.initial_state[None], solution.states[:-1]])
    return np.abs(jax.vmap(chaos.step)(before, chaos.inputs) - solution.states)[:, 0]


@pytest.mark.slow
def test_chaos_stalls_in_a_window_and_is_finished_step_by_step():
    chaos = logistic_map(600)
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        solution = deer_in_windows(*chaos, window=100)
    assert Status(int(solution.status)) is Status.STALLED
    prefix, jumps = int(solution.exact_prefix), jumps_of_chaos(solution, chaos)
    assert 1 <= prefix < 600
    assert jumps[prefix:].max() == 0
    assert jumps.max() < 1e-10
    if prefix < 100:  # the solve stalled in the first window, whose beginning is exact
        np.testing.assert_array_equal(solution.states, rollout(*chaos))
    # The rest was evaluated step by step, so every step costs at least one evaluation.
    assert float(solution.evals_per_step) >= 1


def test_windows_of_few_blocks_get_through_chaos_within_tolerance():
    chaos = logistic_map(600)
    solution = deer_in_windows(*chaos, block_size=16, window=64)
    assert Status(int(solution.status)) is Status.CONVERGED
    # Differences double at every step, so the path soon departs from the rollout, but it is still a path of this map.
    assert jumps_of_chaos(solution, chaos).max() < 1e-9
    np.testing.assert_allclose(solution.states[:16], rollout(*chaos)[:16], rtol=1e-9)


@pytest.mark.slow
def test_what_lies_beyond_the_part_that_is_wanted_may_overflow():
    # The map attracts small states and repels large ones: blocks that start from guesses of 3 overflow until corrected.
    chain = Recursion(lambda s, u: 0.5 * s + s**3 + 0.01 * u, jnp.zeros(1), noise(160, 1))
    settings = {"window": 80, "block_size": 10, "initial_guess": jnp.full((160, 1), 3.0), "clip": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = deer_in_windows(*chain, **settings, stall_after=1000)
    assert Status(int(solution.status)) is Status.CONVERGED
    np.testing.assert_allclose(solution.states, rollout(*chain), atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0}, "window must be a whole number of at least 1; got 0"),
        ({"window": 7, "block_size": 8}, "window must be a whole number of at least 8; got 7"),
        ({"window": 121}, "window=121 exceeds the T=120 steps"),
        ({"window": 10, "max_iters": 3}, "max_iters does not go with window="),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together(chain, settings, words):
    with pytest.raises(ValueError, match=words):
        deer_in_windows(*chain, **settings)
