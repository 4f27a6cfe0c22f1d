"""The tolerance within which two states count as equal: the rule, and its use in a solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, contraction, fade, noise
from paths import PATIENT, T, assert_same_path

from parsample import Status, Zero, deer, rollout
from parsample.solver.tolerance import Tolerance, default_tolerance


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


# The rule


@pytest.mark.parametrize(
    ("difference", "state", "is_met"),
    [
        # Bounds of 0.1 * 1 + 0.01 * 100 and 0.1 * 10 + 0.01 * 0.
        ([1.09, 0.99], [100.0, 0.0], True),
        ([-1.09, -0.99], [-100.0, 0.0], True),
        ([1.11, 0.0], [100.0, 0.0], False),
        ([0.0, -1.01], [100.0, 0.0], False),
        ([np.nan, 0.0], [100.0, 0.0], False),
        ([np.inf, 0.0], [np.inf, 0.0], False),
    ],
)
def test_states_are_met_in_all_coordinates_by_scale_and_size(difference, state, is_met):
    tolerance = Tolerance(np.array([1.0, 10.0]), 0.1, 0.01)
    assert tolerance.accepts(np.array([difference]), np.array([state])).tolist() == [is_met]


def test_size_is_the_largest_coordinate_in_units_of_the_scale():
    differences = np.array([[1.0, -30.0], [-4.0, 10.0]])
    assert Tolerance(np.array([1.0, 10.0]), 0.1, 0.01).size(differences).tolist() == [3, 4]


def test_a_scale_far_beyond_the_size_of_the_state_is_not_trusted():
    tolerance = Tolerance(jnp.ones(1), 0.1, 0.0)
    # For a state of 0.001 the scale is capped at 0.01: the bound is 0.001.
    differences, states = jnp.array([[5e-4], [2e-3], [2e-3]]), jnp.array([[1e-3], [1e-3], [1.0]])
    assert tolerance.accepts(differences, states).tolist() == [True, True, True]
    assert tolerance.accepts_capped(differences, states).tolist() == [True, False, True]


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_defaults_are_those_of_the_precision(dtype, atol):
    found = default_tolerance(jnp.ones(3, dtype))
    assert (found.atol.dtype, found.rtol.dtype) == (dtype, dtype)
    assert float(found.atol) == pytest.approx(atol, rel=1e-6)
    assert float(found.rtol) == 8 * float(np.finfo(dtype).eps)
    given = default_tolerance(jnp.ones(3, dtype), 0.5, 0.25)
    assert (float(given.atol), float(given.rtol)) == (0.5, 0.25)


# The rule in a solve


def test_scale_is_the_unit_of_defects(chain):
    units = [jax.tree.map(lambda leaf, u=u: jnp.full_like(leaf, u), chain.initial_state) for u in (1.0, 10.0)]
    first, second = (deer(*chain, scale=unit, **PATIENT).defect_history[0] for unit in units)
    np.testing.assert_allclose(first, 10 * second, rtol=1e-12)


def test_jumps_inside_blocks_are_within_tolerance_too_when_guesses_are_far_off():
    # Paths that are still far off must not widen the scale by which their jumps are measured.
    chain = Recursion(fade, jnp.array(0.0), noise(2000))
    guess = jnp.full(2000, 1e8)
    solution = deer(*chain, block_size=500, linearization=Zero(), initial_guess=guess)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert float(solution.defect) < 2e-10
    assert_same_path(solution.states, rollout(*chain))
