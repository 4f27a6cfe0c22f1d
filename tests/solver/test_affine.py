import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import FORMS, full, random_matrices

from parsample.solver import affine

SOLVERS = tuple(map(jax.jit, (affine.solve_sequential, affine.solve_associative, affine.solve)))


def step_by_step(matrices: np.ndarray, defects: np.ndarray) -> np.ndarray:
    deltas = [defects[0]]
    for matrix, defect in zip(full(matrices)[:-1], defects[1:], strict=True):
        deltas.append(matrix @ deltas[-1] + defect)
    return np.stack(deltas)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_blocks", [1, 2, 13])
def test_all_solvers_agree_with_a_loop(num_blocks, form):
    matrices = random_matrices(form, num_blocks, seed=num_blocks)
    defects = np.random.default_rng(0).normal(size=(num_blocks, 6))
    expected = step_by_step(matrices, defects)
    for solve in SOLVERS:
        np.testing.assert_allclose(solve(jnp.array(matrices), jnp.array(defects)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solve", SOLVERS)
def test_float32_stays_float32_and_accurate(solve, float32):
    rng = np.random.default_rng(0)
    matrices, defects = rng.normal(size=(13, 3, 3)) / 3, rng.normal(size=(13, 3))
    deltas = solve(jnp.array(matrices, jnp.float32), jnp.array(defects, jnp.float32))
    assert deltas.dtype == jnp.float32
    np.testing.assert_allclose(deltas, step_by_step(matrices, defects), rtol=2e-5, atol=2e-5)


def test_the_last_matrix_leads_nowhere_and_the_first_defect_passes_unchanged():
    matrices, defects = jnp.array([[[2.0]], [[3.0]], [[jnp.inf]]]), jnp.array([[1.0], [1.0], [1.0]])
    assert affine.solve(matrices, defects).ravel().tolist() == [1.0, 3.0, 10.0]


def test_vmap_over_chains():
    matrices, defects = np.full((2, 4, 1), 0.5), np.ones((2, 4, 1))
    deltas = jax.vmap(affine.solve)(jnp.array(matrices), jnp.array(defects))
    np.testing.assert_allclose(deltas[1, :, 0], [1.0, 1.5, 1.75, 1.875])


@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_full_matrices(form):
    first, second = (random_matrices(form, 4, seed) for seed in (1, 2))
    vectors = np.random.default_rng(3).normal(size=(4, 6))
    product = affine.multiply(jnp.array(second), jnp.array(first), is_diagonal=first.ndim == 2)
    np.testing.assert_allclose(full(np.asarray(product)), full(second) @ full(first), atol=1e-14)
    applied = affine.apply(jnp.array(first), jnp.array(vectors))
    np.testing.assert_allclose(applied, np.einsum("cij,cj->ci", full(first), vectors), atol=1e-14)
    one = affine.apply(jnp.array(first[0]), jnp.array(vectors[0]))  # as the sequential solver does it
    np.testing.assert_allclose(one, applied[0], atol=1e-14)
