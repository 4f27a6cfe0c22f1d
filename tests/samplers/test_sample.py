"""`sample`: the same draws by every method, bitwise one chain; results as promised; one clear error for bad input."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from chains import gaussian, gaussian_start, logistic_regression, logistic_regression_start

from parsample import DEER, ParallelStallWarning, Sequential, Status, Zero
from parsample.kernels import KERNELS
from parsample.samplers.prepare import _share_of_chains
from parsample.samplers.progress_bar import Progress
from parsample.samplers.result import SampleResult
from parsample.samplers.sample import check_sampler, sample

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
KERNELS_TESTED = ["hmc", "metropolis", pytest.param("mala", marks=SLOW), pytest.param("nuts", marks=SLOW)]


@functools.cache
def run(kernel: str = "hmc", method: Any = "auto", num_samples: int = 1000, exact_meeting: bool = True) -> SampleResult:
    """One run of each kind, shared by the tests: compilation takes longer than all of them."""
    return sample(
        KEY,
        gaussian,
        gaussian_start(),
        num_samples=num_samples,
        num_chains=2,
        kernel=kernel,
        method=method,
        exact_meeting=exact_meeting,
        progress_bar=False,
    )


def assert_same_draws(result: SampleResult, expected: SampleResult, tolerance: float = 1e-8) -> None:
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), result.positions, expected.positions
    )
    for name, values in expected.sample_stats.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(result.sample_stats[name], values, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(result.sample_stats[name], values, err_msg=name)


@pytest.mark.parametrize("method", ["auto", "deer"])
@pytest.mark.parametrize("kernel", KERNELS_TESTED)
def test_blocks_give_the_draws_of_the_sequential_run(kernel, method):
    result, expected = run(kernel, method), run(kernel, "sequential")
    assert (result.status, expected.status) == (Status.CONVERGED, Status.SEQUENTIAL)
    assert_same_draws(result, expected)
    assert result.defect == 0
    assert 1 < result.evals_per_step < 4  # blocks of 32 steps, of which meeting takes a good part
    assert result.report.parallelizable
    assert expected.report is None


@pytest.mark.parametrize("kernel", ["hmc", "metropolis"])
def test_long_runs_take_little_more_than_one_evaluation_per_step(kernel):
    result = run(kernel, "auto", 80_000)
    assert len(result.segments) > 1
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
    assert result.evals_per_step < 1.1
    assert_same_draws(dataclasses.replace(result, **first_draws(result, 1000)), run(kernel, "sequential"))


def first_draws(result: SampleResult, number: int) -> dict[str, Any]:
    return {
        "positions": jax.tree.map(lambda leaf: leaf[:, :number], result.positions),
        "sample_stats": {name: values[:, :number] for name, values in result.sample_stats.items()},
    }


@pytest.mark.parametrize("kernel", ["hmc", "metropolis", pytest.param("nuts", marks=SLOW)])
def test_float32_is_bitwise_one_chain_too(kernel, float32):
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), logistic_regression_start())
    result = sample(KEY, logistic_regression, start, num_samples=3000, kernel=kernel, progress_bar=False)
    assert result.status is Status.CONVERGED
    assert {leaf.dtype for leaf in jax.tree.leaves(result.positions)} == {np.dtype("float32")}
    assert result.settings["dtype"] == "float32"
    assert result.defect == 0
    assert "bitwise one chain" in result.certificate


def test_without_exact_meeting_blocks_are_joined_within_the_tolerance():
    result = run("hmc", "deer", 4000, exact_meeting=False)
    assert result.status is Status.CONVERGED
    assert 0 <= result.defect <= 1e-10
    assert_same_draws(result, run("hmc", "sequential", 4000, exact_meeting=False), tolerance=1e-7)
    assert result.adaptation.parameters.move_scales.max() == 0
    assert "of a draw" not in result.certificate


@pytest.mark.parametrize("num_devices", [2, pytest.param(8, marks=SLOW)])
def test_devices_share_the_lanes_of_the_same_chains(num_devices):
    result = sample(
        KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2, progress_bar=False,
        devices=jax.local_devices()[:num_devices],
    )  # fmt: skip
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
    assert_same_draws(result, run())


@SLOW
def test_lanes_that_devices_do_not_divide_are_filled_up():
    kwargs = {"num_samples": 1000, "num_chains": 3, "progress_bar": False}
    result = sample(KEY, gaussian, gaussian_start(), devices=jax.local_devices()[:4], **kwargs)
    expected = sample(KEY, gaussian, gaussian_start(), **kwargs)
    assert result.settings["num_lanes"] == 63
    assert_same_draws(result, expected)


def test_sequential_settings_are_the_method_of_that_name():
    assert run("hmc", Sequential()).status is Status.SEQUENTIAL
    assert_same_draws(run("hmc", Sequential()), run("hmc", "sequential"), tolerance=0)


def test_as_many_chains_as_lanes_run_step_by_step_in_the_one_program(compilations):
    run()  # another program of as many lanes
    compilations.clear()
    result = sample(KEY, gaussian, gaussian_start(), num_samples=50, num_chains=64, progress_bar=False)
    assert (result.status, result.report) == (Status.SEQUENTIAL, None)
    assert result.positions["x"].shape == (64, 50, 2)
    assert compilations == []


def fresh(x: jax.Array) -> jax.Array:
    """Compiled by one test only."""
    fresh.calls += 1
    return -0.5 * jnp.sum(x**2) / 1.7


def test_a_parallel_run_compiles_one_program_and_a_second_run_none(compilations):
    fresh.calls = 0
    result = sample(KEY, fresh, jnp.zeros(3), num_samples=1000, progress_bar=False)
    assert result.report.parallelizable
    assert sum("advance_lanes" in name for name in compilations) == 1
    # The shape of the value, then where states are evaluated and where trajectories are.
    assert fresh.calls <= 5
    traced = fresh.calls
    compilations.clear()
    for key, num_samples, num_warmup in ((1, 1000, 1000), (2, 3000, 1000), (3, 20_000, 300)):
        result = sample(
            jax.random.key(key), fresh, jnp.zeros(3), num_samples=num_samples, num_warmup=num_warmup, progress_bar=False
        )
        assert result.status is Status.CONVERGED
    assert compilations == []
    assert fresh.calls == traced


def test_a_sequential_run_compiles_one_program_more(compilations):
    def target(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(x**2) / 1.3

    result = sample(KEY, target, jnp.zeros(3), num_samples=200, method="sequential", progress_bar=False)
    assert result.status is Status.SEQUENTIAL
    assert sum("advance_lanes" in name for name in compilations) == 2


@pytest.mark.parametrize("kernel", KERNELS_TESTED)
def test_result_has_the_shapes_names_and_statistics_promised(kernel):
    result = run(kernel, "sequential")
    assert jax.tree.structure(result.positions) == jax.tree.structure(gaussian_start())
    assert (result.positions["x"].shape, result.positions["y"].shape) == ((2, 1000, 2), (2, 1000, 1, 1))
    assert set(result.sample_stats) == set(KERNELS[kernel].statistics)
    assert {values.shape for values in result.sample_stats.values()} == {(2, 1000)}
    assert (result.num_draws, result.interrupted) == (1000, False)
    assert (result.evals_per_step, result.defect) == (1, 0)
    assert set(result.seconds) == {"compilation", "warmup", "sampling"}
    assert set(run(kernel).seconds) == {"compilation", "warmup", "check", "sampling"}
    assert result.settings["kernel"] == kernel
    assert result.settings["target_acceptance_rate"] == KERNELS[kernel].target_acceptance_rate


@pytest.mark.parametrize("kernel", KERNELS_TESTED)
def test_statistics_are_those_of_the_draws(kernel):
    stats, position = run(kernel).sample_stats, run(kernel).positions
    np.testing.assert_allclose(stats["lp"], jax.vmap(jax.vmap(gaussian))(position), rtol=1e-7)
    assert stats["acceptance_rate"].min() >= 0
    assert stats["acceptance_rate"].max() <= 1 + 1e-12
    assert abs(run(kernel).adaptation.acceptance_rate - KERNELS[kernel].target_acceptance_rate) < 0.1
    if kernel == "hmc":
        cycle = run(kernel).adaptation.parameters.num_integration_steps
        np.testing.assert_array_equal(stats["n_steps"], np.broadcast_to(np.resize(cycle, 1000), (2, 1000)))
    if kernel == "metropolis":
        assert (stats["n_steps"] == 3).all()
        return
    assert not stats["diverging"].any()
    kinetic = stats["energy"] + stats["lp"]
    assert kinetic.min() > 0
    # Half a chi-square variable with three degrees of freedom; selection by Metropolis matters little.
    assert abs(kinetic.mean() - 1.5) < 0.2


@pytest.mark.parametrize("kernel", KERNELS_TESTED)
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


def with_segments(result: SampleResult, **changes: Any) -> SampleResult:
    return dataclasses.replace(result, segments=[segment._replace(**changes) for segment in result.segments])


def test_certificate_says_what_was_done_and_how_exact_it_is():
    blocks = run("hmc", "deer")
    assert run("hmc", "sequential").certificate == "certified: evaluated step by step, 1 evaluation per step"
    assert blocks.certificate.startswith("certified: every step is the kernel's own, bitwise one chain, ")
    assert f"{blocks.evals_per_step:.2f} evaluations per step" in blocks.certificate
    assert "largest defect 3.0e-11 posterior sd" in with_segments(blocks, defect=3e-11).certificate
    assert "in part step by step" in with_segments(blocks, status=Status.STALLED).certificate
    broken = with_segments(blocks, status=Status.NON_FINITE)
    assert broken.certificate.startswith(f"NOT certified: {Status.NON_FINITE.message}")


def test_a_printed_result_shows_everything_but_the_draws():
    result = run("hmc")
    lines = repr(result).splitlines()
    assert lines[0] == "2 chains x 1000 draws, kernel hmc"
    assert "\n".join(lines[1:-2]) == str(result.report)
    assert lines[-2].startswith("took")
    assert "compilation" in lines[-2]
    assert lines[-1].endswith(result.certificate)
    is_diverging = np.zeros((2, 1000), bool)
    is_diverging[1, :3] = True
    diverging = dataclasses.replace(result, sample_stats={**result.sample_stats, "diverging": is_diverging})
    assert "divergences        3 of 2000 draws: mistrust the tails" in repr(diverging)
    assert repr(dataclasses.replace(result, interrupted=True)).splitlines()[0].endswith("(interrupted)")


def test_the_worst_of_segments_is_the_status():
    result = run("hmc", "deer")
    stalled = result.segments[0]._replace(status=Status.STALLED)
    assert dataclasses.replace(result, segments=[stalled, *result.segments]).status is Status.STALLED


def test_blocks_that_stop_meeting_are_finished_step_by_step_with_a_warning(monkeypatch):
    monkeypatch.setattr("parsample.samplers.sample.PATIENCE", 0.0)
    with pytest.warns(ParallelStallWarning, match=r"blocks stopped meeting.*It is right") as caught:
        result = sample(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2, progress_bar=False)
    assert len(caught) == 1
    assert (result.status, result.defect) == (Status.STALLED, 0)
    assert result.segments[0].status is Status.STALLED
    assert result.segments[-1].status is Status.SEQUENTIAL
    assert "in part step by step" in result.certificate
    assert_same_draws(result, run("hmc", "sequential"))


def modes(x: jax.Array) -> jax.Array:
    """Two modes that no lane leaves."""
    return jnp.logaddexp(-0.5 * jnp.sum((x - 8) ** 2), -0.5 * jnp.sum((x + 8) ** 2))


@pytest.mark.parametrize(("cost", "status"), [(10.0, Status.CONVERGED), (1e-3, Status.SEQUENTIAL)])
def test_a_plan_that_depends_on_single_steps_times_them(cost, status, monkeypatch):
    expected = run("hmc", "sequential", 4000)
    monkeypatch.setattr("parsample.samplers.prepare.depends_on_single_steps", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.prepare._share_of_chains", lambda *timed: cost * _share_of_chains(*timed))
    with pytest.warns(ParallelStallWarning) if status is Status.SEQUENTIAL else contextlib.nullcontext():
        result = sample(KEY, gaussian, gaussian_start(), num_samples=4000, num_chains=2, progress_bar=False)
    assert result.status is status
    assert result.report.measured.seconds_to_compile == 0
    assert_same_draws(result, expected)


def test_auto_says_beforehand_that_lanes_do_not_meet():
    with pytest.warns(ParallelStallWarning, match=r"will be evaluated sequentially.*Try: .+\.$") as caught:
        result = sample(KEY, modes, jnp.zeros(2), num_samples=300, num_warmup=200, progress_bar=False)
    assert len(caught) == 1
    assert (result.status, result.report.parallelizable, result.evals_per_step) == (Status.SEQUENTIAL, False, 1)
    assert "did not meet" in result.report.cause
    assert result.report.remedy
    assert "lanes disagree" in result.adaptation.unsettled
    assert "lanes disagree" in str(result.report)


def test_check_sampler_reports_what_auto_would_do():
    found = check_sampler(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2)
    expected = run("hmc", "auto").report
    np.testing.assert_array_equal(found.coalescence, expected.coalescence)
    assert (found.plan.num_blocks, found.plan.block_size) == (32, 32)
    assert found.parallelizable
    assert found.contraction_rate < -0.05


def test_check_sampler_states_the_exponent_that_pairs_show():
    found = check_sampler(KEY, gaussian, gaussian_start(), num_samples=1000, exact_meeting=False, lyapunov=True)
    assert found.parallelizable
    assert found.lle_se < 0.1
    # Tangents and pairs see the same kernel: linear between its rejections, which are few.
    assert abs(found.lle - found.contraction_rate) < 5 * found.lle_se
    assert f"{found.lle:+.3g} +- {found.lle_se:.1g} nats per step" in str(found)


def test_the_exponent_needs_a_kernel_with_gradients():
    with pytest.raises(ValueError, match=r"lyapunov=True: kernel='metropolis' either jumps or stays"):
        check_sampler(KEY, gaussian, gaussian_start(), kernel="metropolis", lyapunov=True)


def outside(x: np.ndarray) -> np.ndarray:
    return np.asarray(-0.5 * np.sum(np.asarray(x) ** 2, axis=-1), np.asarray(x).dtype)


def black_box(x: jax.Array, vmap_method: str | None = "expand_dims") -> jax.Array:
    """A log density that JAX can neither differentiate nor look into."""
    return jax.pure_callback(outside, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method=vmap_method)


def test_a_black_box_runs_in_blocks_without_gradients():
    result = sample(KEY, black_box, jnp.zeros(2), num_samples=2000, kernel="metropolis", progress_bar=False)
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
    assert result.positions.shape == (4, 2000, 2)
    # At least 0.15 effective draws per draw: five standard errors are 0.15.
    assert np.abs(result.positions.mean((0, 1))).max() < 0.15
    assert np.abs(result.positions.std((0, 1)) - 1).max() < 0.15


def test_a_black_box_that_cannot_be_batched_runs_step_by_step_with_one_warning():
    density = functools.partial(black_box, vmap_method=None)
    with pytest.warns(ParallelStallWarning, match=r"calls back to Python.*vmap_method") as caught:
        result = sample(
            KEY, density, jnp.zeros(1), num_samples=60, num_warmup=100, num_chains=2, kernel="metropolis",
            progress_bar=False,
        )  # fmt: skip
    assert len(caught) == 1
    assert result.status is Status.SEQUENTIAL
    assert np.unique(result.positions).size > 20


def test_a_while_loop_density_needs_no_derivative():
    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] - x @ x / 6), (0, 0.0 * x[0]))[1]

    result = sample(KEY, looped, jnp.zeros(2), num_samples=500, kernel="metropolis", progress_bar=False)
    assert (result.status, result.defect) == (Status.CONVERGED, 0)


def interrupted_at(name: str, monkeypatch: Any) -> None:
    """Have the progress bar raise where an interrupt might arrive."""
    phase, add = Progress.phase, Progress.add

    def phase_or_interrupt(self: Progress, text: str) -> None:
        phase(self, text)
        if name in text:
            raise KeyboardInterrupt

    def add_and_interrupt(self: Progress, num_draws: int) -> None:
        add(self, num_draws)
        if name == "draws":
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "phase", phase_or_interrupt)
    monkeypatch.setattr(Progress, "add", add_and_interrupt)


@pytest.mark.parametrize("name", ["compiling", "warm-up 2", "check", "sampling in blocks"])
def test_an_interrupt_before_any_draws_ends_the_run(name, monkeypatch):
    interrupted_at(name, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        sample(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2, progress_bar=False)


def test_an_interrupt_keeps_what_is_finished(monkeypatch):
    interrupted_at("draws", monkeypatch)
    result = sample(KEY, gaussian, gaussian_start(), num_samples=100_000, num_chains=2, progress_bar=False)
    assert result.interrupted
    assert result.num_draws == result.segments[0].num_steps < 100_000
    assert_same_draws(
        dataclasses.replace(result, **first_draws(result, 1000)),
        dataclasses.replace(run("hmc", "sequential")),
    )


def test_a_progress_bar_shows_every_phase(capsys):
    sample(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2, progress_bar=True)
    shown = capsys.readouterr().err
    for words in (
        "compiling",
        "warm-up 1, round of 8 steps: step size",
        "check: pairs",
        "sampling in blocks",
        "sweeps",
    ):
        assert words in shown


def half_normal(x: jax.Array) -> jax.Array:
    """The wall of a density without an edge: NaN below zero, value and gradient."""
    return jnp.log(x) - 0.5 * jnp.sqrt(x) ** 4


def test_nan_on_the_way_is_rejected_and_counted_as_diverging_for_one_chain():
    result = sample(KEY, half_normal, jnp.array(1.2), num_samples=4000, num_chains=1, progress_bar=False)
    assert result.status is Status.CONVERGED
    assert result.positions.shape == (1, 4000)
    assert result.positions.min() > 0
    assert all(np.isfinite(values).all() for values in result.sample_stats.values())
    # x exp(-x^2 / 2) is Rayleigh's: mean sqrt(pi / 2), variance 2 - pi / 2.
    assert abs(result.positions.mean() - math.sqrt(math.pi / 2)) < 0.1


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
    def rounds(*_: Any) -> None:
        pytest.fail("a warm-up was started")

    monkeypatch.setattr("parsample.warmup.ensemble.Ensemble.rounds", rounds)


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
        ("kernel", "gibbs", "one of 'hmc', 'nuts', 'mala', 'metropolis'"),
        ("kernel", None, "one of 'hmc', 'nuts', 'mala', 'metropolis'"),
        ("method", "parallel", "one of 'auto', 'deer', 'sequential'"),
        ("num_lanes", 0, "whole number of at least 1"),
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
def test_explicit_blocks_belong_to_the_solver_not_to_the_sampler():
    with pytest.raises(ValueError, match=r"method must be one of 'auto', 'deer', 'sequential'; got DEER"):
        refused(method=DEER(64, Zero()))


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
    return jax.pure_callback(
        lambda v: -0.5 * np.sum(v * v, -1), jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims"
    )


BAD_DENSITIES: dict[str, tuple[Any, type, str]] = {
    "not callable": (3.0, TypeError, r"logdensity_fn must be callable; got 3\.0"),
    "NaN": (lambda x: jnp.log(x[1]), ValueError, r"logdensity_fn is nan at initial_position; start where it is finite"),
    "-inf": (lambda x: jnp.where(x[0] > 1, 0.0, -jnp.inf), ValueError, r"is -inf at initial_position; start where"),
    "a vector": (lambda x: -(x**2), ValueError, r"must return one floating-point scalar; it returns .*2.*Sum"),
    "a pair": (lambda x: (x[0], x[1]), ValueError, r"must return one floating-point scalar.*Sum its terms"),
    "an integer": (lambda x: jnp.int32(1), ValueError, r"must return one floating-point scalar.*int32"),
    "nothing": (lambda x: None, ValueError, r"must return one floating-point scalar; it returns None"),
    "raising": (lambda x: x[0] @ x, ValueError, r"cannot be evaluated at initial_position \(float64\[2\]\)"),
    "no gradient": (without_gradient, ValueError, r"has no gradient at initial_position: .+metropolis' needs none"),
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
