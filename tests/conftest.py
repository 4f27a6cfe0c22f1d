"""Settings of all tests: float64, no silent rank promotion, eight CPU devices of which one is used unasked.

pyproject.toml turns warnings into errors. Nothing here imports parsample, so that pytest's jaxtyping hook can check the
types of all of it.
"""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def one_device_unasked():
    """Programmes for several devices take longer to compile: only the tests of devices ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parsample.grid.default_devices", lambda: jax.local_devices()[:1])
        yield


@pytest.fixture
def float32():
    """Run the test in jax's default precision; arrays must be made inside it."""
    with jax.enable_x64(False):
        yield
