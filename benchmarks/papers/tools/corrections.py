"""Corrections of block starts that only the papers' experiments use."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.papers.tools import kalman
from benchmarks.papers.tools.coordinates import Coordinates
from parsample.chain.transition import Vector
from parsample.solver import affine
from parsample.solver.operators import Operator


@dataclass(frozen=True)
class TrustRegion:
    """A trust region by a Kalman filter: ELK with `Dense`, quasi-ELK with `Diagonal` (arXiv 2407.19115).

    Each block's correction is the Levenberg-Marquardt step over the blocks up to it: the filter's mean, which uses no
    later defect, so that the exact prefix advances as in Newton's method.

    Attributes
    ----------
    weight
        Weight of a squared correction relative to a squared residual, both in standard deviations of the chain; 0 is
        Newton's method.
    """

    weight: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must not be negative, and finite; got {self.weight!r}.")

    def __call__(self, operators: Operator, defects: Float[Array, "C D"], scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts."""
        # The filter works in units of the scale.
        before = affine.shifted(operators.in_units_of(scale))
        gains = kalman.gains(before, self.weight)
        # The mean's recursion m_c = G_c A_{c-1} m_{c-1} + G_c d_c, with its operators at the indices of `affine`.
        maps = jax.tree.map(_with_zero_last, gains.compose(before))
        return affine.solve(maps, gains.apply(defects / scale[None])) * scale[None]


@dataclass(frozen=True)
class GradientDescent:
    """``delta_c = step_size (d_c - A_c^T d_{c+1})``: a gradient step on the merit function, half the sum of |d_c|^2.

    The comparator of Gonzalez et al., arXiv 2508.16817: its rate falls with the square of the condition number. The
    gradient is exact with `Dense` and ``clip=None``, and approximate with diagonals or bounded Jacobians.

    Attributes
    ----------
    step_size
        Positive; it should be below 2 / sigma^2, where sigma <= 1 + max |A| is the largest singular value of the
        residual's Jacobian.
    """

    step_size: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be positive and finite; got {self.step_size!r}.")

    def __call__(self, operators: Operator, defects: Float[Array, "C D"], _scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts."""
        pulled = operators.transpose().apply(_with_zero_last(defects))
        return self.step_size * (defects - pulled)


@dataclass(frozen=True)
class NewtonIn:
    """Newton's method with operators in other coordinates, such as those of `linearizations.DiagonalIn`."""

    coordinates: Coordinates

    def __call__(self, operators: Operator, defects: Float[Array, "C D"], _scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts, in the state's own coordinates."""
        return self.coordinates.out_of(affine.solve(operators, self.coordinates.into(defects)))


def _with_zero_last(values: Array) -> Array:
    """The entry at index c + 1 at index c, and zero at the last index."""
    return jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])
