"""`sample`: the same draws by every method, certified; results as promised; one clear error for bad input."""

import contextlib
import dataclasses
import functools
import importlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from chains import gaussian, gaussian_start

from parsample import DEER, ParallelStallWarning, Sequential, Status, Zero
from parsample.costs import StepCosts
from parsample.kernels import KERNELS, TARGET_ACCEPTANCE, KernelDynamics, Layout
from parsample.plan import MIN_STEPS
from parsample.sampling import SampleResult, check_sampler, sample

KEY = jax.random.key(0)
BLOCKS = DEER(block_size=256, linearization=Zero())  # 1000 steps: three blocks and a shorter one
STATISTICS = {
    "hmc": {"lp", "acceptance_rate", "diverging", "n_steps", "energy"},
    "nuts": {"lp", "acceptance_rate", "diverging", "n_steps", "energy", "tree_depth"},
    "mala": {"lp", "acceptance_rate", "diverging"},
}


@functools.cache
def run(kernel: str = "hmc", method: Any = "sequential", num_samples: int = 1000) -> SampleResult:
    """One run of each kind, shared by the tests: compilation takes longer than all of them."""
    return sample(
        KEY,
        gaussian,
        gaussian_start(),
        num_samples=num_samples,
        num_warmup=300,
        num_chains=2,
        kernel=kernel,
        method=method,
        progress_bar=False,
    )


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """A device on which 16 lanes cost as much as 2, and more do not pay: plans that do not depend on timings."""
    measured = StepCosts((2, 16, 512), (1e-3, 1e-3, 1.0))
    check = importlib.import_module("parsample.check")  # the package's attribute of that name is the function
    monkeypatch.setattr(check, "measure_costs", lambda *_, **__: measured)


