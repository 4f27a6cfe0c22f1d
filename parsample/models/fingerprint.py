"""The fingerprint of a model: equal for equal log densities and data, and different otherwise."""

import hashlib
import re
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from parsample.models.model import Model


def fingerprint(model: Model, position: PyTree) -> str:
    """A hash of the program of the log density, of the arrays that it contains, and of the data.

    Code behind callbacks to Python is not part of that program.
    """

    def logdensity(*arguments: Any) -> Any:  # a new function: JAX would remember the program of one that it has seen
        return model.logdensity(*arguments)

    digest = hashlib.sha256()
    data = jax.tree.map(jnp.asarray, model.data_arguments)  # as the program gets them, in the default precision
    traced = jax.make_jaxpr(logdensity)(position, *data)
    # Addresses of functions differ from process to process.
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(traced)).encode())
    for leaf in [*_constants(traced), *jax.tree.leaves(data)]:
        values = np.asarray(leaf)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _constants(closed: Any) -> list[Any]:
    """Arrays in a program and in the programs that it calls."""
    parameters = jax.tree.leaves([equation.params for equation in closed.jaxpr.eqns])
    inner = [value for value in parameters if isinstance(value, jax.extend.core.ClosedJaxpr)]
    return [*closed.consts, *(constant for nested in inner for constant in _constants(nested))]
