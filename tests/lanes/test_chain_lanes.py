"""Lanes of a user's chain: when two states count as the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from parsample.chain.recursion import RecursionDynamics
from parsample.lanes.chain_lanes import ChainLanes

LANES = ChainLanes(RecursionDynamics(lambda state, _: state), (None,), (None,), (None,))
SCALE = np.array([1.0, 10.0])


@pytest.mark.parametrize(
    ("new", "old", "distance", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, True),
        ([1.0, 2.0005], [1.0, 2.0], 5e-5, True),
        ([1.0005, 2.0], [1.0, 2.0], 5e-4, False),
        ([1e13, 2.0], [1e13 + 2**-8, 2.0], 2**-8, True),  # a few units of rounding of the state itself
        ([np.inf, 2.0], [1.0, 2.0], np.inf, False),
        ([np.nan, 2.0], [1.0, 2.0], np.inf, False),
    ],
)
def test_states_are_the_same_within_the_tolerance_and_only_if_finite(new, old, distance, same):
    found, met = LANES.joined(SCALE, 1e-4, np.array([new]), np.array([old]))
    np.testing.assert_allclose(found, [distance], rtol=1e-6)
    assert met.tolist() == [same]
    # In the compiled program the same rule holds.
    _, met = LANES.met(jnp.asarray(SCALE), 1e-4, (jnp.array([new]), None), (jnp.array([old]), None))
    assert met.tolist() == [same]
