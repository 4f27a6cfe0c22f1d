"""Linearizations that only the papers' experiments use: small blocks, and diagonals in other coordinates."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.papers.tools.coordinates import Coordinates
from benchmarks.papers.tools.small_blocks import SmallBlocksOperator
from parsample import Diagonal
from parsample.solver.linearization import Tangents, check_probes
from parsample.solver.operators import DiagonalOperator


@dataclass(frozen=True)
class BlockDiagonal:
    """A = small blocks: the i-th couples the i-th coordinates of all parts of the state; block quasi-DEER.

    For states made of equal parts, such as (position, momentum) on the leapfrog steps of a trajectory
    (Zoltowski et al., arXiv 2508.18413).

    Attributes
    ----------
    num_parts
        K: the flat state is K vectors of n = D / K coordinates.
    num_probes
        None: exact, from D tangents. Else an estimate from K tangents for each of `num_probes` random sign vectors,
        exact if the Jacobian of every part by every part is diagonal.
    """

    num_parts: int = 2
    num_probes: int | None = None

    def __post_init__(self) -> None:
        check_probes(self.num_probes)
        if self.num_parts < 2:
            raise ValueError(f"num_parts must be at least 2; got {self.num_parts}. With one part, use Diagonal().")

    def tangent_seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, shape (D, D), or a random sign vector in one part at a time, shape (K P, D)."""
        if dimension % self.num_parts:
            raise ValueError(f"a state of {dimension} dimensions cannot have num_parts={self.num_parts} equal parts.")
        if self.num_probes is None:
            return jnp.eye(dimension, dtype=dtype)
        signs = jax.random.rademacher(rng_key, (self.num_probes, dimension // self.num_parts), dtype)
        each = jnp.eye(self.num_parts, dtype=dtype)[None, :, :, None] * signs[:, None, None, :]
        return each.reshape(-1, dimension)

    def operator(self, tangent_seeds: Tangents, output_tangents: Tangents) -> SmallBlocksOperator:
        """A, or its estimate."""
        parts = self.num_parts
        if self.num_probes is None:
            blocks = output_tangents.reshape(parts, output_tangents.shape[1] // parts, parts, -1)
            return SmallBlocksOperator(jnp.einsum("biai->iab", blocks))
        signs = tangent_seeds.reshape(self.num_probes, parts, parts, -1)[:, 0, 0]
        found = output_tangents.reshape(self.num_probes, parts, parts, -1)
        return SmallBlocksOperator(jnp.einsum("pi,pbai->iab", signs, found, precision="highest") / self.num_probes)


@dataclass(frozen=True)
class DiagonalIn:
    """`parsample.Diagonal` in other coordinates; goes with the correction `corrections.NewtonIn`.

    Attributes
    ----------
    coordinates
        Coordinates in which the diagonal is taken.
    num_probes
        As of `parsample.Diagonal`.
    """

    coordinates: Coordinates
    num_probes: int | None = None

    def tangent_seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, or random sign vectors, of the coordinates, shape (P, D)."""
        if len(self.coordinates.axes) != dimension:
            raise ValueError(
                f"coordinates have {len(self.coordinates.axes)} axes; the state has {dimension} dimensions."
            )
        return self.coordinates.out_of(Diagonal(self.num_probes).tangent_seeds(rng_key, dimension, dtype))

    def operator(self, tangent_seeds: Tangents, output_tangents: Tangents) -> DiagonalOperator:
        """A in the coordinates, where it is diagonal, or its estimate."""
        return Diagonal(self.num_probes).operator(
            self.coordinates.into(tangent_seeds), self.coordinates.into(output_tangents)
        )
