"""Small blocks of matrices, exact and estimated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import full, random_operators

from benchmarks.papers.tools.linearizations import BlockDiagonal
from benchmarks.papers.tools.small_blocks import SmallBlocksOperator

KEY = jax.random.key(0)


def test_hutchinson_needs_a_probe():
    with pytest.raises(ValueError, match=r"num_probes .* must be a whole number of at least 1; got 0"):
        BlockDiagonal(2, 0)


OPERATORS = random_operators(SmallBlocksOperator, 1)  # one, of three 2 x 2 blocks
SMALL_BLOCKS, INSIDE = OPERATORS.values[0], full(OPERATORS)[0]
# 1 at the entries of a 6 x 6 matrix outside these blocks
OUTSIDE = 1 - full(SmallBlocksOperator(jnp.ones_like(OPERATORS.values)))[0]


@pytest.mark.parametrize("num_probes", [None, 1, 3])
def test_small_blocks_of_a_matrix_that_has_nothing_else_are_found_exactly(num_probes):
    linearization = BlockDiagonal(2, num_probes)
    tangent_seeds = linearization.tangent_seeds(KEY, 6, jnp.float64)
    assert tangent_seeds.shape == (6 if num_probes is None else 2 * num_probes, 6)
    found = linearization.operator(tangent_seeds, tangent_seeds @ INSIDE.T)
    np.testing.assert_allclose(found.values, SMALL_BLOCKS, atol=1e-15)


def test_small_blocks_are_picked_out_of_any_matrix_and_their_estimates_are_unbiased():
    matrix = INSIDE + OUTSIDE * np.random.default_rng(1).normal(size=(6, 6))
    np.testing.assert_array_equal(BlockDiagonal(2).operator(jnp.eye(6), jnp.array(matrix.T)).values, SMALL_BLOCKS)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    zero = np.zeros_like(signs)
    tangent_seeds = jnp.array(np.stack([np.hstack([signs, zero]), np.hstack([zero, signs])], axis=1).reshape(-1, 6))
    np.testing.assert_allclose(
        BlockDiagonal(2, 8).operator(tangent_seeds, tangent_seeds @ matrix.T).values, SMALL_BLOCKS, atol=1e-15
    )
    one = BlockDiagonal(2, 1).operator(tangent_seeds[:2], tangent_seeds[:2] @ matrix.T).values
    assert np.abs(one - SMALL_BLOCKS).max() > 0.1


def test_parts_are_two_or_more_and_equal():
    with pytest.raises(ValueError, match=r"num_parts must be at least 2; got 1.*Diagonal\(\)"):
        BlockDiagonal(1)
    with pytest.raises(ValueError, match=r"5 dimensions cannot have num_parts=2 equal parts"):
        BlockDiagonal(2).tangent_seeds(KEY, 5, jnp.float64)
