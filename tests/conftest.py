"""Settings of all tests: float64, no silent rank promotion. pyproject.toml turns warnings into errors.

Nothing here imports parsample, so that pytest's jaxtyping hook can check the types of all of it.
"""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float32():
    """Run the test in jax's default precision; arrays must be made inside it."""
    with jax.enable_x64(False):
        yield
