"""What Newton's method is told of each block map: nothing, the identity, a diagonal, small blocks, or the Jacobian.

Tangents are carried along with the states of a block (forward mode), from *seeds* at the block's start to *images* at
its end; a linearization chooses the seeds and makes a matrix of the images. Accept-reject steps differentiate
the branch taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from parsample.affine import BlockMatrices
from parsample.coordinates import Coordinates

Tangents = Float[Array, "P D"]


class InOwnCoordinates:
    """Of linearizations that speak of the state's own coordinates."""

    coordinates = None


class WithoutTangents(InOwnCoordinates):
    """What `Zero` and `Identity` share: nothing of the map is differentiated."""

    def seeds(self, _rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """No tangents, shape (0, D)."""
        return jnp.zeros((0, dimension), dtype)


@dataclass(frozen=True)
class Zero(WithoutTangents):
    """A = 0: a block starts where the block before it ended. Blocks must coalesce by themselves.

    Sweeps after the first one end early, once all new paths have met the old ones.
    """

    def matrix(self, _seeds: Tangents, images: Tangents) -> Float[Array, " D"]:
        """The diagonal of A."""
        return jnp.zeros_like(images, shape=images.shape[1:])


@dataclass(frozen=True)
class Identity(WithoutTangents):
    """A = I: Picard iteration. Right where a step moves little, as for random walks."""

    def matrix(self, _seeds: Tangents, images: Tangents) -> Float[Array, " D"]:
        """The diagonal of A."""
        return jnp.ones_like(images, shape=images.shape[1:])


@dataclass(frozen=True)
class Diagonal:
    """A = the diagonal of the block's Jacobian: quasi-DEER.

    Attributes
    ----------
    num_probes
        None: exact, from D tangents. Else an estimate from this many random sign vectors z, the mean of z * (J z)
        (Hutchinson 1990; Zoltowski et al., arXiv 2508.18413).
    coordinates
        Those in which the diagonal is taken and corrections are found; None: the state's own.
    """

    num_probes: int | None = None
    coordinates: Coordinates | None = None

    def __post_init__(self) -> None:
        _check_probes(self.num_probes)

    def seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, or random sign vectors, of the coordinates, shape (P, D)."""
        if self.coordinates is not None and len(self.coordinates.axes) != dimension:
            raise ValueError(
                f"coordinates have {len(self.coordinates.axes)} axes; the state has {dimension} dimensions."
            )
        if self.num_probes is None:
            seeds = jnp.eye(dimension, dtype=dtype)
        else:
            seeds = jax.random.rademacher(rng_key, (self.num_probes, dimension), dtype)
        return seeds if self.coordinates is None else self.coordinates.out_of(seeds)

    def matrix(self, seeds: Tangents, images: Tangents) -> Float[Array, " D"]:
        """The diagonal of A in the coordinates, or its estimate."""
        if self.coordinates is not None:
            seeds, images = self.coordinates.into(seeds), self.coordinates.into(images)
        # With unit vectors as seeds the sum picks the diagonal; with sign vectors it is Hutchinson's estimate.
        scale = 1 if self.num_probes is None else self.num_probes
        return jnp.sum(seeds * images, axis=0) / scale


@dataclass(frozen=True)
class BlockDiagonal(InOwnCoordinates):
    """A = small blocks, each of which couples one coordinate of every part of the state: block quasi-DEER.

    For states of equal parts one after another, such as (position, momentum) on the leapfrog steps of a trajectory
    (Zoltowski et al., arXiv 2508.18413).

    Attributes
    ----------
    num_parts
        K: the flat state is K vectors of n = D / K coordinates.
    num_probes
        None: exact, from D tangents. Else an estimate from K tangents for each of so many random sign vectors z, which
        is exact for parts whose Jacobian is diagonal.
    """

    num_parts: int = 2
    num_probes: int | None = None

    def __post_init__(self) -> None:
        _check_probes(self.num_probes)
        if self.num_parts < 2:
            raise ValueError(f"num_parts must be at least 2; got {self.num_parts}. With one part, use Diagonal().")

    def seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, shape (D, D), or a random sign vector in one part at a time, shape (K P, D)."""
        if dimension % self.num_parts:
            raise ValueError(f"a state of {dimension} dimensions cannot have num_parts={self.num_parts} equal parts.")
        if self.num_probes is None:
            return jnp.eye(dimension, dtype=dtype)
        signs = jax.random.rademacher(rng_key, (self.num_probes, dimension // self.num_parts), dtype)
        each = jnp.eye(self.num_parts, dtype=dtype)[None, :, :, None] * signs[:, None, None, :]
        return each.reshape(-1, dimension)

    def matrix(self, seeds: Tangents, images: Tangents) -> Float[Array, "n K K"]:
        """The small blocks of A, or their estimates."""
        parts = self.num_parts
        if self.num_probes is None:
            blocks = images.reshape(parts, images.shape[1] // parts, parts, -1)
            return jnp.einsum("biai->iab", blocks)
        signs = seeds.reshape(self.num_probes, parts, parts, -1)[:, 0, 0]
        found = images.reshape(self.num_probes, parts, parts, -1)
        return jnp.einsum("pi,pbai->iab", signs, found, precision="highest") / self.num_probes


def _check_probes(num_probes: int | None) -> None:
    if num_probes is not None and num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, or None for the exact entries; got {num_probes}.")


@dataclass(frozen=True)
class Dense(InOwnCoordinates):
    """A = the block's Jacobian, from D tangents: DEER, Newton's method (Lim et al., arXiv 2309.12252)."""

    def seeds(self, _rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, shape (D, D)."""
        return jnp.eye(dimension, dtype=dtype)

    def matrix(self, _seeds: Tangents, images: Tangents) -> Float[Array, "D D"]:
        """A."""
        return images.T


Linearization = Zero | Identity | Diagonal | BlockDiagonal | Dense


def bounded(matrices: BlockMatrices) -> Array:
    """The matrices scaled down to spectral norm 1 where they exceed it; what is not finite becomes 0.

    Corrections then never grow on their way from block to block, which keeps Newton's method from overshooting where
    curvature varies. It changes the next iterate, not the equations solved. Small blocks are scaled each by itself.
    """
    matrices = without_infinities(matrices)
    if matrices.ndim == 2:
        return jnp.clip(matrices, -1, 1)
    each = matrices.reshape(-1, *matrices.shape[-2:])
    return (each / jnp.maximum(_spectral_norms(each), 1)[:, None, None]).reshape(matrices.shape)


def without_infinities(matrices: BlockMatrices) -> Array:
    """The matrices; those that are not finite, as 0."""
    axes = tuple(range(1, matrices.ndim))
    return jnp.where(jnp.isfinite(matrices).all(axes, keepdims=True), matrices, 0)


def _spectral_norms(matrices: Float[Array, "C D D"], num_iterations: int = 8) -> Float[Array, " C"]:
    """Largest singular values by power iteration on A^T A.

    Eight rounds, from below: within a few percent, which is all that a safeguard needs, at the cost of 16 small
    products where a singular value decomposition costs hundreds.
    """
    largest = jnp.max(jnp.abs(matrices), axis=(1, 2), keepdims=True)
    scaled = matrices / jnp.where(largest > 0, largest, 1)  # so that squares neither overflow nor vanish

    def refine(_: Any, vectors: Array) -> Array:
        vectors = jnp.einsum("cji,cj->ci", scaled, jnp.einsum("cij,cj->ci", scaled, vectors))
        norms = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / jnp.where(norms > 0, norms, 1)

    # A start in general position: its entries follow no pattern that a structured matrix could be orthogonal to.
    start = jnp.broadcast_to(jnp.cos(1.0 + jnp.arange(matrices.shape[2]) ** 2), (matrices.shape[0], matrices.shape[2]))
    vectors = jax.lax.fori_loop(0, num_iterations, refine, start.astype(matrices.dtype))
    return largest[:, 0, 0] * jnp.linalg.norm(jnp.einsum("cij,cj->ci", scaled, vectors), axis=1)


def push_forward(function: Callable, argument: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """``function(argument) -> (value, aux)`` together with its tangents.

    Parameters
    ----------
    function
        Maps a pytree to (pytree, auxiliary output).
    argument
        Pytree; leaves that are not floating point (keys, counters) are held fixed.
    tangents
        List of tangents of the floating-point leaves, with leading axis P.

    Returns
    -------
    value, tangents of the value's floating-point leaves with leading axis P, aux. The value is computed once,
    whatever P is.
    """
    floats, others, merge = _split(argument)

    def of_floats(floats: list) -> tuple[list, tuple]:
        value, aux = function(merge(floats, others))
        out_floats, out_others, out_merge = _split(value)
        merges.append(out_merge)
        return out_floats, (out_others, aux)

    merges: list[Callable] = []
    num_tangents = jax.tree.leaves(tangents)[0].shape[0] if tangents else 0
    if num_tangents == 0:
        out_floats, (out_others, aux) = of_floats(floats)
        out_tangents = [jnp.zeros((0, *leaf.shape), leaf.dtype) for leaf in out_floats]
    else:
        along = jax.vmap(
            lambda direction: jax.jvp(of_floats, (floats,), (direction,), has_aux=True), out_axes=(None, 0, None)
        )
        out_floats, out_tangents, (out_others, aux) = along(tangents)
    return merges[0](out_floats, out_others), out_tangents, aux


def _split(tree: PyTree) -> tuple[list, list, Callable]:
    """Floating-point leaves, other leaves, and the function that puts them together again."""
    leaves, treedef = jax.tree.flatten(tree)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def merge(floats: list, others: list) -> PyTree:
        floats_left, others_left = iter(floats), iter(others)
        return jax.tree.unflatten(treedef, [next(floats_left if flag else others_left) for flag in is_float])

    floats = [leaf for leaf, flag in zip(leaves, is_float, strict=True) if flag]
    others = [leaf for leaf, flag in zip(leaves, is_float, strict=True) if not flag]
    return floats, others, merge
