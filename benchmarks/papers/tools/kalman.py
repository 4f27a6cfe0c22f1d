"""Gains of the Kalman filter that keeps corrections of block starts within a trust region.

The Levenberg-Marquardt step of a chain's residuals is the posterior mean of a linear Gaussian state space model, and
that over the blocks up to each its filter, to be had by a parallel scan: ELK (Gonzalez et al., arXiv 2407.19115). In
units of the chain's scale,

    delta_c = A_{c-1} delta_{c-1} + d_c + N(0, I),    0 = delta_c + N(0, I / weight),

the second line being the penalty on long corrections. The filtered covariances P_c do not depend on the defects, so one
scan gives them, and with gains G_c = I - K_c the means obey an affine recursion, which `affine` solves:
m_c = G_c (A_{c-1} m_{c-1} + d_c).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from parsample.solver.affine import BlockMatrices, multiply


def transpose(matrices: Array, is_diagonal: bool) -> Array:
    """Transposes of matrices, or of diagonals."""
    return matrices if is_diagonal else jnp.swapaxes(matrices, -1, -2)


def gains(matrices: BlockMatrices, weight: float) -> Array:
    """G_c of all blocks, in the form of `matrices`, where A_{c-1} is at place c; by the form that suits the device."""
    return jax.lax.platform_dependent(
        matrices,
        cpu=lambda each: _gains(each, _covariances_in_turn(each, weight), weight),
        default=lambda each: _gains(each, _covariances_by_scan(each, weight), weight),
    )


def _gains(matrices: Array, filtered: Array, weight: float) -> Array:
    """G_c = (I + weight (A P_{c-1} A^T + I))^-1, from the filtered covariances P_c."""
    is_diagonal = matrices.ndim == 2
    before = jnp.concatenate([jnp.zeros_like(filtered[:1]), filtered[:-1]])
    predicted = _predict(matrices, before, is_diagonal)
    return _invert(_unit(predicted, is_diagonal) + weight * predicted, is_diagonal)


def _covariances_in_turn(matrices: Array, weight: float) -> Array:
    """Filtered covariances P_c step by step."""
    is_diagonal = matrices.ndim == 2

    def advance(before: Array, matrix: Array) -> tuple[Array, Array]:
        predicted = _predict(matrix, before, is_diagonal)
        gain = _invert(_unit(predicted, is_diagonal) + weight * predicted, is_diagonal)
        after = multiply(gain, predicted, is_diagonal)
        return after, after

    return jax.lax.scan(advance, jnp.zeros_like(matrices[0]), matrices)[1]


def _covariances_by_scan(matrices: Array, weight: float) -> Array:
    """Filtered covariances P_c as an associative scan over the filter's elements (Sarkka & Garcia-Fernandez 2021)."""
    is_diagonal = matrices.ndim == 2
    share = 1 / (1 + weight)
    information = weight * share * multiply(transpose(matrices, is_diagonal), matrices, is_diagonal)
    elements = (share * matrices, share * _unit(matrices, is_diagonal), information)

    def compose(first: tuple[Array, ...], second: tuple[Array, ...]) -> tuple[Array, ...]:
        (maps_1, covariance_1, information_1), (maps_2, covariance_2, information_2) = first, second
        inner = _invert(_unit(maps_1, is_diagonal) + multiply(covariance_1, information_2, is_diagonal), is_diagonal)
        reach = multiply(maps_2, inner, is_diagonal)
        back = multiply(transpose(maps_1, is_diagonal), transpose(inner, is_diagonal), is_diagonal)
        return (
            multiply(reach, maps_1, is_diagonal),
            _sandwich(reach, covariance_1, maps_2, is_diagonal) + covariance_2,
            multiply(back, multiply(information_2, maps_1, is_diagonal), is_diagonal) + information_1,
        )

    return jax.lax.associative_scan(compose, elements)[1]


def _predict(matrix: Array, covariance: Array, is_diagonal: bool) -> Array:
    return _sandwich(matrix, covariance, matrix, is_diagonal) + _unit(matrix, is_diagonal)


def _sandwich(left: Array, middle: Array, right: Array, is_diagonal: bool) -> Array:
    return multiply(multiply(left, middle, is_diagonal), transpose(right, is_diagonal), is_diagonal)


def _unit(like: Array, is_diagonal: bool) -> Array:
    """Unit matrices, as many as there are in `like`."""
    return (
        jnp.ones_like(like) if is_diagonal else jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)
    )


def _invert(matrices: Array, is_diagonal: bool) -> Array:
    return 1 / matrices if is_diagonal else jnp.linalg.inv(matrices)
