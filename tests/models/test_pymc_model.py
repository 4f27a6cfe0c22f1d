"""PyMC models: the library's own density, variables, labels and predictions."""

import os
import subprocess
import sys
import warnings

import arviz
import jax
import numpy as np
import pytest
from agreement import assert_same_moments

from parsample import from_pymc, sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pymc

KEY = jax.random.key(0)
rng = np.random.default_rng(1)
GROUP, X = rng.integers(0, 5, 60), rng.normal(size=60)
Y = rng.normal(size=60) + np.arange(5.0)[GROUP] + 0.5 * X


def hierarchy() -> pymc.Model:
    with pymc.Model(coords={"group": list("abcde"), "case": np.arange(60)}, name="") as model:
        x, y = pymc.Data("x", X, dims="case"), pymc.Data("measured", Y, dims="case")
        mu, tau = pymc.Normal("mu", 0, 5), pymc.HalfNormal("tau", 2)
        effect = pymc.Normal("effect", mu, tau, dims="group")
        slope, sigma = pymc.Normal("slope", 0, 1), pymc.HalfNormal("sigma", 1)
        pymc.Deterministic("centred", effect - mu, dims="group")
        pymc.Normal("y", effect[GROUP] + slope * x, sigma, observed=y, dims="case")
    return model


SOURCE = hierarchy()
MODEL = from_pymc(SOURCE)


def test_labels_and_data_are_those_of_the_model():
    assert set(MODEL.initial_position) == {"mu", "tau_log__", "effect", "slope", "sigma_log__"}
    assert MODEL.dims == {"effect": ["group"], "centred": ["group"], "y": ["case"], "x": ["case"]}
    assert list(MODEL.coords["group"]) == list("abcde")
    assert set(MODEL.data) == {"x", "measured"}
    assert set(MODEL.observed_data) == {"y"}
    assert set(MODEL.constant_data) == {"x"}


def test_the_density_is_pymcs_own():
    point = {name: np.full(value.shape, 0.3) for name, value in MODEL.initial_position.items()}
    expected = SOURCE.compile_logp()(point)
    np.testing.assert_allclose(MODEL.logdensity_at(point), expected, rtol=1e-12)
    constrained = MODEL.constrain(point, MODEL.data)
    np.testing.assert_allclose(constrained["tau"], np.exp(0.3))
    np.testing.assert_allclose(constrained["centred"], 0, atol=1e-12)
    assert set(constrained) == {"mu", "tau", "effect", "slope", "sigma", "centred"}


@pytest.mark.filterwarnings("ignore")  # PyMC's own
def test_the_result_has_what_arviz_compares(compilations):
    settings = {"num_samples": 500, "num_chains": 2, "progress_bar": False}
    result = sample(KEY, MODEL, **settings)
    tree = result.to_arviz(log_likelihood=True, posterior_predictive=jax.random.key(1))
    assert tree["posterior"]["effect"].dims == ("chain", "draw", "group")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "case")
    assert np.isfinite(arviz.loo(tree).elpd)
    compilations.clear()
    other = MODEL.with_data(measured=Y + 3)
    again = sample(KEY, other, **settings)
    assert not [name for name in compilations if "advance_lanes" in name]
    shift = again.positions["effect"].mean((0, 1)) - result.positions["effect"].mean((0, 1))
    np.testing.assert_allclose(shift, 3, atol=0.5)
    moved = again.to_arviz(posterior_predictive=jax.random.key(1))["posterior_predictive"]["y"].mean()
    assert abs(moved - tree["posterior_predictive"]["y"].mean() - 3) < 0.3
    np.testing.assert_array_equal(SOURCE["measured"].get_value(), Y)


@pytest.mark.usefixtures("float32")
def test_float32():
    result = sample(KEY, MODEL, num_samples=500, num_chains=2, progress_bar=False)
    assert result.positions["mu"].dtype == np.float32
    np.testing.assert_allclose(result.positions["effect"].mean((0, 1)), np.arange(5), atol=0.8)


def test_unknown_data_are_refused():
    with pytest.raises(ValueError, match=r"\['z'\] are not data of the model; these are: \['x', 'measured'\]"):
        MODEL.with_data(z=1.0)


def test_discrete_variables_are_refused_by_name():
    with pymc.Model() as model:
        pymc.Bernoulli("which", 0.5)
        pymc.Normal("x")
    with pytest.raises(ValueError, match=r"free variables \['which'\] are discrete.*sum them out"):
        from_pymc(model)
    with pytest.raises(ValueError, match="has no free variables"):
        from_pymc(pymc.Model())


def test_the_process_stays_as_it_is():
    code = """
import os, jax, parsample, pymc
with pymc.Model() as model:
    effect = pymc.Normal("effect", 0, 1, shape=3)
    pymc.Normal("y", effect[[0, 1, 2, 2]], 1, observed=pymc.Data("data", [1.0, 2.0, 3.0, 4.0]))
before = (os.environ.get("XLA_FLAGS"), jax.config.jax_enable_x64)
parsample.from_pymc(model)
assert (os.environ.get("XLA_FLAGS"), jax.config.jax_enable_x64) == before == (None, False)
print(jax.local_device_count())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA", "JAX"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["1"]), done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyMC's own
def test_moments_are_those_of_pymcs_nuts():
    with SOURCE:
        theirs = pymc.sample(
            2000, tune=1000, chains=4, cores=1, random_seed=3, progressbar=False, compute_convergence_checks=False
        )
    result = sample(KEY, MODEL, num_samples=8000, progress_bar=False)
    ours = {key: values.to_numpy() for key, values in result.to_arviz()["posterior"].data_vars.items()}
    assert_same_moments(ours, {key: values.to_numpy() for key, values in theirs["posterior"].data_vars.items()})
