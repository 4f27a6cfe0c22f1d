import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import FORMS, full, random_operators

from parsample.solver import affine
from parsample.solver.operators import DenseOperator, DiagonalOperator, Operator

SOLVERS = tuple(map(jax.jit, (affine.solve_sequential, affine.solve_associative, affine.solve)))


def step_by_step(operators: Operator, defects: np.ndarray) -> np.ndarray:
    deltas = [defects[0]]
    for matrix, defect in zip(full(operators, defects.shape[1])[:-1], defects[1:], strict=True):
        deltas.append(matrix @ deltas[-1] + defect)
    return np.stack(deltas)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_blocks", [1, 2, 13])
def test_all_solvers_agree_with_a_loop(num_blocks, form):
    operators = random_operators(form, num_blocks, seed=num_blocks)
    defects = np.random.default_rng(0).normal(size=(num_blocks, 6))
    expected = step_by_step(operators, defects)
    for solve in SOLVERS:
        np.testing.assert_allclose(solve(operators, jnp.array(defects)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solve", SOLVERS)
def test_float32_stays_float32_and_accurate(solve, float32):
    rng = np.random.default_rng(0)
    matrices, defects = rng.normal(size=(13, 3, 3)) / 3, rng.normal(size=(13, 3))
    operators = DenseOperator(jnp.array(matrices, jnp.float32))
    deltas = solve(operators, jnp.array(defects, jnp.float32))
    assert deltas.dtype == jnp.float32
    np.testing.assert_allclose(deltas, step_by_step(operators, defects), rtol=2e-5, atol=2e-5)


def test_the_last_operator_leads_nowhere_and_the_first_defect_passes_unchanged():
    operators, defects = DenseOperator(jnp.array([[[2.0]], [[3.0]], [[jnp.inf]]])), jnp.array([[1.0], [1.0], [1.0]])
    assert affine.solve(operators, defects).ravel().tolist() == [1.0, 3.0, 10.0]


def test_vmap_over_chains():
    operators, defects = DiagonalOperator(jnp.full((2, 4, 1), 0.5)), jnp.ones((2, 4, 1))
    deltas = jax.vmap(affine.solve)(operators, defects)
    np.testing.assert_allclose(deltas[1, :, 0], [1.0, 1.5, 1.75, 1.875])
