"""Approximations of each block's Jacobian for Newton's method: zero, the identity, the diagonal, or the Jacobian.

Tangents are propagated with the states of a block (forward mode), from seeds at its start to output tangents at its
end. A linearization chooses the seeds, and builds the operator A from the output tangents. In an accept-reject step,
the branch taken is differentiated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from parsample.internal.validation import checked_count
from parsample.solver.operators import DenseOperator, DiagonalOperator, Operator

Tangents = Float[Array, "P D"]


class WithoutTangents:
    """Base of `Zero` and `Identity`, which do not differentiate the block map."""

    def tangent_seeds(self, _rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """No tangents, shape (0, D)."""
        return jnp.zeros((0, dimension), dtype)


@dataclass(frozen=True)
class Zero(WithoutTangents):
    """A = 0: a block starts where the block before it ended. Blocks must coalesce by themselves.

    Every sweep after the first ends early, once all blocks have met their paths of the previous sweep.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(
    ...     lambda s, u: 0.5 * jnp.sin(s) + u, jnp.zeros(3), jnp.ones((100, 3)), block_size=10,
    ...     linearization=parsample.Zero(),
    ... )
    >>> parsample.Status(int(solution.status)).name
    'CONVERGED'
    """

    def operator(self, _tangent_seeds: Tangents, output_tangents: Tangents) -> DiagonalOperator:
        """A, from the dimension of the tangents only."""
        return DiagonalOperator(jnp.zeros_like(output_tangents, shape=output_tangents.shape[1:]))


@dataclass(frozen=True)
class Identity(WithoutTangents):
    """A = I: Picard iteration. Suited to steps that change the state little, as in random walks.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(lambda s, u: s + u, jnp.zeros(()), jnp.ones(100), linearization=parsample.Identity())
    >>> solution.states[-1].tolist()
    100.0
    """

    def operator(self, _tangent_seeds: Tangents, output_tangents: Tangents) -> DiagonalOperator:
        """A, from the dimension of the tangents only."""
        return DiagonalOperator(jnp.ones_like(output_tangents, shape=output_tangents.shape[1:]))


@dataclass(frozen=True)
class Diagonal:
    """A = the diagonal of the block's Jacobian: quasi-DEER.

    Attributes
    ----------
    num_probes
        None: exact, from D tangents. Otherwise estimated from this many random sign vectors z, as the mean of z * (J z)
        (Hutchinson 1990; Zoltowski et al., arXiv 2508.18413).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(
    ...     lambda s, u: 0.5 * jnp.sin(s) + u, jnp.zeros(3), jnp.ones((100, 3)), block_size=10,
    ...     linearization=parsample.Diagonal(),
    ... )
    >>> parsample.Status(int(solution.status)).name
    'CONVERGED'
    """

    num_probes: int | None = None

    def __post_init__(self) -> None:
        check_probes(self.num_probes)

    def tangent_seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, or random sign vectors, shape (P, D)."""
        if self.num_probes is None:
            return jnp.eye(dimension, dtype=dtype)
        return jax.random.rademacher(rng_key, (self.num_probes, dimension), dtype)

    def operator(self, tangent_seeds: Tangents, output_tangents: Tangents) -> DiagonalOperator:
        """A, or its estimate."""
        # With unit vectors as tangent_seeds the sum is the diagonal; with sign vectors it is Hutchinson's estimate.
        scale = 1 if self.num_probes is None else self.num_probes
        return DiagonalOperator(jnp.sum(tangent_seeds * output_tangents, axis=0) / scale)


def check_probes(num_probes: Any) -> None:
    """Raise unless this is a number of probes, or None for the exact entries."""
    if num_probes is not None:
        checked_count("num_probes (None for the exact entries)", num_probes)


@dataclass(frozen=True)
class Dense:
    """A = the block's Jacobian, from D tangents: DEER, Newton's method (Lim et al., arXiv 2309.12252).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(
    ...     lambda s, u: 0.5 * jnp.sin(s) + u, jnp.zeros(3), jnp.ones((100, 3)), block_size=10,
    ...     linearization=parsample.Dense(),
    ... )
    >>> parsample.Status(int(solution.status)).name
    'CONVERGED'
    """

    def tangent_seeds(self, _rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Unit vectors, shape (D, D)."""
        return jnp.eye(dimension, dtype=dtype)

    def operator(self, _tangent_seeds: Tangents, output_tangents: Tangents) -> DenseOperator:
        """A."""
        return DenseOperator(output_tangents.T)


@runtime_checkable
class Linearization(Protocol):
    """An approximation of the Jacobian of each block map; instances are hashable."""

    def tangent_seeds(self, rng_key: Array, dimension: int, dtype: Any) -> Tangents:
        """Tangents at the start of every block, shape (P, D)."""
        ...

    def operator(self, tangent_seeds: Tangents, output_tangents: Tangents) -> Operator:
        """A of one block, from its tangents at the start and at the end."""
        ...


def push_forward(function: Callable, argument: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Evaluate ``function(argument) -> (value, aux)`` and push tangents of its argument forward.

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
    value, tangents of the value's floating-point leaves with leading axis P, aux. The value is computed once
    for all P tangents.
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
    """Floating-point leaves, other leaves, and the function that merges them back into the tree."""
    leaves, treedef = jax.tree.flatten(tree)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def merge(floats: list, others: list) -> PyTree:
        floats_left, others_left = iter(floats), iter(others)
        return jax.tree.unflatten(treedef, [next(floats_left if flag else others_left) for flag in is_float])

    floats = [leaf for leaf, flag in zip(leaves, is_float, strict=True) if flag]
    others = [leaf for leaf, flag in zip(leaves, is_float, strict=True) if not flag]
    return floats, others, merge
