"""Linear operators that approximate the Jacobians of blocks: diagonals and matrices.

One object holds the operators of any number of blocks, stacked along the leading axes of its one array. It is a pytree,
so that JAX maps, scans and exchanges operators like arrays.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """Linear operators A of one kind; sums and products need two of the same kind.

    Attributes
    ----------
    values
        Entries of all operators, with any leading axes.
    """

    values: Any  # an array; not declared as one, because JAX also builds pytrees of placeholders

    num_axes: ClassVar[int]  # trailing axes of `values` that hold one operator

    def __add__(self, other: "Operator") -> "Operator":
        return replace(self, values=self.values + other.values)

    def __rmul__(self, factor: ArrayLike) -> "Operator":
        return replace(self, values=factor * self.values)

    def __truediv__(self, divisor: ArrayLike) -> "Operator":
        return replace(self, values=self.values / divisor)

    @abstractmethod
    def apply(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Products A v."""

    @abstractmethod
    def compose(self, first: "Operator") -> "Operator":
        """Products A B: the operators B of `first`, followed by these."""

    @abstractmethod
    def transpose(self) -> "Operator":
        """Transposes A^T."""

    @abstractmethod
    def inverse(self) -> "Operator":
        """Inverses A^-1."""

    @abstractmethod
    def unit(self) -> "Operator":
        """Identities, as many as there are operators."""

    @abstractmethod
    def in_units_of(self, scale: Float[Array, " D"]) -> "Operator":
        """S^-1 A S with the diagonal S of `scale`: the operators on vectors in units of `scale`."""

    @abstractmethod
    def bounded(self) -> "Operator":
        """The operators, scaled down to spectral norm 1 if they exceed it; non-finite operators become 0.

        Corrections then never grow from block to block, which keeps Newton's method from overshooting where curvature
        varies. This changes the next iterate, not the equations solved.
        """

    def finite(self) -> "Operator":
        """The operators, with 0 in place of each one that has a non-finite entry."""
        axes = tuple(range(-self.num_axes, 0))
        return replace(self, values=jnp.where(jnp.isfinite(self.values).all(axes, keepdims=True), self.values, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DiagonalOperator(Operator):
    """Diagonal matrices; `values` are the diagonals, shape (..., D)."""

    num_axes: ClassVar[int] = 1

    def apply(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Products A v."""
        return self.values * vectors

    def compose(self, first: Operator) -> Operator:
        """Products A B."""
        return replace(self, values=self.values * first.values)

    def transpose(self) -> Operator:
        """A^T = A."""
        return self

    def inverse(self) -> Operator:
        """Inverses A^-1."""
        return replace(self, values=1 / self.values)

    def unit(self) -> Operator:
        """Identities, as many as there are operators."""
        return replace(self, values=jnp.ones_like(self.values))

    def in_units_of(self, _scale: Float[Array, " D"]) -> Operator:
        """S^-1 A S = A."""
        return self

    def bounded(self) -> Operator:
        """The operators, with every entry clipped to [-1, 1]; non-finite operators become 0."""
        return replace(self, values=jnp.clip(self.finite().values, -1, 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DenseOperator(Operator):
    """Matrices without structure; `values` are the matrices, shape (..., D, D)."""

    num_axes: ClassVar[int] = 2

    def apply(self, vectors: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Products A v."""
        return jnp.einsum("...ij,...j->...i", self.values, vectors, precision="highest")

    def compose(self, first: Operator) -> Operator:
        """Products A B."""
        return replace(self, values=jnp.einsum("...ij,...jk->...ik", self.values, first.values, precision="highest"))

    def transpose(self) -> Operator:
        """Transposes A^T."""
        return replace(self, values=jnp.swapaxes(self.values, -1, -2))

    def inverse(self) -> Operator:
        """Inverses A^-1."""
        return replace(self, values=jnp.linalg.inv(self.values))

    def unit(self) -> Operator:
        """Identities, as many as there are operators."""
        one = jnp.eye(self.values.shape[-1], dtype=self.values.dtype)
        return replace(self, values=jnp.broadcast_to(one, self.values.shape))

    def in_units_of(self, scale: Float[Array, " D"]) -> Operator:
        """S^-1 A S with the diagonal S of `scale`."""
        columns = scale.reshape(*(1,) * (self.values.ndim - 1), -1)
        return replace(self, values=self.values * columns / jnp.swapaxes(columns, -1, -2))

    def bounded(self) -> Operator:
        """The operators, scaled down to spectral norm 1 if they exceed it; non-finite operators become 0."""
        finite = self.finite().values
        each = finite.reshape(-1, *finite.shape[-2:])
        scaled = each / jnp.maximum(_spectral_norms(each), 1)[:, None, None]
        return replace(self, values=scaled.reshape(finite.shape))


def _spectral_norms(matrices: Float[Array, "C D D"], num_iterations: int = 8) -> Float[Array, " C"]:
    """Largest singular values by power iteration on A^T A.

    Eight rounds approach it from below to within a few percent, enough for a safeguard, at the cost of 16 small
    products; a singular value decomposition costs hundreds.
    """
    largest = jnp.max(jnp.abs(matrices), axis=(1, 2), keepdims=True)
    scaled = matrices / jnp.where(largest > 0, largest, 1)  # so that squares neither overflow nor vanish

    def refine(_: Any, vectors: Array) -> Array:
        vectors = jnp.einsum("cji,cj->ci", scaled, jnp.einsum("cij,cj->ci", scaled, vectors))
        norms = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / jnp.where(norms > 0, norms, 1)

    # A start without any pattern, so that a structured matrix is unlikely to be orthogonal to it.
    start = jnp.cos(1.0 + jnp.arange(matrices.shape[2], dtype=matrices.dtype) ** 2)
    start = jnp.broadcast_to(start, (matrices.shape[0], matrices.shape[2]))
    vectors = jax.lax.fori_loop(0, num_iterations, refine, start)
    return largest[:, 0, 0] * jnp.linalg.norm(jnp.einsum("cij,cj->ci", scaled, vectors), axis=1)
