"""The identity of a model: equal for equal programs, constants and data, and different otherwise.

In a store it decides whether a run may go on.
"""

import hashlib

import jax
from jaxtyping import PyTree

from parsample.internal.trees import on_device
from parsample.internal.validation import checked_program
from parsample.models.model import Model
from parsample.models.traced import add_arrays, hashed


def fingerprint(model: Model, position: PyTree) -> str:
    """A hash of the program of the log density, of the arrays that it contains, and of the data.

    Code behind callbacks to Python is not part of that program.
    """
    data = on_device(model.data_arguments)  # as the program gets them, in the default precision
    digest = hashlib.sha256(hashed(checked_program(model.logdensity, position, *data)).encode())
    add_arrays(digest, jax.tree.leaves(data))
    return digest.hexdigest()
