"""Random operators of blocks of six dimensions, and the full D x D matrices of any operators."""

import jax.numpy as jnp
import numpy as np

from parsample.solver.operators import DenseOperator, DiagonalOperator, Operator

FORMS = (DenseOperator, DiagonalOperator)
DIMENSION, PARTS = 6, 2
SHAPES = {1: (DIMENSION,), 2: (DIMENSION, DIMENSION), 3: (DIMENSION // PARTS, PARTS, PARTS)}  # by number of axes


def random_operators(form: type[Operator], num_blocks: int, seed: int = 0) -> Operator:
    """Operators of six dimensions; each small block couples coordinate i of one half with coordinate i of the other."""
    return form(jnp.array(np.random.default_rng(seed).normal(size=(num_blocks, *SHAPES[form.num_axes])) / 2))


def full(operators: Operator, dimension: int = DIMENSION) -> np.ndarray:
    """The matrices of operators with one leading axis, shape (C, D, D), from their products with unit vectors."""
    num_blocks = operators.values.shape[0]
    columns = [operators.apply(jnp.broadcast_to(unit, (num_blocks, dimension))) for unit in jnp.eye(dimension)]
    return np.stack(columns, axis=-1).astype(float)


def check_operations(form: type[Operator]) -> None:
    """Compare all operations of a form, `bounded` and `finite` excepted, with those of the full matrices."""
    first, second = (random_operators(form, 4, seed) for seed in (1, 2))
    vectors = jnp.array(np.random.default_rng(3).normal(size=(4, DIMENSION)))
    applied = first.apply(vectors)
    np.testing.assert_allclose(applied, np.einsum("cij,cj->ci", full(first), vectors), atol=1e-14)
    one = form(first.values[0]).apply(vectors[0])  # without leading axes, as in the sequential solver
    np.testing.assert_allclose(one, applied[0], atol=1e-14)
    np.testing.assert_allclose(full(second.compose(first)), full(second) @ full(first), atol=1e-14)
    np.testing.assert_array_equal(full(first.transpose()), np.swapaxes(full(first), 1, 2))
    np.testing.assert_allclose(full(first.inverse()), np.linalg.inv(full(first)), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(full(first.unit()), np.broadcast_to(np.eye(DIMENSION), (4, DIMENSION, DIMENSION)))
    scale = np.array([0.01, 1.0, 3.0, 0.5, 20.0, 0.2])
    scaled = full(first) * scale / scale[:, None]
    np.testing.assert_allclose(full(first.in_units_of(jnp.array(scale))), scaled, rtol=1e-14)
    np.testing.assert_array_equal(full(first + second), full(first) + full(second))
    np.testing.assert_array_equal(full(0.3 * first), 0.3 * full(first))
    np.testing.assert_array_equal(full(first / 0.3), full(first) / 0.3)
