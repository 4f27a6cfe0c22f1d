"""Integer arithmetic, for numbers and arrays."""

import numpy as np
import pytest

from parsample.internal.arithmetic import ceil_div, round_up


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (-5, 4, -1)]
)
def test_quotients_are_rounded_up(numerator, denominator, quotient):
    assert ceil_div(numerator, denominator) == quotient


def test_quotients_of_arrays_are_rounded_up_one_by_one():
    np.testing.assert_array_equal(ceil_div(np.array([0, 1, 3, 4, 9]), 3), [0, 1, 1, 2, 3])


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (1, 16), (15, 16), (16, 16), (17, 32)])
def test_the_next_multiple_is_the_value_itself_if_it_is_one(value, expected):
    assert round_up(value, 16) == expected
