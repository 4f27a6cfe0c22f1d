"""Warnings name a line of the user's, not one of this package or of JAX."""

from functools import partial

import jax
import pytest

from parsample import ParallelStallWarning, Status
from parsample.internal.user_warnings import warn_user
from parsample.solver.status import warn_of


def test_a_warning_names_the_file_that_called():
    with pytest.warns(UserWarning, match="look here") as caught:
        warn_user("look here", UserWarning)
    assert [warning.filename for warning in caught] == [__file__]


def test_frames_of_this_package_are_passed_over():
    with pytest.warns(ParallelStallWarning) as caught:
        warn_of(Status.STALLED)
    assert [warning.filename for warning in caught] == [__file__]


def test_frames_of_jax_are_passed_over():
    with pytest.warns(UserWarning, match="while traced") as caught:
        jax.eval_shape(partial(warn_user, "while traced", UserWarning))
    assert [warning.filename for warning in caught] == [__file__]
