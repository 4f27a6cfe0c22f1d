"""Conditioning, merit and the growth of sweeps, against singular values, sums and longer solves."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX, Recursion, affine, affine_step, contraction, fade, logistic_map, noise
from warned import warns_here

from benchmarks.papers.tools.predictability import (
    conditioning,
    lyapunov_spectrum,
    merit,
    overshoot,
    predicted_sweeps,
    spectral_norms,
    sweeps_for,
)
from benchmarks.papers.tools.sliding import deer_in_windows
from models.recursions.flows import flow
from parsample import Solution, Status, UncertifiedChainWarning, deer, lyapunov_exponent, rollout


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
    if factor == 0.5:  # predictable: mu is (1 - 0.5)^2 and the condition 1.5 / 0.5, at any length
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "most"), [("contraction", 1.0, 1.25), ("chaos", 1.6, 2.05)])
def test_sweeps_of_a_path_twice_as_long_are_foretold(name, least, most):
    """Sweeps grow with the length of chaotic paths, and hardly with that of predictable ones."""
    short, long = solved(name, 200), solved(name, 400)
    assert int(short.status) == int(long.status) == Status.CONVERGED
    sweeps = int(short.num_iters)
    assert predicted_sweeps(short, 200) == pytest.approx(sweeps)
    assert least <= predicted_sweeps(short, 400) / sweeps <= most
    assert predicted_sweeps(short, 400) == pytest.approx(int(long.num_iters), rel=0.2)


def test_nothing_is_foretold_from_a_solve_that_did_not_converge():
    with warns_here(UncertifiedChainWarning, match="stopped at max_iters"):
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


# Overshoot: growth of products of Jacobians beyond their exponent

SHEAR = np.array([[0.5, 20.0], [0.0, 0.4]])  # grows at first, then shrinks


def test_overshoot_is_the_least_that_bounds_every_stretch():
    chain = Recursion(lambda s, u: jnp.asarray(SHEAR) @ s + u, jnp.ones(2), noise(60, 2))
    result = lyapunov_exponent(*chain, num_probes=64)
    level = np.concatenate([np.zeros((64, 1)), np.cumsum(np.asarray(result.growth), axis=1)], axis=1)
    steps = np.arange(61)
    excess = level[:, None, :] - level[:, :, None] - float(result.lle) * (steps[None] - steps[:, None])[None]
    excess = np.where((steps[None] >= steps[:, None])[None], excess, -np.inf)
    assert np.log(overshoot(result)) == pytest.approx(excess.max(), abs=1e-9)
    # The norm of a product of Jacobians bounds the growth of every tangent; the largest of many comes near it.
    products = [np.linalg.norm(np.linalg.matrix_power(SHEAR, k), 2) * np.exp(-float(result.lle) * k) for k in steps]
    assert 0.8 * max(products) <= overshoot(result) <= max(products) * (1 + 1e-9)
    assert max(products) > 20


def test_overshoot_of_a_normal_matrix_is_one():
    chain = Recursion(lambda s, u: 0.9 * s + u, jnp.ones(2), noise(60, 2))
    assert overshoot(lyapunov_exponent(*chain)) == pytest.approx(1, abs=1e-9)


# All exponents


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues():
    found = lyapunov_spectrum(*affine(3000), num_discarded=100)
    moduli = np.sort(np.abs(np.linalg.eigvals(MATRIX)))[::-1]
    np.testing.assert_allclose(found.exponents, np.log(moduli), atol=1e-3)
    np.testing.assert_allclose(found.growth.sum(1), np.log(abs(np.linalg.det(MATRIX))), rtol=1e-10)
    assert found.growth.shape == (3000, 3)
    first = lyapunov_spectrum(*affine(3000), num_exponents=1, num_discarded=100)
    assert first.exponents.shape == first.se.shape == (1,)
    np.testing.assert_allclose(first.exponents[0], found.exponents[0], atol=1e-3)


def test_exponents_of_the_lorenz_attractor_add_up_to_its_divergence():
    chain, dt = flow("Lorenz", 10_000), 0.01
    found = lyapunov_spectrum(*chain, num_discarded=1000, dt=dt)
    before = jnp.concatenate([chain.initial_state[None], rollout(*chain)[:-1]])
    jacobians = jax.vmap(jax.jacfwd(chain.step))(before, chain.inputs)
    determinants = np.log(np.abs(np.linalg.det(np.asarray(jacobians))))
    np.testing.assert_allclose(found.exponents.sum(), determinants[1000:].mean() / dt, rtol=1e-9)
    # The divergence of the flow is -(sigma + 1 + beta); Euler's steps deviate from it to first order in dt.
    np.testing.assert_allclose(found.exponents.sum(), -(10 + 1 + 8 / 3), rtol=0.03)
    # The exponent in the direction of the path is 0.
    assert abs(float(found.exponents[1])) < 5 * float(found.se[1]) + 0.05
    assert float(found.exponents[0]) > 0.7
    assert float(found.exponents[2]) < -14


def test_the_largest_of_the_spectrum_is_the_exponent():
    chain = logistic_map(1000)
    both = lyapunov_spectrum(*chain), lyapunov_exponent(*chain)
    np.testing.assert_allclose(float(both[0].exponents[0]), float(both[1].lle), rtol=1e-12)
    np.testing.assert_allclose(float(both[0].se[0]), float(both[1].se), rtol=1e-9)


def test_spectral_norms_are_largest_singular_values():
    chain = contraction(70)
    path = rollout(*chain)
    before = jax.tree.map(
        lambda first, leaf: jnp.concatenate([jnp.asarray(first)[None], leaf[:-1]]), chain.initial_state, path
    )

    def jacobian(state, drive) -> jax.Array:
        vector, unravel = jax.flatten_util.ravel_pytree(state)
        return jax.jacrev(lambda v: jax.flatten_util.ravel_pytree(chain.step(unravel(v), drive))[0])(vector)

    expected = np.linalg.norm(np.asarray(jax.jit(jax.vmap(jacobian))(before, chain.inputs)), 2, axis=(1, 2))
    np.testing.assert_allclose(spectral_norms(*chain), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dt": -1.0}, r"dt must be positive and finite; got -1\.0"),
        ({"num_exponents": 0}, "num_exponents must be a whole number of at least 1; got 0"),
        ({"num_exponents": 4}, "num_exponents=4 exceeds the 3 dimensions of the state"),
    ],
)
def test_settings_of_a_spectrum_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        lyapunov_spectrum(affine_step, jnp.ones(3), noise(30, 3), **settings)


def test_the_first_merit_is_that_of_the_guess():
    num_steps = 20
    chain = Recursion(affine_step, jnp.ones(3), noise(num_steps, 3))
    guess = noise(num_steps, 3, seed=1)
    solution = deer(*chain, initial_guess=guess)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    # The merit compares block starts; the state after the last step starts no block and is right by construction.
    expected = merit(chain.step, chain.initial_state, chain.inputs[:-1], guess[:-1])
    np.testing.assert_allclose(float(solution.merit_history[0]), float(expected), rtol=1e-12)
    assert float(solution.merit_history[1]) < 1e-20
    assert (solution.merit_history[2:] == -1).all()


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
    assert sweeps_for(solution, lengths).tolist() == [*separate, int(solution.num_iters)]
    assert separate[0] < separate[1] <= int(solution.num_iters)
    assert sweeps_for(solution, [[1, 30]]).tolist() == [[1, separate[1]]]
    assert float(sweeps_for(solution, 30)) == separate[1]
    assert np.isinf(sweeps_for(solution, 61))
    front = np.asarray(solution.prefix_history[: int(solution.num_iters)])
    assert (np.diff(front) >= 0).all()
    assert front[-1] == 60


def test_what_a_stopped_solve_did_not_reach_takes_for_ever():
    with warns_here(UncertifiedChainWarning, match="stopped at max_iters"):
        solution = deer(*logistic_map(100), max_iters=5, scale=jnp.ones(1))
    assert Status(int(solution.status)) is Status.MAX_ITERS
    reached = int(solution.prefix_history.max())
    assert 5 <= reached < 100
    assert np.isfinite(sweeps_for(solution, [reached, reached + 1])).tolist() == [True, False]


def test_a_solve_without_histories_says_so():
    solution = deer_in_windows(fade, jnp.array(0.0), noise(40), window=20)
    assert Status(int(solution.status)) is Status.CONVERGED
    with pytest.raises(ValueError, match="kept no prefix_history"):
        sweeps_for(solution, [10])
