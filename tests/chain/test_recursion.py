"""Samplers as recursions, and recursions as families of chains."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.util import run_inference_algorithm
from chains import contraction, gaussian, gaussian_start, isotropic, walk_step

from parsample import Recursion, Status, as_recursion, deer, lyapunov_exponent, rollout
from parsample.chain.recursion import RecursionDynamics

KEY = jax.random.key(3)


def blackjax_positions(algorithm, position, num_steps: int) -> np.ndarray:
    """BlackJAX's own chain, flat, in the order of the leaves."""
    settings = {"initial_position": position, "num_steps": num_steps, "transform": lambda state, _: state.position}
    path = run_inference_algorithm(KEY, algorithm, **settings)[1]
    return np.concatenate([leaf.reshape(num_steps, -1) for leaf in jax.tree.leaves(path)], axis=1)


@pytest.mark.slow
def test_the_recursion_of_a_sampler_is_blackjaxs_chain_and_deer_finds_it():
    algorithm, start = blackjax.mala(gaussian, 0.1), gaussian_start()
    chain = as_recursion(KEY, algorithm, start, 80)
    expected = blackjax_positions(algorithm, start, 80)
    assert chain.num_steps == 80
    np.testing.assert_allclose(rollout(*chain), expected, atol=1e-12)
    solution = deer(*chain)
    assert Status(int(solution.status)) is Status.CONVERGED
    np.testing.assert_allclose(solution.states, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("algorithm", "dimension"),
    [
        pytest.param(blackjax.ghmc(isotropic, 0.3, jnp.ones(2), 0.5, 0.2), 5, marks=pytest.mark.slow),
        pytest.param(blackjax.dynamic_hmc(isotropic, 0.3, jnp.ones(2)), 2, marks=pytest.mark.slow),
    ],
    ids=["ghmc", "dhmc"],
)
def test_what_kernels_hand_on_beside_the_position_is_a_part_of_the_recursion(algorithm, dimension):
    chain = as_recursion(KEY, algorithm, jnp.ones(2), 30)
    assert chain.initial_state.shape == (dimension,)
    path, expected = np.asarray(rollout(*chain)), blackjax_positions(algorithm, jnp.ones(2), 30)
    # The vector concatenates the exchanged fields; one of them is the position.
    assert min(np.abs(path[:, i : i + 2] - expected).max() for i in range(dimension - 1)) < 1e-12


def test_the_exponent_of_a_sampler_is_that_of_its_formula():
    # Accepted steps of MALA on a standard Gaussian shrink a difference by 1 - 0.2, rejected ones not at all.
    chain = as_recursion(KEY, blackjax.mala(isotropic, 0.2), jnp.ones(2), 400)
    growth = np.asarray(lyapunov_exponent(*chain).growth)[0]
    is_rejected = np.abs(growth) < 1e-9
    assert 0 < is_rejected.sum() < 100
    np.testing.assert_allclose(growth[~is_rejected], np.log(0.8), atol=1e-9)


def test_pilots_of_a_recursion_see_stretches_of_its_inputs():
    dynamics, inputs = RecursionDynamics(walk_step), jnp.arange(10.0)
    firsts = set()
    for seed in range(30):
        _, stretch = dynamics((jnp.array(0.0), inputs), jax.random.key(seed), 4)
        first = int(stretch.sequence[0])
        firsts.add(first)
        assert stretch.sequence.tolist() == [first, first + 1, first + 2, first + 3]
    assert min(firsts) == 0
    assert max(firsts) == 6
    _, beyond = dynamics((jnp.array(0.0), inputs), KEY, 13)
    assert beyond.sequence.tolist() == [*range(10), 0, 1, 2]


def test_a_recursion_counts_its_steps():
    assert contraction(17).num_steps == 17
    with pytest.raises(ValueError, match="inputs: every array needs the same leading axis"):
        _ = Recursion(walk_step, jnp.array(0.0), None).num_steps


def test_bad_arguments():
    mala = blackjax.mala(isotropic, 0.2)
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 1; got 0"):
        as_recursion(KEY, mala, jnp.ones(2), 0)
    with pytest.raises(ValueError, match="initial_position is not finite"):
        as_recursion(KEY, mala, jnp.full(2, jnp.nan), 10)
    nowhere = blackjax.mala(lambda x: jnp.sum(x) * 0 - jnp.inf, 0.2)
    with pytest.raises(ValueError, match="log density is -inf at initial_position"):
        as_recursion(KEY, nowhere, jnp.ones(2), 10)
    with pytest.raises(TypeError, match="inference_algorithm: a state of type"):
        as_recursion(KEY, blackjax.orbital_hmc(isotropic, 0.3, jnp.ones(2), 3), jnp.ones(2), 10)
