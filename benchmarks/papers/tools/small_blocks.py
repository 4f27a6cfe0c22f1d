"""Operators made of small blocks, which only the papers' experiments use."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from parsample.solver.operators import DenseOperator, Operator


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SmallBlocksOperator(DenseOperator):
    """For a state of K equal parts: n = D / K small matrices, each coupling one coordinate across the K parts.

    `values` are the small matrices, shape (..., n, K, K). They are composed, transposed, inverted and bounded one by
    one, like the matrices of a `DenseOperator`.
    """

    num_axes: ClassVar[int] = 3

    def apply(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Products A v."""
        num_coordinates, num_parts, _ = self.values.shape[-3:]
        parts = vectors.reshape(*vectors.shape[:-1], num_parts, num_coordinates)
        return jnp.einsum("...nab,...bn->...an", self.values, parts, precision="highest").reshape(vectors.shape)

    def in_units_of(self, scale: Float[Array, " D"]) -> Operator:
        """S^-1 A S with the diagonal S of `scale`."""
        num_coordinates, num_parts, _ = self.values.shape[-3:]
        columns = scale.reshape(num_parts, num_coordinates).T
        columns = columns.reshape(*(1,) * (self.values.ndim - 3), num_coordinates, 1, num_parts)
        return replace(self, values=self.values * columns / jnp.swapaxes(columns, -1, -2))
