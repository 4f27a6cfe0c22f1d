"""Transforms: moments of constrained distributions against known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from parsample import sample, transforms

KEY = jax.random.key(3)


def draws(logdensity, constraints, **settings):
    """Draws of the constrained values, by name, with all chains in one axis."""
    model = transforms.unconstrain(logdensity, constraints)
    result = sample(KEY, model, **{"num_samples": 6000, "progress_bar": False, **settings})
    return {
        name: values.to_numpy().reshape(-1, *values.shape[2:])
        for name, values in result.to_arviz()["posterior"].data_vars.items()
    }


def test_a_dirichlet_on_the_simplex():
    concentrations = np.array([2.0, 3.0, 4.0])
    found = draws(lambda p: jnp.sum((concentrations - 1) * jnp.log(p)), transforms.simplex(3))["x"]
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    expected = scipy.stats.dirichlet(concentrations)
    np.testing.assert_allclose(found.mean(0), expected.mean(), atol=0.006)
    np.testing.assert_allclose(found.var(0), expected.var(), rtol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("cholesky", [False, True])
def test_an_lkj_distribution_of_correlations(cholesky):
    size, shape = 3, 2.0

    def logdensity(values: dict) -> jax.Array:
        matrix = values["R"]
        if not cholesky:
            return (shape - 1) * jnp.linalg.slogdet(matrix)[1]
        # Density of the Cholesky factor: that of the matrix, and the Jacobian of L L^T (Lewandowski et al. 2009).
        diagonal = jnp.diagonal(matrix)
        return jnp.sum((size - 1 - jnp.arange(size) + 2 * (shape - 1)) * jnp.log(diagonal))

    constraint = transforms.correlation_cholesky(size) if cholesky else transforms.correlation(size)
    found = draws(logdensity, {"R": constraint})["R"]
    correlations = found @ np.swapaxes(found, 1, 2) if cholesky else found
    # Each correlation is 2 B - 1 with B ~ Beta(b, b), b = shape + (size - 2) / 2.
    expected = 1 / (2 * (shape + (size - 2) / 2) + 1)
    rows, columns = np.triu_indices(size, 1)
    np.testing.assert_allclose(correlations[:, rows, columns].var(0), expected, rtol=0.06)
    np.testing.assert_allclose(correlations[:, rows, columns].mean(0), 0, atol=0.015)


def test_truncated_normals():
    constraints = {
        "above": transforms.bounded(0.5, np.inf),
        "below": transforms.bounded(-np.inf, 0.2),
        "between": transforms.bounded(-1.0, 2.0),
        "positive": transforms.positive(),
    }
    found = draws(lambda values: -0.5 * sum(value**2 for value in values.values()), constraints)
    limits = {"above": (0.5, np.inf), "below": (-np.inf, 0.2), "between": (-1, 2), "positive": (0, np.inf)}
    for name, (low, high) in limits.items():
        expected = scipy.stats.truncnorm(low, high)
        assert abs(found[name].mean() - expected.mean()) < 0.025, name
        assert abs(found[name].std() - expected.std()) < 0.025, name


def test_ordered_normals_are_order_statistics():
    found = draws(lambda values: -0.5 * jnp.sum(values["o"] ** 2), {"o": transforms.ordered(3)})["o"]
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found.mean(0), [-0.8463, 0, 0.8463], atol=0.03)  # of three standard normals


@pytest.mark.slow
def test_a_wishart_distribution_of_covariances():
    degrees, size = 6, 2

    def logdensity(values: dict) -> jax.Array:
        matrix = values["S"]
        return 0.5 * (degrees - size - 1) * jnp.linalg.slogdet(matrix)[1] - 0.5 * jnp.trace(matrix)

    found = draws(logdensity, {"S": transforms.covariance(size)})["S"]
    np.testing.assert_allclose(found.mean(0), degrees * np.eye(size), atol=0.2)


def test_nested_constraints_with_data_and_shapes():
    def logdensity(values: dict, y: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum((y - values["group"]["mu"]) ** 2) - jnp.sum(values["group"]["sigma"])

    constraints = {"group": {"mu": transforms.real(3), "sigma": transforms.positive((2, 2))}}
    model = transforms.unconstrain(logdensity, constraints, data=np.array([1.0, 2.0, 3.0]))
    result = sample(KEY, model, num_samples=500, num_chains=2, progress_bar=False)
    posterior = result.to_arviz()["posterior"]
    assert {name: values.shape[2:] for name, values in posterior.data_vars.items()} == {
        "group.mu": (3,),
        "group.sigma": (2, 2),
    }
    assert (posterior["group.sigma"] > 0).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: transforms.bounded(1.0, 0.0), ValueError, r"bounds must be in order; got low=1\.0, high=0\.0"),
        (lambda: transforms.simplex(1), ValueError, "a size must be a whole number of at least 2; got 1"),
        (lambda: transforms.real((2, -1)), ValueError, "a size must be a whole number of at least 1; got -1"),
        (lambda: transforms.unconstrain(sum, {"x": 3.0}), TypeError, "constraints must be a pytree of constraints"),
        (lambda: transforms.unconstrain(sum, {}), TypeError, "constraints must be a pytree of constraints"),
    ],
)
def test_bad_constraints(make, error, message):
    with pytest.raises(error, match=message):
        make()
