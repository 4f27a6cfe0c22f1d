"""Exponents from short runs: tangents are followed until they have turned into the leading direction."""

import warnings

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import ParallelStallWarning, check

SLOW_DIRECTIONS = jnp.array([1.0, 3.0, 0.25])


def slow_gaussian(x: jax.Array) -> jax.Array:
    """Directions that contract at similar, slow rates."""
    return -0.5 * jnp.sum(SLOW_DIRECTIONS * x**2)


def test_the_exponent_of_slow_similar_directions_is_right_within_its_error():
    # Langevin steps that are nearly always accepted contract by 1 - 0.01 w; tangents take hundreds of steps to turn.
    mala = blackjax.mala(slow_gaussian, 0.01)
    for seed in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParallelStallWarning)
            found = check(jax.random.key(seed), mala, jnp.zeros(3), num_steps=8000)
        assert abs(found.lle - np.log(1 - 0.0025)) <= 2 * found.lle_se
        assert found.lle_se < 0.004
        assert found.lle == pytest.approx(np.log(1 - 0.0025), abs=0.002)


@pytest.mark.slow
def test_directions_that_contract_alike_need_not_turn():
    mala = blackjax.mala(lambda x: -0.5 * jnp.sum(x**2), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)
        found = check(jax.random.key(0), mala, jnp.zeros(30), num_steps=8000)
    assert found.lle == pytest.approx(np.log(0.99), abs=1e-4)
    assert found.lle_se < 1e-3
