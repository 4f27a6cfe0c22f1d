"""The affine recursion that carries corrections from block to block.

``delta_c = A_{c-1} delta_{c-1} + d_c`` for c = 1, ..., C-1, with ``delta_0 = d_0``. The sequential form costs C
matrix-vector products, one after another; the associative scan (Blelloch 1990) costs about 2 C matrix-matrix products
in 2 log2(C) rounds.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# One matrix per block: D x D; only its diagonal; or, for a state of K equal parts, n = D / K small K x K matrices, each
# coupling one coordinate across the K parts.
BlockMatrices = Float[Array, "C D D"] | Float[Array, "C D"] | Float[Array, "C n K K"]


def apply(matrices: Array, vectors: Float[Array, "... D"]) -> Array:
    """Products A v; `matrices` has as many axes as `vectors` (diagonals), one more (D x D) or two more (K x K)."""
    if matrices.ndim == vectors.ndim:
        return matrices * vectors
    if matrices.ndim == vectors.ndim + 1:
        return jnp.einsum("...ij,...j->...i", matrices, vectors, precision="highest")
    parts = vectors.reshape(*vectors.shape[:-1], matrices.shape[-1], matrices.shape[-3])
    return jnp.einsum("...nab,...bn->...an", matrices, parts, precision="highest").reshape(vectors.shape)


def multiply(second: Array, first: Array, is_diagonal: bool) -> Array:
    """Products of matrices, or of diagonals."""
    return second * first if is_diagonal else jnp.einsum("...ij,...jk->...ik", second, first, precision="highest")


def solve_sequential(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c by the sequential recursion, the fastest form on a single core."""
    _, deltas = jax.lax.scan(_advance, jnp.zeros_like(defects[0]), (_shifted(matrices), defects))
    return deltas


def solve_associative(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c by an associative scan over affine maps (A, d), for accelerators."""

    def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix_1, defect_1 = first
        matrix_2, defect_2 = second
        product = multiply(matrix_2, matrix_1, is_diagonal=matrix_1.ndim == defect_1.ndim)
        return product, apply(matrix_2, defect_1) + defect_2

    return jax.lax.associative_scan(compose, (_shifted(matrices), defects))[1]


def solve(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c of all block starts: by the sequential form on CPUs, by the associative scan elsewhere."""
    return jax.lax.platform_dependent(matrices, defects, cpu=solve_sequential, default=solve_associative)


def _advance(delta: Array, element: tuple[Array, Array]) -> tuple[Array, Array]:
    """One step of the recursion, for ``jax.lax.scan``."""
    matrix, defect = element
    delta = apply(matrix, delta) + defect
    return delta, delta


def _shifted(matrices: BlockMatrices) -> BlockMatrices:
    """A_{c-1} at index c; the matrix at index 0 multiplies zero, so any finite one will do."""
    return jnp.concatenate([jnp.zeros_like(matrices[:1]), matrices[:-1]])
