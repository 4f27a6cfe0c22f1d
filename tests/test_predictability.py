"""Conditioning, merit and the growth of sweeps, against singular values, sums and longer solves."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX, Recursion, contraction, fade, logistic_map, noise

from parsample import ParallelStallWarning, Solution, Status, conditioning, deer, merit, predicted_sweeps, rollout


def residual_jacobian(factors: np.ndarray, num_steps: int) -> np.ndarray:
    """Identities on the diagonal, -A below it, for a step whose Jacobian is the same everywhere."""
    below = np.eye(num_steps, k=-1)
    return np.eye(num_steps * len(factors)) - np.kron(below, factors)


def log_smallest(matrix: np.ndarray) -> float:
    """Logarithm of the smallest singular value, which may be far below rounding."""
    return -np.log(np.linalg.norm(np.linalg.inv(matrix), 2))


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.0, 1.01, 2.0])
def test_bounds_enclose_the_smallest_singular_value_of_scalar_recursions(factor):
    num_steps = 60
    jacobian = residual_jacobian(np.array([[factor]]), num_steps)
    found = conditioning(np.log(factor), num_steps, largest_norm=factor)
    log_mu = 2 * log_smallest(jacobian)
    assert found.log_mu_lower <= log_mu <= found.log_mu_upper
    assert np.log(np.linalg.norm(jacobian, 2)) - log_mu / 2 <= found.log_condition
    if factor == 0.5:  # predictable: mu is (1 - 0.5)^2 and the condition 1.5 / 0.5, however long the path
        np.testing.assert_allclose([found.log_mu_lower, log_mu], 2 * np.log(0.5), atol=0.01)
        np.testing.assert_allclose(found.log_condition, np.log(3), rtol=1e-6)
    if factor == 2.0:  # chaotic: exponentially small, and known within a factor of four
        assert log_mu < -80
        assert found.log_mu_upper - found.log_mu_lower < np.log(4) + 1e-6


def test_bounds_enclose_the_smallest_singular_value_where_growth_is_not_normal():
    factors, num_steps = MATRIX + np.triu(2 * np.ones((3, 3)), 1), 40
    lle = np.log(np.abs(np.linalg.eigvals(factors)).max())
    norms = [np.linalg.norm(np.linalg.matrix_power(factors, k), 2) * np.exp(-lle * k) for k in range(num_steps)]
    assert max(norms) > 2
    found = conditioning(lle, num_steps, overshoot=max(norms), undershoot=min(norms), largest_norm=norms[1])
    log_mu = 2 * log_smallest(residual_jacobian(factors, num_steps))
    assert found.log_mu_lower <= log_mu <= found.log_mu_upper


def test_logarithms_do_not_overflow():
    found = conditioning(1.0, 1_000_000)
    np.testing.assert_allclose([found.log_mu_lower, found.log_mu_upper], -2e6, rtol=1e-5)
    assert found.log_condition > 1e6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1; got 0"),
        ({"lle": -np.inf}, "lle must be finite; got -inf"),
        ({"overshoot": 0.5}, r"overshoot must be at least 1.*0\.5"),
        ({"undershoot": 0.0}, r"undershoot within \(0, 1\].*0\.0"),
        ({"largest_norm": np.nan}, "largest_norm not negative.*nan"),
    ],
    ids=str,
)
def test_constants_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        conditioning(**{"lle": 0.1, "num_steps": 10} | settings)


# The merit function


def test_merit_is_half_the_sum_of_squared_residuals_and_zero_on_the_rollout():
    chain = contraction(30)
    path = rollout(*chain)
    assert float(merit(*chain, path)) < 1e-28
    guess = jax.tree.map(jnp.zeros_like, path)
    start = jax.tree.map(lambda leaf: leaf[0], chain.inputs)
    first = chain.step(chain.initial_state, start)
    rest = jax.vmap(lambda drive: chain.step(jax.tree.map(jnp.zeros_like, start), drive))(chain.inputs)
    squares = sum(np.sum(np.square(np.asarray(leaf)[1:])) for leaf in jax.tree.leaves(rest))
    squares += sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(first))
    np.testing.assert_allclose(float(merit(*chain, guess)), squares / 2, rtol=1e-12)


def test_a_path_of_the_wrong_shape_has_no_merit():
    with pytest.raises(ValueError, match=r"states have shapes \(3,\); they must have those of the path, \(4,\)"):
        merit(fade, jnp.array(0.0), noise(4), jnp.zeros(3))


# Sweeps of longer paths


@cache
def solved(name: str, num_steps: int) -> Solution:
    chain = contraction(num_steps) if name == "contraction" else logistic_map(num_steps)
    return deer(*chain, scale=jax.tree.map(jnp.ones_like, chain.initial_state), stall_after=10_000)


@pytest.mark.parametrize(
    ("name", "least", "most"), [pytest.param("contraction", 1.0, 1.25, marks=pytest.mark.slow), ("chaos", 1.6, 2.05)]
)
def test_sweeps_of_a_path_twice_as_long_are_foretold(name, least, most):
    """Sweeps grow with the length of chaotic paths, and hardly with that of predictable ones."""
    short, long = solved(name, 200), solved(name, 400)
    assert int(short.status) == int(long.status) == Status.CONVERGED
    sweeps = int(short.num_iters)
    assert predicted_sweeps(short, 200) == pytest.approx(sweeps)
    assert least <= predicted_sweeps(short, 400) / sweeps <= most
    assert predicted_sweeps(short, 400) == pytest.approx(int(long.num_iters), rel=0.2)


def test_nothing_is_foretold_from_a_solve_that_did_not_converge():
    with pytest.warns(ParallelStallWarning, match="stopped at max_iters"):
        solution = deer(*logistic_map(100), scale=jnp.ones(1), max_iters=30, stall_after=1000)
    assert Status(int(solution.status)) is Status.MAX_ITERS
    assert int(solution.exact_prefix) > 16
    assert predicted_sweeps(solution, 200) == np.inf


def test_a_short_solve_foretells_nothing():
    chain = Recursion(fade, jnp.array(0.0), noise(12))
    with pytest.raises(ValueError, match="solution has 12 steps; at least 16 are needed"):
        predicted_sweeps(deer(*chain), 100)
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 1; got 0"):
        predicted_sweeps(deer(*chain), 0)
