"""Operators of small blocks against their full matrices, and their bounds."""

import jax.numpy as jnp
import numpy as np
import pytest
from matrices import check_operations, full, random_operators

from benchmarks.papers.tools.small_blocks import SmallBlocksOperator


def test_operations_are_those_of_the_full_matrices():
    check_operations(SmallBlocksOperator)


def test_each_small_block_couples_one_coordinate_across_the_parts():
    operators = random_operators(SmallBlocksOperator, 4)
    expected = np.zeros((4, 6, 6))
    for i in range(3):
        expected[:, i::3, i::3] = operators.values[:, i]
    np.testing.assert_array_equal(full(operators), expected)


def test_bounded_scales_each_small_block_by_itself():
    operators = random_operators(SmallBlocksOperator, 50)
    blocks = np.asarray(operators.values)
    norms = np.linalg.norm(blocks, 2, axis=(2, 3))
    assert (norms < 1).any()
    result = np.asarray(operators.bounded().values)
    np.testing.assert_array_equal(result[norms < 1], blocks[norms < 1])
    after = np.linalg.norm(result, 2, axis=(2, 3))
    np.testing.assert_allclose(result * norms[..., None, None], blocks * after[..., None, None], rtol=1e-12)
    assert (after[norms > 1] >= 1 - 1e-12).all()
    assert np.quantile(after, 0.95) < 1.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_small_block_makes_the_whole_operator_zero(bad):
    operators = SmallBlocksOperator(jnp.full((2, 3, 2, 2), 0.25).at[0, 0, 0, 0].set(bad))
    for result in (operators.finite().values, operators.bounded().values):
        assert (result[0] == 0).all()
        assert (result[1] == 0.25).all()
