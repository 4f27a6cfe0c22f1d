"""Settings of block DEER, checked and completed."""

import jax.numpy as jnp
import numpy as np
import pytest
from chains import fade, noise
from refusals import refuses

from parsample import DEER, Newton, Zero, deer

INPUTS = noise(12)
START = jnp.array(0.5)


def test_one_setting_reaches_deer_as_it_does_its_settings():
    assert DEER().correction == Newton()
    assert not DEER(4, Zero(), correction=lambda matrices, defects, scale: defects).is_fixed_point
    assert DEER(4, Zero()).is_fixed_point


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("linearization", [Zero, "dense", None])
def test_a_linearization_learns_of_block_maps(linearization):
    if linearization is None:  # by keyword, None is the default of `deer`; as a setting it is an error
        assert deer(fade, START, INPUTS, linearization=None).status == 0
        return
    with refuses(TypeError, "linearization must be Dense(), Diagonal(), Identity() or Zero(); got"):
        DEER(4, linearization)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("correction", [Newton, "newton", 0.5])
def test_a_correction_is_a_rule(correction):
    with refuses(TypeError, "correction must be Newton(), or another rule; got"):
        DEER(4, correction=correction)
    with refuses(TypeError, "correction must be Newton(), or another rule; got"):
        deer(fade, START, INPUTS, correction=correction)


@pytest.mark.usefixtures("as_users_have_it")
def test_numpy_integers_are_whole_numbers():
    assert deer(fade, START, INPUTS, block_size=np.int64(4)).num_iters >= 1
