"""Coordinates in which the Jacobians of a chain are nearly diagonal, so that their diagonals approximate them well.

Only the solver uses the coordinates z, with s = B z; the chain's states s do not change.
"""

from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Coordinates:
    """Axes B, the columns of a matrix: a state s has coordinates z with s = B z.

    Chains near a Gaussian of covariance S have Jacobians that are diagonal in the eigenvectors of S (Zoltowski et al.,
    arXiv 2508.18413). Compared by content, so that compiled programs are reused.

    Parameters
    ----------
    axes
        B, an invertible matrix, shape (D, D).

    Raises
    ------
    ValueError
        If B is not a finite, invertible square matrix.
    """

    def __init__(self, axes: Any) -> None:
        self.axes = np.array(axes, float)
        shape = self.axes.shape
        if self.axes.ndim != 2 or shape[0] != shape[1] or not np.isfinite(self.axes).all():
            raise ValueError(f"axes must be a finite square matrix, with one axis in each column; got shape {shape}.")
        if np.linalg.matrix_rank(self.axes) < shape[0]:
            raise ValueError(f"axes must be invertible; {np.linalg.matrix_rank(self.axes)} of {shape[0]} independent.")
        self.axes.flags.writeable = False

    @classmethod
    def orthogonal(cls, covariance: Any) -> "Coordinates":
        """Eigenvectors of a covariance, shape (D, D): a rotation."""
        return cls(_eigen(covariance)[1])

    @classmethod
    def whitening(cls, covariance: Any) -> "Coordinates":
        """Eigenvectors of a covariance, shape (D, D), each scaled by the standard deviation along it.

        An exact diagonal is the same as with `orthogonal`; estimates from probes vary less.
        """
        values, vectors = _eigen(covariance)
        return cls(vectors * np.sqrt(values))

    @cached_property
    def inverse(self) -> Float[np.ndarray, "D D"]:
        """B^-1, shape (D, D)."""
        return np.linalg.inv(self.axes)

    def into(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Coordinates z of vectors."""
        return _product(self.inverse, vectors)

    def out_of(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Vectors of coordinates z."""
        return _product(self.axes, vectors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coordinates) and np.array_equal(self.axes, other.axes)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.axes.tobytes())

    def __repr__(self) -> str:
        return f"Coordinates({self.axes.shape[0]} axes)"


def _product(matrix: np.ndarray, vectors: Array) -> Array:
    return jnp.einsum("ij,...j->...i", jnp.asarray(matrix, vectors.dtype), vectors, precision="highest")


def _eigen(covariance: Any) -> tuple[np.ndarray, np.ndarray]:
    found = np.asarray(covariance, float)
    if (
        found.ndim != 2
        or found.shape[0] != found.shape[1]
        or not np.allclose(found, found.T, rtol=1e-5, atol=1e-8 * np.abs(found).max(initial=0))
    ):
        raise ValueError(f"covariance must be a symmetric matrix; got shape {found.shape}.")
    values, vectors = np.linalg.eigh(found)
    if not values[0] > 0:
        raise ValueError(f"covariance must be positive definite; its smallest eigenvalue is {values[0]:.3g}.")
    return values, vectors
