"""The affine recursion that carries corrections from block to block.

``delta_c = A_{c-1} delta_{c-1} + d_c`` for c = 1, ..., C-1, with ``delta_0 = d_0``. Its sequential form costs C small
products one after another; the associative scan costs about twice the products in log2(C) rounds (Blelloch 1990).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# One D x D matrix per block, or only its diagonal.
BlockMatrices = Float[Array, "C D D"] | Float[Array, "C D"]


def apply(matrices: Float[Array, "... D D"] | Float[Array, "... D"], vectors: Float[Array, "... D"]) -> Array:
    """Products A v, where `matrices` holds full matrices or, with as many axes as `vectors`, their diagonals."""
    if matrices.ndim == vectors.ndim:
        return matrices * vectors
    return jnp.einsum("...ij,...j->...i", matrices, vectors, precision="highest")


def solve_sequential(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """The recursion step by step: the fastest form where one core does all the work."""

    def advance(delta: Array, element: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, defect = element
        delta = apply(matrix, delta) + defect
        return delta, delta

    _, deltas = jax.lax.scan(advance, jnp.zeros_like(defects[0]), (_shifted(matrices), defects))
    return deltas


def solve_associative(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """The recursion as an associative scan over affine maps (A, d): for accelerators."""

    def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix_1, defect_1 = first
        matrix_2, defect_2 = second
        if matrix_1.ndim == defect_1.ndim:
            return matrix_2 * matrix_1, matrix_2 * defect_1 + defect_2
        product = jnp.einsum("...ij,...jk->...ik", matrix_2, matrix_1, precision="highest")
        return product, apply(matrix_2, defect_1) + defect_2

    return jax.lax.associative_scan(compose, (_shifted(matrices), defects))[1]


def solve(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c of all block starts, by the form that suits the device the programme is compiled for."""
    return jax.lax.platform_dependent(matrices, defects, cpu=solve_sequential, default=solve_associative)


def _shifted(matrices: BlockMatrices) -> BlockMatrices:
    """A_{c-1} at place c; the first place multiplies a zero, so any finite matrix will do there."""
    return jnp.concatenate([jnp.zeros_like(matrices[:1]), matrices[:-1]])
