"""Corrections of block starts that only the papers' experiments use."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.papers.tools import kalman
from benchmarks.papers.tools.coordinates import Coordinates
from parsample.chain.transition import Vector
from parsample.solver import affine
from parsample.solver.affine import BlockMatrices


@dataclass(frozen=True)
class TrustRegion:
    """A trust region by a Kalman filter: ELK with `Dense`, quasi-ELK with `Diagonal` (arXiv 2407.19115).

    Each correction is that of the Levenberg-Marquardt step over the blocks up to its own: the filter's mean, which
    looks at no later defect, so that the exact front advances as in Newton's method.

    Attributes
    ----------
    weight
        Of a squared correction against a squared residual, both in standard deviations of the chain; 0 is Newton's
        method.
    """

    weight: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must not be negative, and finite; got {self.weight!r}.")

    def __call__(self, matrices: BlockMatrices, defects: Float[Array, "C D"], scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts."""
        if matrices.ndim == 3:  # the filter works in units of the scale; to diagonals these are all the same
            matrices = matrices * scale[None, None] / scale[None, :, None]
        elif matrices.ndim == 4:
            parts = scale.reshape(matrices.shape[-1], -1).T
            matrices = matrices * parts[None, :, None] / parts[None, :, :, None]
        before = jnp.concatenate([jnp.zeros_like(matrices[:1]), matrices[:-1]])
        gains = kalman.gains(before, self.weight)
        # The mean's recursion m_c = G_c A_{c-1} m_{c-1} + G_c d_c, with its matrices at the places `affine` expects.
        maps = affine.multiply(gains, before, is_diagonal=matrices.ndim == 2)
        maps = jnp.concatenate([maps[1:], jnp.zeros_like(maps[:1])])
        return affine.solve(maps, affine.apply(gains, defects / scale[None])) * scale[None]


@dataclass(frozen=True)
class GradientDescent:
    """``delta_c = step_size (d_c - A_c^T d_{c+1})``: a gradient step on the merit function, half the sum of |d_c|^2.

    The comparator of Gonzalez et al., arXiv 2508.16817: its rate falls with the square of the condition. The gradient
    itself with `Dense` and ``clip=None``; with diagonals or bounded Jacobians, something like it.

    Attributes
    ----------
    step_size
        Positive; below 2 over the largest squared singular value of the residual's Jacobian, at most (1 + max |A|)^2.
    """

    step_size: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be positive and finite; got {self.step_size!r}.")

    def __call__(self, matrices: BlockMatrices, defects: Float[Array, "C D"], _scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts."""
        after = jnp.concatenate([defects[1:], jnp.zeros_like(defects[:1])])
        pulled = affine.apply(kalman.transpose(matrices, is_diagonal=matrices.ndim == 2), after)
        return self.step_size * (defects - pulled)


@dataclass(frozen=True)
class NewtonIn:
    """Newton's method with matrices that speak of other coordinates, as those of `linearizations.DiagonalIn` do."""

    coordinates: Coordinates

    def __call__(self, matrices: BlockMatrices, defects: Float[Array, "C D"], _scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts, in the state's own coordinates."""
        return self.coordinates.out_of(affine.solve(matrices, self.coordinates.into(defects)))
