"""Single steps of the kernels of `sample`, from exact draws of a target."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parsample.kernels.base import MOVE_STEPS, LaneState
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

NUM_LANES = 20_000
KEYS = np.random.default_rng(0).integers(0, 2**32, (NUM_LANES, 2), np.uint32)


def target(u: jax.Array) -> jax.Array:
    """Log density of two independent variables, a standard normal and a logistic one."""
    return -0.5 * u[0] ** 2 - u[1] - 2 * jax.nn.softplus(-u[1])


def exact_draws() -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.stack([rng.normal(size=NUM_LANES), rng.logistic(size=NUM_LANES)], axis=1)


def parameters(kernel: Any, step_size: float = 0.9, scale: float = 0.5) -> KernelParameters:
    moves = np.zeros(PERIOD)
    moves[list(MOVE_STEPS)] = scale
    steps = np.full(2, 2.4) if kernel.name == "metropolis" else np.asarray(step_size)
    arrays = (np.zeros(2), np.ones(2), steps, kernel.num_integration_steps(step_size), moves)
    return KernelParameters(*map(jnp.asarray, arrays))


def state_of(kernel: Any, u: jax.Array) -> LaneState:
    value, gradient = jax.value_and_grad(target)(u)
    return LaneState(u, value, gradient if kernel.uses_gradient else None)


def step(kernel: Any, t: int, needs_evaluation: bool, key: jax.Array, state: LaneState) -> Any:
    phase = jnp.int32(t % PERIOD)
    return kernel.step(key, state, jnp.int32(t), phase, jnp.asarray(needs_evaluation), target, parameters(kernel))