def assert_same_draws(result: SampleResult, expected: SampleResult, tolerance: float = 1e-8) -> None:
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), result.positions, expected.positions
    )
    for name, values in expected.sample_stats.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(result.sample_stats[name], values, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(result.sample_stats[name], values, err_msg=name)


SLOW_NUTS = pytest.param("nuts", marks=pytest.mark.slow)  # its pilot takes long to compile
SLOW_MALA = pytest.param("mala", marks=pytest.mark.slow)
RARE_NUTS = pytest.param("nuts", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("kernel", ["hmc", SLOW_MALA, RARE_NUTS])
def test_explicit_blocks_give_the_draws_of_the_sequential_run(kernel):
    result, expected = run(kernel, BLOCKS), run(kernel)
    assert (result.status, expected.status) == (Status.CONVERGED, Status.SEQUENTIAL)
    assert_same_draws(result, expected)
    assert result.defect < 1e-9
    assert 1 <= result.evals_per_step < 2


@pytest.mark.parametrize("kernel", ["hmc", SLOW_MALA, RARE_NUTS])
def test_deer_gives_the_draws_of_the_sequential_run(kernel):
    result = run(kernel, "deer")
    assert result.status is Status.CONVERGED
    assert isinstance(result.plan.method, DEER)
    assert_same_draws(result, run(kernel))
    assert np.isfinite(result.report.coalescence).all()
    assert result.report.lle + 2 * result.report.lle_se < 0


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_auto_runs_in_blocks_where_that_pays(kernel):
    result = run(kernel, "auto", 6000)
    assert (result.status, result.report.parallelizable) == (Status.CONVERGED, True)
    assert result.plan.num_blocks > 1
    assert_same_draws(result, run(kernel, "sequential", 6000))


def test_auto_with_few_draws_is_sequential_without_a_check_or_a_warning():
    result = run("hmc", "auto")
    assert result.num_draws < MIN_STEPS
    assert (result.report, result.status) == (None, Status.SEQUENTIAL)
    assert_same_draws(result, run("hmc"), tolerance=0)


def test_sequential_settings_are_the_method_of_that_name():
    result = run("hmc", Sequential())
    assert result.status is Status.SEQUENTIAL
    assert_same_draws(result, run("hmc"), tolerance=0)


@pytest.mark.parametrize("kernel", ["hmc", "mala", SLOW_NUTS])
def test_result_has_the_shapes_names_and_statistics_promised(kernel):
    result = run(kernel)
    assert jax.tree.structure(result.positions) == jax.tree.structure(gaussian_start())
    assert (result.positions["x"].shape, result.positions["y"].shape) == ((2, 1000, 2), (2, 1000, 1, 1))
    assert set(result.sample_stats) == STATISTICS[kernel]
    assert {values.shape for values in result.sample_stats.values()} == {(2, 1000)}
    assert (result.num_draws, result.interrupted) == (1000, False)
    assert (result.evals_per_step, result.defect) == (1, 0)
    assert set(result.seconds) == {"warmup", "check", "sampling"}
    assert result.settings["kernel"] == kernel
    assert result.settings["target_acceptance_rate"] == TARGET_ACCEPTANCE[kernel]


@pytest.mark.parametrize("kernel", KERNELS)
def test_statistics_are_those_of_the_draws(kernel):
    stats, position = run(kernel).sample_stats, run(kernel).positions
    np.testing.assert_allclose(stats["lp"], jax.vmap(jax.vmap(gaussian))(position), rtol=1e-9)
    assert not stats["diverging"].any()
    assert stats["acceptance_rate"].min() >= 0
    assert stats["acceptance_rate"].max() <= 1 + 1e-12
    assert abs(run(kernel).adaptation.acceptance_rate - TARGET_ACCEPTANCE[kernel]) < 0.08
    if kernel == "hmc":
        cycle = run(kernel).adaptation.parameters.num_integration_steps
        np.testing.assert_array_equal(stats["n_steps"], np.broadcast_to(np.resize(cycle, 1000), (2, 1000)))
    if kernel != "mala":
        kinetic = stats["energy"] + stats["lp"]
        assert kinetic.min() > 0
        # Half a chi-square variable with three degrees of freedom; selection by Metropolis matters little.
        assert abs(kinetic.mean() - 1.5) < 0.2


@pytest.mark.parametrize("kernel", KERNELS)
def test_moments_of_a_gaussian(kernel):
    draws = np.concatenate([leaf.reshape(2000, -1) for leaf in jax.tree.leaves(run(kernel).positions)], axis=1)
    sd = np.array([1, 1 / 2, 1 / 3])
    # At least 300 effective draws of 2000: five standard errors are 0.3 for a mean and 0.2 for a sd.
    np.testing.assert_allclose(draws.mean(0) / sd, 0, atol=0.3)
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=0.2)


def test_chains_have_their_own_randomness():
    x = run("hmc").positions["x"]
    correlation = np.corrcoef(x[0, :, 0], x[1, :, 0])[0, 1]
    assert abs(correlation) < 0.2
    assert not (x[0] == x[1]).any()


def with_windows(result: SampleResult, **changes: Any) -> SampleResult:
    windows = [window._replace(**{k: np.full(2, v) for k, v in changes.items()}) for window in result.windows]
    return dataclasses.replace(result, windows=windows)


def test_certificate_says_what_was_done_and_how_exact_it_is():
    blocks = run("hmc", BLOCKS)
    assert run("hmc").certificate == "certified: evaluated step by step, 1 evaluation per step"
    assert blocks.certificate.startswith("certified: every step is the kernel's own, largest defect ")
    assert f"{blocks.evals_per_step:.2f} evaluations per step" in blocks.certificate
    assert "largest defect 0: bitwise one chain" in with_windows(blocks, defect=0.0).certificate
    assert "largest defect 3.0e-11 posterior sd" in with_windows(blocks, defect=3e-11).certificate
    assert "in part step by step" in with_windows(blocks, status=Status.STALLED).certificate


@pytest.mark.parametrize(("status", "words"), [(Status.MAX_ITERS, "stopped at max_iters"), (Status.NON_FINITE, "NaN")])
def test_what_is_not_the_chain_is_not_certified(status, words):
    result = with_windows(run("hmc", BLOCKS), status=status)
    assert result.status is status
    assert result.certificate.startswith(f"NOT certified: {status.message}")
    assert words in result.certificate


def test_the_worst_of_chains_and_windows_is_the_status():
    result = run("hmc", BLOCKS)
    mixed = result.windows[0]._replace(status=np.array([Status.CONVERGED, Status.STALLED]))
    assert dataclasses.replace(result, windows=[mixed, *result.windows]).status is Status.STALLED


# An impossible chain: HMC on the banana drifts apart (see models/banana.py).
def banana(x: jax.Array) -> jax.Array:
    return -0.5 * ((x[0] / 10) ** 2 + (x[1] - 0.03 * (x[0] ** 2 - 100)) ** 2)


def run_banana(method: Any, num_samples: int = 800) -> SampleResult:
    kwargs = {"num_samples": num_samples, "num_warmup": 400, "num_chains": 2, "progress_bar": False}
    return sample(KEY, banana, jnp.zeros(2), method=method, **kwargs)


def largest_jump(result: SampleResult, logdensity_fn: Any) -> float:
    """Distance of each draw from the kernel's own step off the draw before, in posterior sd: the chain's definition."""
    layout = Layout.of(jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), result.positions))
    dynamics = KernelDynamics(logdensity_fn, layout, result.settings["kernel"])
    num_chains, num_draws = result.sample_stats["lp"].shape
    chain_keys = jax.random.split(jax.random.split(KEY, 3)[2], num_chains)
    parameters = jax.tree.map(jnp.asarray, result.adaptation.parameters)
    leaves = [leaf.reshape(num_chains, num_draws, -1) for leaf in jax.tree.leaves(result.positions)]
    whitened = parameters.whiten(jnp.concatenate(leaves, axis=2))
    before = jnp.concatenate([result.adaptation.states[:, None], whitened[:, :-1]], axis=1)

    def image(chain_key: jax.Array, u: jax.Array, t: jax.Array) -> jax.Array:
        transition, inputs = dynamics(parameters, chain_key, num_draws)
        return transition.reduce(transition.step(transition.restore(u), inputs.at(t))[0])

    over_draws = jax.vmap(image, in_axes=(None, 0, 0))
    images = jax.jit(jax.vmap(over_draws, in_axes=(0, 0, None)))(chain_keys, before, jnp.arange(num_draws))
    return float(jnp.abs(images - whitened).max())


