"""Small runs of one log density, whose few programs are compiled once for all tests of a process."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parsample import Model, SampleResult, sample

SCALES = np.array([0.5, 1.0, 2.0])
SIZES: dict[str, Any] = {
    "num_samples": 60,
    "num_warmup": 100,
    "num_chains": 2,
    "num_lanes": 8,
    "method": "sequential",
    "progress_bar": False,
}


def bell(x: jax.Array) -> jax.Array:
    """An independent Gaussian of three scales."""
    return -0.5 * jnp.sum((x / SCALES) ** 2)


def constrain(x: jax.Array) -> dict[str, jax.Array]:
    return {"x": x, "total": x.sum(), "is_positive": x > 0}


# The variables x, total and is_positive.
MODEL = Model(bell, np.zeros(3), constrain=constrain, dims={"x": ["axis"]}, coords={"axis": ["a", "b", "c"]})


def small(model: Any = bell, position: Any = None, seed: int = 0, **settings: Any) -> SampleResult:
    """A run of 60 draws per chain."""
    position = np.zeros(3) if position is None and not isinstance(model, Model) else position
    return sample(jax.random.key(seed), model, position, **{**SIZES, **settings})
