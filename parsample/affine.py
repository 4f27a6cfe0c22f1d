"""The affine recursion that carries corrections from block to block.

``delta_c = A_{c-1} delta_{c-1} + d_c`` for c = 1, ..., C-1, with ``delta_0 = d_0``. Its sequential form costs C
products of a matrix and a vector, one after another; the associative scan (Blelloch 1990) about 2 C products of
matrices in 2 log2(C) rounds; the chunked one C of them, a round for every step of a chunk, and a scan over chunks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from parsample.grid import ceil_div

# One matrix per block: D x D; only its diagonal; or, for a state of K equal parts, n = D / K small ones, each of which
# couples one coordinate of every part.
BlockMatrices = Float[Array, "C D D"] | Float[Array, "C D"] | Float[Array, "C n K K"]


# Steps of a chunk: on a GPU each costs a few launches, and every chunk two places in the scan over them.
CHUNK_SIZE = 32


def apply(matrices: Array, vectors: Float[Array, "... D"]) -> Array:
    """Products A v; `matrices` has as many axes as `vectors` (diagonals), one more, or two more (small blocks)."""
    if matrices.ndim == vectors.ndim:
        return matrices * vectors
    if matrices.ndim == vectors.ndim + 1:
        return jnp.einsum("...ij,...j->...i", matrices, vectors, precision="highest")
    parts = vectors.reshape(*vectors.shape[:-1], matrices.shape[-1], matrices.shape[-3])
    return jnp.einsum("...nab,...bn->...an", matrices, parts, precision="highest").reshape(vectors.shape)


def multiply(second: Array, first: Array, is_diagonal: bool) -> Array:
    """Products of matrices, or of diagonals."""
    return second * first if is_diagonal else jnp.einsum("...ij,...jk->...ik", second, first, precision="highest")


def transpose(matrices: Array, is_diagonal: bool) -> Array:
    """Transposes of matrices, or of diagonals."""
    return matrices if is_diagonal else jnp.swapaxes(matrices, -1, -2)


def solve_sequential(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """The recursion step by step: the fastest form where one core does all the work."""
    _, deltas = jax.lax.scan(_advance, jnp.zeros_like(defects[0]), (_shifted(matrices), defects))
    return deltas


def solve_associative(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """The recursion as an associative scan over affine maps (A, d): for accelerators."""

    def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix_1, defect_1 = first
        matrix_2, defect_2 = second
        product = multiply(matrix_2, matrix_1, is_diagonal=matrix_1.ndim == defect_1.ndim)
        return product, apply(matrix_2, defect_1) + defect_2

    return jax.lax.associative_scan(compose, (_shifted(matrices), defects))[1]


def solve_chunked(
    matrices: BlockMatrices, defects: Float[Array, "C D"], chunk_size: int = CHUNK_SIZE
) -> Float[Array, "C D"]:
    """The recursion in chunks side by side: what each does to its start, the starts, then the steps of each."""
    num_blocks, dimension = defects.shape
    num_chunks = ceil_div(num_blocks, chunk_size)

    def cut(array: Array) -> Array:
        padding = [(0, num_chunks * chunk_size - num_blocks)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(num_chunks, chunk_size, *array.shape[1:]).swapaxes(0, 1)

    def compose(so_far: tuple[Array, Array], element: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        matrix, defect = element
        product = multiply(matrix, so_far[0], is_diagonal=matrices.ndim == 2)
        return (product, apply(matrix, so_far[1]) + defect), None

    elements = cut(_shifted(matrices)), cut(defects)
    nothing = jnp.zeros((num_chunks, dimension), defects.dtype)
    one = jnp.ones((), matrices.dtype) if matrices.ndim == 2 else jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    (products, ends), _ = jax.lax.scan(compose, (jnp.broadcast_to(one, elements[0].shape[1:]), nothing), elements)
    ends = solve_associative(jnp.roll(products, -1, axis=0), ends)
    _, deltas = jax.lax.scan(_advance, jnp.concatenate([nothing[:1], ends[:-1]]), elements)
    return deltas.swapaxes(0, 1).reshape(-1, dimension)[:num_blocks]


def solve(matrices: BlockMatrices, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c of all block starts, by the form that suits the device the programme is compiled for."""
    return jax.lax.platform_dependent(matrices, defects, cpu=solve_sequential, default=solve_associative)


def _advance(delta: Array, element: tuple[Array, Array]) -> tuple[Array, Array]:
    """One step of the recursion, for ``jax.lax.scan``."""
    matrix, defect = element
    delta = apply(matrix, delta) + defect
    return delta, delta


def _shifted(matrices: BlockMatrices) -> BlockMatrices:
    """A_{c-1} at place c; the first place multiplies a zero, so any finite matrix will do there."""
    return jnp.concatenate([jnp.zeros_like(matrices[:1]), matrices[:-1]])
