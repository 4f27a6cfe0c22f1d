"""Reports of `check` on two chains with known answers, shared by the tests of its numbers and of its text."""

import functools
import warnings
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from chains import isotropic

from parsample import ParallelStallWarning, Report, check

KEY = jax.random.key(0)

# Random-walk Metropolis, one object, so that its programs are compiled once.
WALK = blackjax.normal_random_walk(isotropic, jnp.eye(2))


def examined(algorithm: Any, position: jax.Array, num_steps: int) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParallelStallWarning)
        return check(KEY, algorithm, position, num_steps=num_steps)


@functools.cache
def predictable() -> Report:
    """MALA with step size 0.2 on a standard Gaussian: nearly all steps are accepted and scale differences by 0.8."""
    return examined(blackjax.mala(isotropic, 0.2), jnp.zeros(2), 20_000)


@functools.cache
def unpredictable() -> Report:
    """Random-walk Metropolis: differences never shrink."""
    return examined(WALK, jnp.zeros(2), 20_000)
