"""The affine recursion that carries corrections from block to block.

``delta_c = A_{c-1} delta_{c-1} + d_c`` for c = 1, ..., C-1, with ``delta_0 = d_0``. The sequential form costs C
matrix-vector products, one after another; the associative scan (Blelloch 1990) costs about 2 C matrix-matrix products
in 2 log2(C) rounds. The operators A_c of all C blocks are stacked in one `Operator`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from parsample.solver.operators import Operator


def solve_sequential(operators: Operator, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c by the sequential recursion, the fastest form on a single core."""
    _, deltas = jax.lax.scan(_advance, jnp.zeros_like(defects[0]), (shifted(operators), defects))
    return deltas


def solve_associative(operators: Operator, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c by an associative scan over affine maps (A, d), for accelerators."""

    def compose(first: tuple[Operator, Array], second: tuple[Operator, Array]) -> tuple[Operator, Array]:
        operator_1, defect_1 = first
        operator_2, defect_2 = second
        return operator_2.compose(operator_1), operator_2.apply(defect_1) + defect_2

    return jax.lax.associative_scan(compose, (shifted(operators), defects))[1]


def solve(operators: Operator, defects: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Corrections delta_c of all block starts: by the sequential form on CPUs, by the associative scan elsewhere."""
    return jax.lax.platform_dependent(operators, defects, cpu=solve_sequential, default=solve_associative)


def _advance(delta: Array, element: tuple[Operator, Array]) -> tuple[Array, Array]:
    """One step of the recursion, for ``jax.lax.scan``."""
    operator, defect = element
    delta = operator.apply(delta) + defect
    return delta, delta


def shifted(operators: Operator) -> Operator:
    """A_{c-1} at index c; the operator at index 0 is applied to zero, so any finite one will do."""
    return jax.tree.map(lambda values: jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]]), operators)
