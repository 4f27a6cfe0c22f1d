"""`sample`: the same draws by every method, bitwise one chain; and how a run ends."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from chains import gaussian, gaussian_start, logistic_regression, logistic_regression_start
from refusals import refused
from runs import KERNELS_TESTED, KEY, assert_same_draws, first_draws, run
from small import MODEL, SCALES, SIZES, bell, small
from warned import warns_here

import parsample
from parsample import ParallelStallWarning, SamplingWarning, Status
from parsample.kernels import KERNELS
from parsample.samplers.progress_bar import Progress
from parsample.samplers.sample import check_sampler, sample

DEVICES = jax.devices()
SLOW = pytest.mark.slow


@pytest.mark.parametrize("method", ["auto", "deer"])
@pytest.mark.parametrize("kernel", KERNELS_TESTED)
def test_blocks_give_the_draws_of_the_sequential_run(kernel, method):
    result, expected = run(kernel, method), run(kernel, "sequential")
    assert (result.status, expected.status) == (Status.CONVERGED, Status.SEQUENTIAL)
    assert_same_draws(result, expected)
    assert result.defect == 0
    assert 1 < result.evals_per_step < 4  # in blocks of 32 steps, meeting takes a good part of each
    assert result.report.parallelizable
    assert expected.report is None


@pytest.mark.parametrize("kernel", ["hmc", "metropolis"])
def test_long_runs_take_little_more_than_one_evaluation_per_step(kernel):
    result = run(kernel, "auto", 80_000)
    assert len(result.segments) > 1
    assert (result.status, result.defect) == (Status.CONVERGED, 0)
    assert result.evals_per_step < 1.1
    assert_same_draws(dataclasses.replace(result, **first_draws(result, 1000)), run(kernel, "sequential"))


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


def test_as_many_chains_as_lanes_run_step_by_step_in_the_one_program(compilations):
    run()  # compiles the program for as many lanes
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
    # Traced for the shape of the value, then for the evaluation of states and for trajectories.
    assert fresh.calls <= 5
    traced = fresh.calls + 3  # once by each of the calls below, which look whether it is the same
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


def test_blocks_that_stop_meeting_are_finished_step_by_step_with_a_warning(monkeypatch):
    monkeypatch.setattr("parsample.samplers.schedule.MAX_COST_RATIO", 0.0)
    with warns_here(ParallelStallWarning, match=r"blocks stopped meeting.*It is right") as caught:
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


def test_auto_says_beforehand_that_lanes_do_not_meet():
    with warns_here(ParallelStallWarning, match=r"will be evaluated sequentially.*Try: .+\.$") as caught:
        result = sample(KEY, modes, jnp.zeros(2), num_samples=300, num_warmup=200, progress_bar=False)
    assert [warning.category for warning in caught] == [ParallelStallWarning, SamplingWarning]
    assert "chains disagree" in str(caught[1].message)
    assert (result.status, result.report.parallelizable, result.evals_per_step) == (Status.SEQUENTIAL, False, 1)
    assert "did not meet" in result.report.cause
    assert result.report.remedy
    assert "lanes disagree" in result.adaptation.unsettled
    assert "lanes disagree" in str(result.report)


def test_check_sampler_warns_that_lanes_do_not_meet():
    with warns_here(ParallelStallWarning, match="will be evaluated sequentially"):
        found = check_sampler(KEY, modes, jnp.zeros(2), num_samples=300, num_warmup=200)
    assert not found.parallelizable


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
    # Tangents and pairs follow the same kernel, which is linear between its few rejections.
    assert abs(found.lle - found.contraction_rate) < 5 * found.lle_se
    assert f"{found.lle:+.3g} +- {found.lle_se:.1g} nats per step" in str(found)


def test_the_exponent_needs_a_kernel_with_gradients():
    with pytest.raises(ValueError, match=r"lyapunov=True: kernel='metropolis' either jumps or stays"):
        check_sampler(KEY, gaussian, gaussian_start(), kernel="metropolis", lyapunov=True)


def interrupted_at(name: str, monkeypatch: Any) -> None:
    """Make the progress bar raise KeyboardInterrupt in the phase `name`, or, for "draws", after draws were added."""
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


def rayleigh(x: jax.Array) -> jax.Array:
    """A log density that ends at zero: its value and gradient below are NaN."""
    return jnp.log(x) - 0.5 * jnp.sqrt(x) ** 4


def test_nan_on_the_way_is_rejected_and_counted_as_diverging_for_one_chain():
    result = sample(KEY, rayleigh, jnp.array(1.2), num_samples=4000, num_chains=1, progress_bar=False)
    assert result.status is Status.CONVERGED
    assert result.positions.shape == (1, 4000)
    assert result.positions.min() > 0
    assert all(np.isfinite(values).all() for values in result.sample_stats.values())
    # x exp(-x^2 / 2) is Rayleigh's: mean sqrt(pi / 2), variance 2 - pi / 2.
    assert abs(result.positions.mean() - math.sqrt(math.pi / 2)) < 0.1


@jax.custom_jvp
def without_gradient(x: jax.Array) -> jax.Array:
    """A Gaussian, whose gradient is NaN away from zero."""
    return -0.5 * jnp.sum(x**2)


@without_gradient.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    (x,), (v,) = primals, tangents
    return without_gradient(x), jnp.sum(jnp.where((x == 0).all(), -x, jnp.nan) * v)


def wrong_sign(x: jax.Array) -> jax.Array:
    """A log density that grows without bound."""
    return 0.5 * jnp.sum(x**2) + jnp.sum(x**4)


def far_apart(x: jax.Array) -> jax.Array:
    """Two modes that no chain leaves."""
    return jnp.logaddexp(-0.5 * jnp.sum((x - 6) ** 2), -0.5 * jnp.sum((x + 6) ** 2))


def box(x: jax.Array) -> jax.Array:
    """A Gaussian within hard walls."""
    return jnp.where(jnp.all(jnp.abs(x) < 1), -0.5 * jnp.sum(x**2), -jnp.inf)


def doubtful(logdensity: Any, position: Any, words: str, **settings: Any) -> parsample.SampleResult:
    """A run that ends with exactly one warning, in these words, although every step is the kernel's own."""
    with warns_here(SamplingWarning, match=f"Mistrust these draws: .*{words}") as caught:
        result = sample(
            jax.random.key(0), logdensity, position, **{**SIZES, "num_samples": 500, "num_warmup": 200}, **settings
        )
    assert [str(warning.message) for warning in caught] == [
        f"Mistrust these draws: {'; '.join(result.diagnostics.problems)}."
    ]
    assert (result.status, result.num_draws) == (Status.SEQUENTIAL, 500)
    assert all(problem in repr(result) for problem in result.diagnostics.problems)
    return result