@pytest.mark.slow
def test_a_chain_that_cannot_meet_is_finished_step_by_step_with_a_warning():
    with pytest.warns(ParallelStallWarning, match=r"blocks stopped meeting.*It is right") as caught:
        result = run_banana("deer")
    assert len(caught) == 1
    assert (result.status, result.report.parallelizable) == (Status.STALLED, False)
    assert "certified" in result.certificate
    assert not result.certificate.startswith("NOT")
    expected = run_banana("sequential")
    assert expected.status is Status.SEQUENTIAL
    assert_same_draws(result, expected)
    assert largest_jump(result, banana) < 1e-8


def test_auto_says_beforehand_that_a_chain_cannot_meet():
    with pytest.warns(ParallelStallWarning, match=r"will be evaluated sequentially.*Try: .+\.$") as caught:
        result = run_banana("auto", MIN_STEPS)
    assert len(caught) == 1
    assert (result.status, result.report.parallelizable, result.evals_per_step) == (Status.SEQUENTIAL, False, 1)
    assert result.report.cause
    assert result.report.remedy


def half_normal(x: jax.Array) -> jax.Array:
    """The wall of a density without an edge: NaN below zero, value and gradient."""
    return jnp.log(x) - 0.5 * jnp.sqrt(x) ** 4


@pytest.mark.slow
def test_nan_on_the_way_is_rejected_and_counted_as_diverging_for_one_chain():
    result = sample(
        KEY, half_normal, jnp.array(1.2), num_samples=1000, num_warmup=200, num_chains=1, method=BLOCKS,
        progress_bar=False,
    )  # fmt: skip
    assert result.status is Status.CONVERGED
    assert result.positions.shape == (1, 1000)
    assert result.positions.min() > 0
    assert all(np.isfinite(values).all() for values in result.sample_stats.values())
    diverging = result.sample_stats["diverging"][0]
    assert 0 < diverging.sum() < 500
    stays = np.diff(result.positions[0]) == 0
    assert stays[diverging[1:]].all()
    # x exp(-x^2 / 2) is Rayleigh's: mean sqrt(pi / 2), variance 2 - pi / 2.
    assert abs(result.positions.mean() - math.sqrt(math.pi / 2)) < 0.2


@pytest.mark.slow
def test_float32_is_certified_too():
    with jax.enable_x64(False):
        start = jax.tree.map(np.asarray, gaussian_start())
        result = sample(
            KEY, gaussian, start, num_samples=1000, num_warmup=300, num_chains=2, method=BLOCKS, progress_bar=False
        )
    assert result.status is Status.CONVERGED
    assert {leaf.dtype for leaf in jax.tree.leaves(result.positions)} == {np.dtype("float32")}
    assert result.settings["dtype"] == "float32"
    assert result.defect < 1e-4


@pytest.mark.slow
def test_check_sampler_reports_what_auto_would_do():
    kwargs = {"num_samples": 6000, "num_warmup": 300, "num_chains": 2}
    found = check_sampler(KEY, gaussian, gaussian_start(), **kwargs)
    expected = run("hmc", "auto", 6000)
    assert found.parallelizable
    assert found.plan == expected.plan
    np.testing.assert_array_equal(found.coalescence, expected.report.coalescence)


