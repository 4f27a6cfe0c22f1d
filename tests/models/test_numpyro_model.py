"""NumPyro models: the library's own density, variables, labels and predictions."""

import functools

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from agreement import assert_same_moments
from numpyro.infer import MCMC, NUTS, log_likelihood
from numpyro.infer.util import log_density

from parsample import from_numpyro, sample

KEY = jax.random.key(0)
rng = np.random.default_rng(1)
GROUP, X = rng.integers(0, 5, 60), rng.normal(size=60)
Y = rng.normal(size=60) + np.arange(5.0)[GROUP] + 0.5 * X


def hierarchy(group: np.ndarray, num_groups: int, x: jax.Array, y: jax.Array | None = None) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("groups", num_groups):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
    slope, sigma = numpyro.sample("slope", dist.Normal(0, 1)), numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.deterministic("centred", effect - mu)
    with numpyro.plate("cases", x.shape[0]):
        numpyro.sample("y", dist.Normal(effect[group] + slope * x, sigma), obs=y)


def correlated(y: jax.Array, counts: jax.Array) -> None:
    cholesky = numpyro.sample("cholesky", dist.LKJCholesky(3, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(jnp.ones(3)).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(0, scale_tril=scale[:, None] * cholesky), obs=y)
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("counts", dist.Multinomial(total_count=20, probs=shares), obs=counts)


MODEL = from_numpyro(hierarchy, GROUP, 5, X, y=Y)


def test_labels_and_data_are_those_of_the_model():
    assert MODEL.name == "hierarchy"
    assert set(MODEL.initial_position) == {"mu", "tau", "effect", "slope", "sigma"}
    assert MODEL.dims == {"effect": ["groups"], "y": ["cases"]}
    assert set(MODEL.observed_data) == {"y"}
    assert set(MODEL.constant_data) == {"group", "x"}
    assert len(MODEL.data) == 3


def test_the_density_is_numpyros_own_with_the_jacobian():
    position = {name: jnp.full(value.shape, 0.3) for name, value in MODEL.initial_position.items()}
    constrained = MODEL.constrain(position, MODEL.data)
    np.testing.assert_allclose(constrained["centred"], constrained["effect"] - constrained["mu"])
    latent = {name: constrained[name] for name in position}
    expected, _ = log_density(hierarchy, (GROUP, 5, X), {"y": Y}, latent)
    jacobian = position["tau"] + position["sigma"]  # of two exponentials
    np.testing.assert_allclose(MODEL.logdensity_at(position), expected + jacobian, rtol=1e-12)
    found = MODEL.log_likelihood(position, MODEL.data)["y"]
    expected = log_likelihood(hierarchy, {name: value[None] for name, value in latent.items()}, GROUP, 5, X, y=Y)["y"]
    np.testing.assert_allclose(found, expected[0], rtol=1e-12)


def test_the_result_has_what_arviz_compares(compilations):
    settings = {"num_samples": 500, "num_chains": 2, "progress_bar": False}
    result = sample(KEY, MODEL, **settings)
    tree = result.to_arviz(log_likelihood=True, posterior_predictive=jax.random.key(1))
    assert tree["posterior"]["effect"].dims == ("chain", "draw", "groups")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "cases")
    assert set(tree["posterior"].data_vars) == {"mu", "tau", "effect", "slope", "sigma", "centred"}
    assert np.isfinite(arviz.loo(tree).elpd)
    residuals = tree["posterior_predictive"]["y"] - tree["posterior_predictive"]["y"].mean(("chain", "draw"))
    assert 0.9 < float(residuals.std()) < 1.4
    compilations.clear()
    other = MODEL.with_data(GROUP, 5, X, y=Y + 3)
    assert other.logdensity == MODEL.logdensity
    again = sample(KEY, other, **settings)
    assert not [name for name in compilations if "advance_lanes" in name]
    shift = again.positions["effect"].mean((0, 1)) - result.positions["effect"].mean((0, 1))
    np.testing.assert_allclose(shift, 3, atol=0.5)


def test_labels_stay_when_data_change():
    named = MODEL.replace(coords={"groups": list("abcde")})
    assert named.with_data(GROUP, 5, X, y=Y).coords == {"groups": list("abcde")}
    assert named.with_data(GROUP[:50], 5, X[:50], y=Y[:50]).observed_data["y"].shape == (50,)


def test_a_model_that_computes_with_values_has_its_data_as_constants():
    def by_value(y: np.ndarray) -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y[y > 0] if (y > 0).any() else y)

    model = from_numpyro(by_value, Y)
    assert model.data == []
    assert np.isfinite(model.logdensity_at({"mu": jnp.zeros(())}))
    np.testing.assert_array_equal(model.observed_data["y"], Y[Y > 0])


def test_a_partial_function_has_no_name_of_its_own():
    model = from_numpyro(functools.partial(hierarchy, num_groups=5), GROUP, x=X, y=Y)
    assert model.name == "model"
    assert set(model.constant_data) == {"group", "x"}
    with pytest.raises(ValueError, match="the model model has no latent sites"):
        from_numpyro(functools.partial(lambda y: numpyro.sample("y", dist.Normal(0, 1), obs=y)), Y)


def test_discrete_latent_sites_are_refused_by_name():
    def mixture(y: jax.Array) -> None:
        which = numpyro.sample("which", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(which, 1), obs=y)

    with pytest.raises(ValueError, match=r"latent sites \['which'\] are discrete.*sum them out.*enumeration"):
        from_numpyro(mixture, Y)
    with pytest.raises(ValueError, match="has no latent sites"):
        from_numpyro(lambda y: numpyro.sample("y", dist.Normal(0, 1), obs=y), Y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hierarchy", "correlated"])
def test_moments_are_those_of_numpyros_nuts(name):
    data = np.random.default_rng(2).multivariate_normal(np.zeros(3), np.eye(3) + 0.5, 40)
    model, arguments = {
        "hierarchy": (hierarchy, (GROUP, 5, X, Y)),
        "correlated": (correlated, (data, np.array([3, 7, 10]))),
    }[name]
    with jax.numpy_rank_promotion("allow"):  # NumPyro's own distributions promote
        theirs = MCMC(NUTS(model), num_warmup=1000, num_samples=4000, num_chains=4, progress_bar=False)
        theirs.run(jax.random.key(5), *arguments)
        result = sample(KEY, from_numpyro(model, *arguments), num_samples=8000, progress_bar=False)
        ours = {key: values.to_numpy() for key, values in result.to_arviz()["posterior"].data_vars.items()}
    assert_same_moments(ours, {key: np.asarray(values) for key, values in theirs.get_samples(True).items()})