def test_a_gradient_that_is_nan_is_named_by_what_it_does():
    result = doubtful(without_gradient, jnp.zeros(2), r"chains \[0, 1\] never moved; 1000 of 1000 steps diverged")
    assert (result.diagnostics.r_hat, result.diagnostics.ess_bulk) == (np.inf, 0)
    assert np.ptp(result.positions, axis=1).max() == 0


def test_a_log_density_of_the_wrong_sign_is_named_by_what_it_does():
    found = doubtful(wrong_sign, jnp.zeros(2), "[0-9]+ of 1000 steps diverged").diagnostics
    assert sum(found.num_diverging) > 500
    for words in ("chains disagree, do not use them", "the acceptance rate is 0.0", "the warm-up has not settled"):
        assert any(words in problem for problem in found.problems)


def test_chains_in_different_modes_disagree():
    starts = jnp.array([[6.0, 6.0], [-6.0, -6.0]])
    result = doubtful(
        far_apart, starts, r"R-hat of x\[[01]\] is 1\.8[0-9]: chains disagree, do not use", starts_per_chain=True
    )
    assert (np.sign(result.positions) == np.sign(starts)[:, None]).all()
    assert result.diagnostics.r_hat > 1.8
    assert min(result.diagnostics.acceptance_rate) > 0.6  # each chain alone looks well


def test_steps_that_hit_a_wall_are_counted():
    result = doubtful(box, jnp.zeros(2), "([0-9]+) of 1000 steps diverged")
    num_diverging = int(result.sample_stats["diverging"].sum())
    assert num_diverging > 100
    assert sum(result.diagnostics.num_diverging) == num_diverging
    assert result.diagnostics.problems[0].startswith(f"{num_diverging} of 1000 steps diverged: a transform of bounded")
    assert np.abs(result.positions).max() < 1


@pytest.mark.usefixtures("no_warmup")
def test_a_scratch_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scratch_dir must be a directory .*missing': No such file or directory"):
        refused(scratch_dir=tmp_path / "missing")


@pytest.mark.parametrize(
    "method",
    [pytest.param("deer", marks=pytest.mark.exhaustive), pytest.param("sequential", marks=pytest.mark.slow)],
)
def test_draws_do_not_depend_on_devices(method):
    def draws(devices: list) -> parsample.SampleResult:
        return parsample.sample(
            jax.random.key(1),
            gaussian,
            gaussian_start(),
            num_samples=1024,
            num_warmup=200,
            num_chains=2,
            method=method if devices[1:] else "sequential",
            progress_bar=False,
            devices=devices,
        )

    shared, alone = draws(DEVICES[:2]), draws(DEVICES[:1])
    assert shared.status is (Status.CONVERGED if method == "deer" else Status.SEQUENTIAL)
    assert shared.settings["num_devices"] == 2
    np.testing.assert_allclose(shared.positions["x"], alone.positions["x"], atol=1e-8)


@pytest.mark.parametrize("thin", [3, 16])
def test_thin_keeps_every_kth_draw_of_the_whole_run(thin):
    whole, thinned = small(num_samples=60 * thin), small(thin=thin)
    np.testing.assert_array_equal(thinned.positions, whole.positions[:, thin - 1 :: thin])
    for name, values in whole.sample_stats.items():
        np.testing.assert_array_equal(thinned.sample_stats[name], values[:, thin - 1 :: thin])
    assert (thinned.num_draws, thinned.positions.shape) == (60, (2, 60, 3))
    in_blocks = small(thin=thin, method="deer")
    assert in_blocks.status is Status.CONVERGED
    np.testing.assert_allclose(in_blocks.positions, thinned.positions, rtol=0, atol=1e-12)


