"""Coordinates against linear algebra, and diagonal linearizations in principal axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, noise

from benchmarks.papers.tools.coordinates import Coordinates
from benchmarks.papers.tools.corrections import NewtonIn
from benchmarks.papers.tools.linearizations import DiagonalIn
from parsample import Diagonal, Status, deer, rollout

COVARIANCE = np.array([[4.0, 1.5, 0.0], [1.5, 1.0, 0.3], [0.0, 0.3, 0.5]])


def test_orthogonal_coordinates_are_a_rotation_to_the_principal_axes():
    axes = Coordinates.orthogonal(COVARIANCE).axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-14)
    turned = axes.T @ COVARIANCE @ axes
    np.testing.assert_allclose(turned, np.diag(np.linalg.eigvalsh(COVARIANCE)), atol=1e-14)


def test_whitening_coordinates_have_unit_covariance():
    coordinates = Coordinates.whitening(COVARIANCE)
    np.testing.assert_allclose(coordinates.axes @ coordinates.axes.T, COVARIANCE, atol=1e-14)
    half = coordinates.into(jnp.array(COVARIANCE))  # B^-1 applied to rows, then to columns
    np.testing.assert_allclose(coordinates.into(half.T), np.eye(3), atol=1e-13)


def test_into_and_out_of_are_inverse_and_keep_the_dtype():
    coordinates = Coordinates([[2.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(coordinates.out_of(jnp.array([1.0, 3.0])), [5.0, 3.0])
    vectors = noise(4, 5, 2).astype(jnp.float32)
    back = coordinates.into(coordinates.out_of(vectors))
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, vectors, atol=1e-5)


def test_coordinates_are_compared_by_content():
    first, second = (Coordinates.whitening(COVARIANCE) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert DiagonalIn(first) == DiagonalIn(second)
    assert first != Coordinates(np.eye(3))
    assert first != COVARIANCE.tolist()


@pytest.mark.parametrize(
    ("make", "num_probes"),
    [(Coordinates.orthogonal, None), (Coordinates.whitening, 1)],
)
@pytest.mark.slow
def test_a_diagonal_says_all_where_the_axes_are_those_of_the_map(make, num_probes):
    # Langevin dynamics of a Gaussian: the Jacobian I - eps S^-1 has the eigenvectors of the covariance S.
    jacobian = np.eye(3) - 0.3 * np.linalg.inv(COVARIANCE)
    chain = Recursion(lambda s, u: jnp.asarray(jacobian) @ s + u, jnp.ones(3), noise(100, 3))
    settings = {"max_step": None, "stall_after": 1000}
    axes = make(COVARIANCE)
    solution = deer(*chain, linearization=DiagonalIn(axes, num_probes), correction=NewtonIn(axes), **settings)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    np.testing.assert_allclose(solution.states, rollout(*chain), atol=1e-8)
    plain = deer(*chain, linearization=Diagonal(num_probes), **settings)
    assert (Status(int(plain.status)), int(plain.num_iters) > 10) == (Status.CONVERGED, True)


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.ones(3), np.full((2, 2), np.nan)], ids=["oblong", "vector", "nan"])
def test_axes_are_a_finite_square_matrix(bad):
    with pytest.raises(ValueError, match="axes must be a finite square matrix"):
        Coordinates(bad)


def test_axes_are_independent():
    with pytest.raises(ValueError, match="axes must be invertible; 1 of 2 independent"):
        Coordinates(np.ones((2, 2)))


@pytest.mark.parametrize("make", [Coordinates.orthogonal, Coordinates.whitening])
def test_covariances_are_symmetric_and_positive_definite(make):
    with pytest.raises(ValueError, match=r"covariance must be a symmetric matrix; got shape \(2, 3\)"):
        make(np.ones((2, 3)))
    with pytest.raises(ValueError, match="covariance must be a symmetric matrix"):
        make([[1.0, 0.5], [0.2, 1.0]])
    with pytest.raises(ValueError, match=r"covariance must be positive definite; its smallest eigenvalue is -1"):
        make(np.diag([1.0, -1.0]))


def test_covariances_estimated_in_float32_are_symmetric_enough():
    states = np.asarray(jax.random.normal(jax.random.key(0), (500, 4)), np.float32)
    centred = states - states.mean(0)
    estimate = (centred.T @ centred / 500).astype(np.float32)
    estimate[0, 1] *= 1 + 1e-6
    axes = Coordinates.orthogonal(estimate).axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-12)
