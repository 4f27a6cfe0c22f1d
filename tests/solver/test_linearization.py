import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX
from matrices import random_matrices

from parsample.solver.linearization import Dense, Diagonal, Identity, Zero, bounded, push_forward

KEY = jax.random.key(0)


def learned(linearization) -> np.ndarray:
    """What `linearization` makes of a map whose Jacobian is MATRIX."""
    tangent_seeds = linearization.tangent_seeds(KEY, 3, jnp.float64)
    return np.asarray(linearization.matrix(tangent_seeds, tangent_seeds @ MATRIX.T))


def test_what_each_linearization_learns_of_a_linear_map():
    np.testing.assert_array_equal(learned(Dense()), MATRIX)
    np.testing.assert_array_equal(learned(Diagonal()), np.diag(MATRIX))
    np.testing.assert_array_equal(learned(Identity()), np.ones(3))
    np.testing.assert_array_equal(learned(Zero()), np.zeros(3))


@pytest.mark.parametrize(
    ("linearization", "num_tangents"), [(Zero(), 0), (Identity(), 0), (Diagonal(), 3), (Diagonal(2), 2), (Dense(), 3)]
)
def test_number_of_tangents(linearization, num_tangents):
    assert linearization.tangent_seeds(KEY, 3, jnp.float64).shape == (num_tangents, 3)


def test_hutchinson_probes_are_signs_and_unbiased():
    tangent_seeds = Diagonal(64).tangent_seeds(KEY, 3, jnp.float64)
    assert np.unique(tangent_seeds).tolist() == [-1.0, 1.0]
    every_sign = jnp.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    estimate = Diagonal(8).matrix(every_sign, every_sign @ MATRIX.T)
    np.testing.assert_allclose(estimate, np.diag(MATRIX), atol=1e-15)


def test_hutchinson_needs_a_probe():
    with pytest.raises(ValueError, match=r"num_probes must be at least 1.*got 0"):
        Diagonal(0)


def test_bounded_scales_each_small_block_by_itself():
    blocks = random_matrices("small blocks", 50)
    norms = np.linalg.norm(blocks, 2, axis=(2, 3))
    assert (norms < 1).any()
    result = np.asarray(bounded(jnp.array(blocks)))
    np.testing.assert_array_equal(result[norms < 1], blocks[norms < 1])
    after = np.linalg.norm(result, 2, axis=(2, 3))
    np.testing.assert_allclose(result * norms[..., None, None], blocks * after[..., None, None], rtol=1e-12)
    assert (after[norms > 1] >= 1 - 1e-12).all()
    assert np.quantile(after, 0.95) < 1.05


@pytest.mark.parametrize(("dimension", "excess"), [(1, 0.0), (2, 0.05), (5, 0.05), (40, 0.1)])
@pytest.mark.parametrize("size", [1e-200, 0.5, 3.0, 1e150])
def test_bounded_scales_to_norm_one_by_a_norm_found_from_below(dimension, excess, size):
    matrices = size * np.random.default_rng(dimension).normal(size=(200, dimension, dimension))
    norms = np.linalg.norm(matrices, 2, axis=(1, 2))
    result = np.asarray(bounded(jnp.array(matrices)))
    after = np.linalg.norm(result, 2, axis=(1, 2))
    np.testing.assert_allclose(result * norms[:, None, None], matrices * after[:, None, None], rtol=1e-12)
    assert (after >= np.minimum(norms, 1) * (1 - 1e-12)).all()
    assert np.quantile(after, 0.95) <= 1 + excess + 1e-12


def test_bounded_leaves_smaller_matrices_alone():
    small = np.random.default_rng(0).normal(size=(20, 4, 4))
    small *= 0.99 / np.linalg.norm(small, 2, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(bounded(jnp.array(small)), small)
    np.testing.assert_array_equal(bounded(jnp.zeros((2, 3, 3))), np.zeros((2, 3, 3)))


def test_bounded_clips_diagonals():
    diagonals = jnp.array([[-3.0, 0.5], [1.0, 1.5]])
    np.testing.assert_array_equal(bounded(diagonals), [[-1.0, 0.5], [1.0, 1.0]])


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bounded_zeroes_only_the_matrices_that_are_not_finite(shape, bad):
    matrices = np.full(shape, 0.25)
    matrices[(0,) * len(shape)] = bad
    result = np.asarray(bounded(jnp.array(matrices)))
    assert (result[0] == 0).all()
    assert (result[1] == 0.25).all()


def test_push_forward_carries_tangents_of_floats_and_holds_the_rest_fixed():
    def function(state: dict) -> tuple[dict, jax.Array]:
        x = state["x"]
        moved = {"x": jnp.sin(x) * jnp.roll(x, 1), "count": state["count"] + 1, "key": state["key"], "sum": x.sum()}
        return moved, x[0]

    x = jnp.array([0.3, -1.0, 2.0])
    state = {"x": x, "count": jnp.array(4), "key": jax.random.key(1)}
    value, tangents, aux = push_forward(function, state, [jnp.eye(3)])
    jacobian = jax.jacfwd(lambda x: function({**state, "x": x})[0]["x"])(x)
    assert (int(value["count"]), float(aux)) == (5, float(x[0]))
    by_shape = {tangent.shape: tangent for tangent in tangents}
    np.testing.assert_allclose(by_shape[3, 3].T, jacobian, rtol=1e-12)
    np.testing.assert_array_equal(by_shape[3,], np.ones(3))


def test_push_forward_without_tangents_differentiates_nothing():
    def opaque(x: jax.Array) -> tuple[jax.Array, None]:
        result = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda x: 2 * np.asarray(x), result, x), None

    value, tangents, _ = push_forward(opaque, jnp.ones(2), [jnp.zeros((0, 2))])
    assert value.tolist() == [2.0, 2.0]
    assert tangents[0].shape == (0, 2)