def test_reductions_alone_keep_nothing_and_are_those_of_the_draws():
    result = small(reduce=parsample.Moments(), thin=2, num_samples=100)
    assert (result.positions, result.variables, result.sample_stats) == (None, None, {})
    assert (result.num_draws, result.certificate[:9]) == (100, "certified")
    draws = small(num_samples=200).positions
    np.testing.assert_allclose(result.reductions["x"]["mean"], draws.mean((0, 1)), rtol=1e-10)
    np.testing.assert_allclose(result.reductions["x"]["sd"], draws.reshape(-1, 3).std(0, ddof=1), rtol=1e-10)
    with pytest.raises(ValueError, match="the positions of the draws were not kept"):
        result.to_arviz()
    assert small().reductions is None


def test_the_warm_up_is_kept_if_asked_for(tmp_path):
    result = small(MODEL, keep_warmup=True, out=tmp_path / "a.nc")
    trees = [result.to_arviz()]
    with xarray.open_datatree(tmp_path / "a.nc") as file:
        trees.append(file.load())
    for tree in trees:
        assert {"warmup_posterior", "warmup_sample_stats"} <= set(tree.children)
        # The rounds, without the rows that evaluate the starts.
        assert tree["warmup_posterior"].sizes["draw"] == result.adaptation.num_steps
        for name, values in tree["posterior"].data_vars.items():
            found = tree["warmup_posterior"][name]
            assert (found.dims, found.dtype, found.sizes["chain"]) == (values.dims, values.dtype, 2)
        assert tree["warmup_sample_stats"]["lp"].dims == ("chain", "draw")
        x = tree["warmup_posterior"]["x"].to_numpy()
        np.testing.assert_allclose(tree["warmup_sample_stats"]["lp"], jax.vmap(jax.vmap(bell))(x), rtol=1e-9)
    np.testing.assert_array_equal(result.positions, small(MODEL).positions)
    assert not {"warmup_posterior", "warmup_sample_stats"} & set(small(MODEL).to_arviz().children)


@pytest.mark.parametrize("place", ["memory", "file", "store"])
def test_a_run_may_take_over_the_adaptation_of_another(tmp_path, place):
    first = small(MODEL, seed=5, out=tmp_path / "run.zarr" if place == "store" else None)
    given = first.adaptation
    if place == "file":
        given.save(tmp_path / "tuned.npz")
        given = parsample.Adaptation.load(tmp_path / "tuned.npz")
    elif place == "store":
        given = parsample.Adaptation.load(tmp_path / "run.zarr")
    result = small(adaptation=given, num_warmup=0, keep_warmup=True)
    assert result.adaptation.num_steps == 0
    assert result.warmup is None
    for one, other in zip(result.adaptation.parameters[:-1], first.adaptation.parameters[:-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
    np.testing.assert_allclose(result.adaptation.states, first.adaptation.states, rtol=0, atol=1e-12)
    again = small(adaptation=given, num_warmup=100)
    assert 0 < again.adaptation.num_steps <= 100
    np.testing.assert_array_equal(again.adaptation.parameters.factor, first.adaptation.parameters.factor)
    assert not np.array_equal(again.positions, result.positions)
    blocks = small(adaptation=given, num_warmup=0, method="deer")
    np.testing.assert_allclose(blocks.positions[:, :60], result.positions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_lanes", [4, 16])
def test_an_adaptation_serves_any_number_of_lanes(num_lanes):
    result = small(adaptation=small().adaptation, num_warmup=0, num_lanes=num_lanes)
    assert result.adaptation.states.shape == (num_lanes, 3)
    assert abs(result.positions.std((0, 1)) / SCALES - 1).max() < 0.7


def test_the_density_is_the_one_that_the_call_sees():
    class Target:
        mean = 0.0

        def logdensity(self, x: jax.Array) -> jax.Array:
            return -0.5 * jnp.sum((x - self.mean) ** 2)

    target, settings = Target(), {"num_samples": 300, "num_warmup": 200, "num_chains": 2, "progress_bar": False}
    found = []
    for target.mean in (0.0, 10.0, 0.0):
        found.append(sample(KEY, target.logdensity, jnp.zeros(2), **settings).positions)
    assert abs(found[0].mean()) < 0.5
    assert abs(found[1].mean() - 10) < 0.5
    np.testing.assert_array_equal(found[2], found[0])


def test_a_function_defined_anew_compiles_nothing(caplog):
    settings = {"num_samples": 300, "num_warmup": 200, "num_chains": 2, "progress_bar": False}
    scale = 0.7306  # of no other test
    first = sample(KEY, lambda x: -scale * jnp.sum(x**2), jnp.zeros(2), **settings)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        again = sample(KEY, lambda x: -scale * jnp.sum(x**2), jnp.zeros(2), **settings)
    assert not [record for record in caplog.records if "advance_lanes" in record.getMessage()]
    np.testing.assert_array_equal(again.positions, first.positions)
