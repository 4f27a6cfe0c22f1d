"""The statuses of solves, and their warnings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, contraction, noise
from marks import slow
from paths import T, assert_same_path
from warned import warns_here

from parsample import (
    Dense,
    Diagonal,
    Identity,
    ParallelStallWarning,
    Status,
    UncertifiedChainWarning,
    Zero,
    deer,
    rollout,
)
from parsample.solver.status import warn_of

DEVICES = jax.devices()


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


# Warnings


def test_only_stopped_and_broken_paths_are_not_the_chains_own():
    assert [status for status in Status if not status.is_exact] == [Status.MAX_ITERS, Status.NON_FINITE]
    assert len({status.message for status in Status}) == len(Status)


def test_a_path_that_was_found_as_asked_for_raises_no_warning():
    # The tests turn warnings into errors.
    warn_of(Status.CONVERGED)
    warn_of(Status.SEQUENTIAL)


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (Status.STALLED, ParallelStallWarning),
        (Status.MAX_ITERS, UncertifiedChainWarning),
        (Status.NON_FINITE, UncertifiedChainWarning),
    ],
)
def test_one_warning_says_what_happened_and_tells_slow_paths_from_wrong_ones(status, category):
    with pytest.warns(category, match=rf"^{re.escape(status.message)} \(defect 2\)\. [A-Z].+\.$") as caught:
        warn_of(status, " (defect 2)")
    assert [warning.category for warning in caught] == [category]


# How a solve ends


def test_max_iters_warns_and_says_how_far_the_path_is_exact(chain, truth):
    with warns_here(UncertifiedChainWarning, match=r"exact only up to its exact prefix.*Raise max_iters"):
        solution = deer(*chain, block_size=2, linearization=Zero(), max_iters=3)
    assert Status(int(solution.status)) is Status.MAX_ITERS
    assert not Status.MAX_ITERS.is_exact
    prefix = int(solution.exact_prefix)
    assert 6 <= prefix < T
    assert_same_path(*(jax.tree.map(lambda leaf: leaf[:prefix], path) for path in (solution.states, truth)))
    assert float(solution.defect) > 1e-10


@pytest.mark.parametrize(
    ("linearization", "block_size"), [(Dense(), 1), slow(Identity(), 1), slow(Diagonal(), 8), slow(Zero(), 8)], ids=str
)
def test_a_path_that_is_truly_nan_is_reported_not_repaired(linearization, block_size):
    def step(state: jax.Array, drive: tuple) -> jax.Array:
        t, u = drive
        return jnp.where(t == 25, jnp.nan, 0.5 * state + u)

    chain = Recursion(step, jnp.ones(2), (jnp.arange(T), noise(T, 2)))
    with warns_here(UncertifiedChainWarning, match="NaN or infinite"):
        solution = deer(*chain, block_size=block_size, linearization=linearization)
    assert Status(int(solution.status)) is Status.NON_FINITE
    assert np.isnan(solution.states[25:]).all()
    np.testing.assert_allclose(solution.states[:25], rollout(*chain)[:25], atol=1e-8)


def test_an_overflowing_path_is_reported():
    chain = Recursion(lambda s, _: 1e100 * s, jnp.ones(1), jnp.arange(10))
    with warns_here(UncertifiedChainWarning, match="NaN or infinite"):
        solution = deer(*chain, block_size=2)
    assert Status(int(solution.status)) is Status.NON_FINITE
    np.testing.assert_array_equal(np.isfinite(solution.states[:, 0]), np.arange(10) < 3)


def test_a_path_that_stops_being_finite_is_reported_by_all_devices():
    with warns_here(UncertifiedChainWarning, match="NaN or infinite"):
        solution = deer(lambda s, _: 1e100 * s, jnp.ones(1), jnp.arange(10), block_size=2, devices=DEVICES[:2])
    np.testing.assert_array_equal(np.isfinite(solution.states[:, 0]), np.arange(10) < 3)
