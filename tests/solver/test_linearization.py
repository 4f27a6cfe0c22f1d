import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX
from refusals import COUNTS, refuses

from parsample.solver.linearization import Dense, Diagonal, Identity, Zero, push_forward
from parsample.solver.operators import DenseOperator, DiagonalOperator, Operator

KEY = jax.random.key(0)


def learned(linearization) -> Operator:
    """The operator that `linearization` returns for a map whose Jacobian is MATRIX."""
    tangent_seeds = linearization.tangent_seeds(KEY, 3, jnp.float64)
    return linearization.operator(tangent_seeds, tangent_seeds @ MATRIX.T)


@pytest.mark.parametrize(
    ("linearization", "form", "values"),
    [
        (Dense(), DenseOperator, MATRIX),
        (Diagonal(), DiagonalOperator, np.diag(MATRIX)),
        (Identity(), DiagonalOperator, np.ones(3)),
        (Zero(), DiagonalOperator, np.zeros(3)),
    ],
)
def test_operators_of_a_linear_map(linearization, form, values):
    found = learned(linearization)
    assert type(found) is form
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize(
    ("linearization", "num_tangents"), [(Zero(), 0), (Identity(), 0), (Diagonal(), 3), (Diagonal(2), 2), (Dense(), 3)]
)
def test_number_of_tangents(linearization, num_tangents):
    assert linearization.tangent_seeds(KEY, 3, jnp.float64).shape == (num_tangents, 3)


def test_hutchinson_probes_are_signs_and_unbiased():
    tangent_seeds = Diagonal(64).tangent_seeds(KEY, 3, jnp.float64)
    assert np.unique(tangent_seeds).tolist() == [-1.0, 1.0]
    every_sign = jnp.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    estimate = Diagonal(8).operator(every_sign, every_sign @ MATRIX.T)
    np.testing.assert_allclose(estimate.values, np.diag(MATRIX), atol=1e-15)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("value", COUNTS[:-1])  # None: exact
def test_hutchinson_needs_a_number_of_probes(value):
    with refuses(ValueError, "num_probes", f"must be a whole number of at least 1; got {value!r}"):
        Diagonal(value)


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
