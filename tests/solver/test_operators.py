import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import FORMS, check_operations, full, random_operators

from parsample.solver.operators import DenseOperator, DiagonalOperator


@pytest.mark.parametrize("form", FORMS)
def test_operations_are_those_of_the_full_matrices(form):
    check_operations(form)


def test_values_are_the_matrices_or_their_diagonals():
    dense, diagonal = (random_operators(form, 4) for form in (DenseOperator, DiagonalOperator))
    np.testing.assert_array_equal(full(dense), dense.values)
    np.testing.assert_array_equal(full(diagonal), diagonal.values[:, :, None] * jnp.eye(6)[None])


@pytest.mark.parametrize("form", FORMS)
def test_operators_pass_through_transformations(form):
    operators = random_operators(form, 4)
    vectors = jnp.ones((4, 6))
    applied = jax.vmap(form.apply)(operators, vectors)
    np.testing.assert_allclose(applied, operators.apply(vectors), atol=1e-14)
    mapped = jax.jit(jax.vmap(form))(operators.values)
    assert isinstance(mapped, form)
    np.testing.assert_array_equal(mapped.values, operators.values)


@pytest.mark.parametrize(("dimension", "excess"), [(1, 0.0), (2, 0.05), (5, 0.05), (40, 0.1)])
@pytest.mark.parametrize("size", [1e-200, 0.5, 3.0, 1e150])
def test_bounded_scales_to_norm_one_by_a_norm_found_from_below(dimension, excess, size):
    matrices = size * np.random.default_rng(dimension).normal(size=(200, dimension, dimension))
    norms = np.linalg.norm(matrices, 2, axis=(1, 2))
    result = np.asarray(DenseOperator(jnp.array(matrices)).bounded().values)
    after = np.linalg.norm(result, 2, axis=(1, 2))
    np.testing.assert_allclose(result * norms[:, None, None], matrices * after[:, None, None], rtol=1e-12)
    assert (after >= np.minimum(norms, 1) * (1 - 1e-12)).all()
    assert np.quantile(after, 0.95) <= 1 + excess + 1e-12


def test_bounded_leaves_smaller_matrices_alone():
    small = np.random.default_rng(0).normal(size=(20, 4, 4))
    small *= 0.99 / np.linalg.norm(small, 2, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(DenseOperator(jnp.array(small)).bounded().values, small)
    np.testing.assert_array_equal(DenseOperator(jnp.zeros((2, 3, 3))).bounded().values, np.zeros((2, 3, 3)))


def test_bounded_clips_diagonals():
    diagonals = DiagonalOperator(jnp.array([[-3.0, 0.5], [1.0, 1.5]]))
    np.testing.assert_array_equal(diagonals.bounded().values, [[-1.0, 0.5], [1.0, 1.0]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_only_the_operators_that_are_not_finite_become_zero(form, bad):
    values = jnp.full((2,) * (1 + form.num_axes), 0.25)
    operators = form(values.at[(0,) * values.ndim].set(bad))
    for result in (operators.finite().values, operators.bounded().values):
        assert (result[0] == 0).all()
        assert (result[1] == 0.25).all()
