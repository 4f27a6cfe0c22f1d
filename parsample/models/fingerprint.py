"""The identity of a model: equal for equal programs, constants and data, and different otherwise.

In a store it decides whether a run may go on.
"""

import hashlib

import jax
from jaxtyping import PyTree

from parsample.internal.trees import on_device
from parsample.models.model import Model
from parsample.models.traced import TracedDensity, add_arrays


def fingerprint(model: Model, position: PyTree) -> str:
    """A hash of the program of the log density, with its rules for derivatives, of the arrays in it, and of the data.

    Code behind callbacks to Python is not part of that program.
    """
    data = on_device(model.data_arguments)  # as the program gets them, in the default precision
    density, arrays = TracedDensity.of(model.logdensity, position, *data)
    digest = hashlib.sha256(density.identity.encode())
    add_arrays(digest, jax.tree.leaves((arrays, data)))
    return digest.hexdigest()
