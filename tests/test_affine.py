import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import affine

FORMS = (affine.solve_sequential, affine.solve_associative, affine.solve)


def step_by_step(matrices: np.ndarray, defects: np.ndarray) -> np.ndarray:
    deltas = [defects[0]]
    for matrix, defect in zip(matrices[:-1], defects[1:], strict=True):
        full = np.diag(matrix) if matrix.ndim == 1 else matrix
        deltas.append(full @ deltas[-1] + defect)
    return np.stack(deltas)


@pytest.mark.parametrize("is_dense", [True, False], ids=["dense", "diagonal"])
@pytest.mark.parametrize("num_blocks", [1, 2, 5, 64])
def test_all_forms_agree_with_a_loop(num_blocks, is_dense):
    rng = np.random.default_rng(num_blocks)
    matrices = rng.normal(size=(num_blocks, 3, 3) if is_dense else (num_blocks, 3)) / 2
    defects = rng.normal(size=(num_blocks, 3))
    expected = step_by_step(matrices, defects)
    for form in FORMS:
        np.testing.assert_allclose(form(jnp.array(matrices), jnp.array(defects)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_float32_stays_float32_and_accurate(form, float32):
    rng = np.random.default_rng(0)
    matrices, defects = rng.normal(size=(64, 3, 3)) / 3, rng.normal(size=(64, 3))
    deltas = form(jnp.array(matrices, jnp.float32), jnp.array(defects, jnp.float32))
    assert deltas.dtype == jnp.float32
    np.testing.assert_allclose(deltas, step_by_step(matrices, defects), rtol=2e-5, atol=2e-5)


def test_the_last_matrix_leads_nowhere_and_the_first_defect_passes_unchanged():
    matrices, defects = jnp.array([[[2.0]], [[3.0]], [[jnp.inf]]]), jnp.array([[1.0], [1.0], [1.0]])
    assert affine.solve(matrices, defects).ravel().tolist() == [1.0, 3.0, 10.0]


def test_vmap_over_chains():
    matrices, defects = np.full((2, 4, 1), 0.5), np.ones((2, 4, 1))
    deltas = jax.vmap(affine.solve)(jnp.array(matrices), jnp.array(defects))
    np.testing.assert_allclose(deltas[1, :, 0], [1.0, 1.5, 1.75, 1.875])


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 3)])
def test_apply_multiplies_by_full_matrices_or_diagonals(shape):
    matrices, vectors = np.random.default_rng(1).normal(size=shape), np.ones((4, 3))
    expected = matrices.sum(-1) if len(shape) == 3 else matrices
    np.testing.assert_allclose(affine.apply(jnp.array(matrices), jnp.array(vectors)), expected, rtol=1e-12)