@contextlib.contextmanager
def type_checks_off() -> Iterator[None]:
    """What users without a run-time type checker meet."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_warmup(monkeypatch):
    def warmup(*_: Any) -> None:
        pytest.fail("a warm-up was started")

    monkeypatch.setattr("parsample.prepare.warmup", warmup)


def refused(logdensity_fn: Any = gaussian, position: Any = None, **kwargs: Any) -> None:
    with type_checks_off():
        sample(KEY, logdensity_fn, gaussian_start() if position is None else position, progress_bar=False, **kwargs)


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("num_samples", 0, "whole number of at least 1"),
        ("num_samples", -3, "whole number of at least 1"),
        ("num_samples", 10.5, "whole number of at least 1"),
        ("num_samples", True, "whole number of at least 1"),
        ("num_samples", "1000", "whole number of at least 1"),
        ("num_chains", 0, "whole number of at least 1"),
        ("num_chains", 2.0, "whole number of at least 1"),
        ("num_warmup", 0, "whole number of at least 100"),
        ("num_warmup", 99, "whole number of at least 100"),
        ("kernel", "gibbs", "one of 'hmc', 'nuts', 'mala'"),
        ("kernel", None, "one of 'hmc', 'nuts', 'mala'"),
        ("method", "parallel", "one of 'auto', 'deer', 'sequential'"),
        ("method", 3, "one of 'auto', 'deer', 'sequential'"),
        ("target_acceptance_rate", 0.0, "between 0 and 1"),
        ("target_acceptance_rate", 1.0, "between 0 and 1"),
        ("target_acceptance_rate", 80, "between 0 and 1"),
        ("target_acceptance_rate", math.nan, "between 0 and 1"),
    ],
)
def test_a_bad_setting_is_refused_with_name_value_and_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=rf"{name} must .*{remedy}.*; got {value!r}\.$"):
        refused(**{name: value})


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize(
    ("block_size", "message"),
    [(24, r"block_size=24 must be a multiple of 16"), (1024, r"block_size=1024 exceeds the 1000 steps")],
)
def test_a_bad_block_size_is_refused(block_size, message):
    with pytest.raises(ValueError, match=message):
        refused(num_samples=1000, method=DEER(block_size=block_size, linearization=Zero()))


X = np.array([0.5, -0.5])
BAD_POSITIONS: dict[str, tuple[Any, type, str]] = {
    "integers": ({"x": np.arange(2), "y": np.zeros((1, 1))}, TypeError, r"initial_position\['x'\] has dtype int.*conv"),
    "a Python integer": (0, TypeError, r"initial_position has dtype int.*convert"),
    "NaN": ({"x": X, "y": np.full((1, 1), np.nan)}, ValueError, r"initial_position\['y'\] is not finite: .*nan.*Start"),
    "infinite": ({"x": X * np.inf, "y": np.zeros((1, 1))}, ValueError, r"initial_position\['x'\] is not finite"),
    "shape": (
        {"x": np.zeros(3), "y": np.zeros((1, 1))},
        ValueError,
        r"cannot be evaluated at initial_position .*\[3\]",
    ),
    "a missing leaf": ({"x": X}, ValueError, r"cannot be evaluated at initial_position .*'y'"),
    "empty": ({}, ValueError, r"initial_position holds no arrays; got \{\}"),
    "float32": (
        {"x": X, "y": jnp.zeros((1, 1), "float32")},
        TypeError,
        r"\['y'\] has dtype float32.*astype\(float64\)",
    ),
}


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize("case", BAD_POSITIONS)
def test_a_bad_position_is_refused(case):
    position, error, message = BAD_POSITIONS[case]
    with pytest.raises(error, match=message):
        refused(position=position)


def without_gradient(x: jax.Array) -> jax.Array:
    return jax.pure_callback(lambda v: -0.5 * v @ v, jax.ShapeDtypeStruct((), x.dtype), x)


BAD_DENSITIES: dict[str, tuple[Any, type, str]] = {
    "not callable": (3.0, TypeError, r"logdensity_fn must be callable; got 3\.0"),
    "NaN": (lambda x: jnp.log(x[1]), ValueError, r"logdensity_fn is nan at initial_position; start where it is finite"),
    "-inf": (lambda x: jnp.where(x[0] > 1, 0.0, -jnp.inf), ValueError, r"is -inf at initial_position; start where"),
    "a vector": (lambda x: -(x**2), ValueError, r"must return one floating-point scalar; it returns .*2.*Sum"),
    "a pair": (lambda x: (x[0], x[1]), ValueError, r"must return one floating-point scalar.*Sum its terms"),
    "an integer": (lambda x: jnp.int32(1), ValueError, r"must return one floating-point scalar.*int32"),
    "nothing": (lambda x: None, ValueError, r"must return one floating-point scalar; it returns None"),
    "raising": (lambda x: x[0] @ x, ValueError, r"cannot be evaluated at initial_position \(float64\[2\]\)"),
    "no gradient": (without_gradient, ValueError, r"logdensity_fn has no gradient at initial_position: .+"),
    "NaN gradient": (
        lambda x: jnp.sqrt(jnp.abs(x[0] - 0.5)),
        ValueError,
        r"has gradient .* at initial_position; start",
    ),
}


@pytest.mark.usefixtures("no_warmup")
def test_a_scratch_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scratch_dir must be a directory .*missing': No such file or directory"):
        refused(scratch_dir=tmp_path / "missing")


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize("case", BAD_DENSITIES)
def test_a_bad_log_density_is_refused(case):
    density, error, message = BAD_DENSITIES[case]
    with pytest.raises(error, match=message):
        refused(density, jnp.asarray(X))
