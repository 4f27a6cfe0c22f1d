"""Models: data as arguments of the program, and the groups of their trees."""

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import Model, check_sampler, compare_kernels, sample
from parsample.models.model import all_dims

KEY = jax.random.key(0)
SETTINGS = {"num_samples": 400, "num_chains": 2, "progress_bar": False}
OBSERVED = np.array([1.0, 2.0, 6.0])


def logdensity(mu: jax.Array, y: jax.Array) -> jax.Array:
    """A N(0, 1) prior and observations with variance 1: the posterior is N(sum(y) / 4, 1 / 4)."""
    return -0.5 * mu**2 - 0.5 * jnp.sum((y - mu) ** 2)


def log_likelihood(mu: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    return {"y": -0.5 * (y - mu) ** 2 - 0.5 * jnp.log(2 * jnp.pi)}


def posterior_predictive(rng_key: jax.Array, mu: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    return {"y": mu + jax.random.normal(rng_key, y.shape)}


MODEL = Model(
    logdensity,
    0.0,
    name="mean",
    names=["mu"],
    data=OBSERVED,
    log_likelihood=log_likelihood,
    posterior_predictive=posterior_predictive,
    observed_data={"y": OBSERVED},
    constant_data={"weights": np.ones(3)},
    dims={"y": ["case"]},
    coords={"case": ["a", "b", "c"]},
)


def test_other_data_compile_nothing(compilations):
    first = sample(KEY, MODEL, **SETTINGS)
    compilations.clear()
    second = sample(KEY, MODEL.with_data(OBSERVED + 4), **SETTINGS)
    assert not [name for name in compilations if "advance_lanes" in name]
    assert abs(first.positions.mean() - 9 / 4) < 0.15
    assert abs(second.positions.mean() - 21 / 4) < 0.15


@pytest.mark.usefixtures("float32")
def test_data_are_cast_to_the_default_precision():
    result = sample(KEY, MODEL, **SETTINGS)
    assert result.positions.dtype == np.float32
    assert abs(result.positions.mean() - 9 / 4) < 0.15


def test_the_tree_has_the_groups_of_the_model():
    tree = sample(KEY, MODEL, **SETTINGS).to_arviz(log_likelihood=True, posterior_predictive=jax.random.key(1))
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
        "constant_data",
    }
    assert list(tree["posterior"].data_vars) == ["mu"]
    for group in ("log_likelihood", "posterior_predictive"):
        assert tree[group]["y"].dims == ("chain", "draw", "case")
    assert tree["observed_data"]["y"].sel(case="c") == 6
    mu = tree["posterior"]["mu"].to_numpy()
    expected = -0.5 * (OBSERVED - mu[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-10)
    residuals = tree["posterior_predictive"]["y"].to_numpy() - mu[..., None]
    assert abs(residuals.std() - 1) < 0.1
    assert np.isfinite(arviz.loo(tree).elpd)


def test_checks_and_comparisons_take_models():
    assert check_sampler(KEY, MODEL, num_samples=1000).parallelizable
    comparison = compare_kernels(KEY, MODEL, kernels=("hmc",), num_samples=400, num_chains=2)
    assert comparison.best.kernel == "hmc"


def test_a_position_replaces_that_of_the_model():
    model = Model(lambda x: -0.5 * jnp.sum(x**2), jnp.full(2, jnp.nan))
    assert sample(KEY, model, jnp.zeros(2), **SETTINGS).positions.shape == (2, 400, 2)


def test_lanes_with_a_spread_need_no_finite_density_at_the_position_itself():
    def bounded_below(x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, -0.5 * x**2, -jnp.inf)

    with pytest.raises(ValueError, match="logdensity_fn is -inf at initial_position"):
        sample(KEY, Model(bounded_below, -0.1), **SETTINGS)
    result = sample(KEY, Model(bounded_below, -0.1, initial_spread=2.0), **SETTINGS)
    assert (result.positions > 0).all()


def test_a_model_without_a_function_says_so():
    result = sample(KEY, Model(logdensity, 0.0, data=OBSERVED), **SETTINGS)
    with pytest.raises(ValueError, match="model model has no log_likelihood"):
        result.to_arviz(log_likelihood=True)
    with pytest.raises(ValueError, match="model model has no posterior_predictive"):
        result.to_arviz(posterior_predictive=jax.random.key(1))


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Model(3.0, 0.0), TypeError, "logdensity must be a function of the position; got 3.0"),
        (lambda: Model(logdensity, 0.0, constrain=3.0), TypeError, "constrain must be a function or None; got 3.0"),
        (
            lambda: Model(logdensity, 0.0, names=["a", "b"]),
            ValueError,
            "names has 2 entries; the position has 1",
        ),
        (lambda: Model(logdensity, 0.0, names="x"), TypeError, "names must be a sequence, one name per leaf"),
        (lambda: Model(logdensity, 0.0, dims=["a"]), TypeError, r"dims must be a dict by name; got \['a'\]"),
        (lambda: Model(logdensity, 0.0, settings=["a"]), TypeError, "settings must be a dict by name"),
        (
            lambda: Model(logdensity, 0.0, settings={"thin": 2}),
            ValueError,
            "settings names 'thin'; a model can set num",
        ),
        (
            lambda: Model(logdensity, 0.0, data="abc"),
            TypeError,
            "data must be a pytree of numbers and arrays; got 'abc'",
        ),
        (lambda: Model(logdensity, 0.0, initial_spread="x"), ValueError, "initial_spread must be a number.*got 'x'"),
        (lambda: Model(logdensity, 0.0, initial_spread=np.inf), ValueError, "initial_spread must be finite; got inf"),
        (lambda: Model(logdensity, 0.0).with_data(1.0), ValueError, "this model has no data"),
        (lambda: MODEL.with_data(y=1.0), TypeError, "with_data takes one argument"),
        (lambda: sample(KEY, logdensity), TypeError, "initial_position is missing"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("labels", [["case"], ["case", None, None], [None, "row", None], []])
def test_dimensions_without_a_label_have_arvizs_names(labels):
    shape = (2, 3, 4)
    named = {"x": labels} if labels else None
    tree = arviz.from_dict({"posterior": {"x": np.zeros((1, 5, *shape))}}, dims=named)
    assert ("chain", "draw", *all_dims("x", labels, shape)) == tree["posterior"]["x"].dims
