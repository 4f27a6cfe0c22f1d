"""The benchmark suite in tiny sizes, through the same entry points; times are not checked."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import parsample
from benchmarks import (
    end_to_end,
    gpu,
    native,
    posteriors,
    problems,
    reference,
    samplers,
    scaling,
    soak,
    suite,
    survival,
    tables,
    timing,
)
from benchmarks import report as reporting
from benchmarks.chains import Chains
from benchmarks.papers import PAPERS
from benchmarks.run import GROUPS, run_group
from benchmarks.tables import TABLES, load
from models.recursions.eight_schools_gibbs import eight_schools
from parsample.solver.linearization import Zero

TINY = suite.Options(scale="tiny", repeats=1, cores=1)

# Fields in the record of every timed run.
RECORD = {
    "seconds",
    "first_call_seconds",
    "compile_seconds",
    "peak_bytes",
    "status",
    "defect",
    "num_iters",
    "evals_per_step",
}


def rehearse(group, out, only=None):
    """Run a group; return its rows, which are all measured and equal to those in its file."""
    rows = run_group(group, replace(TINY, out=out, only=only))
    assert [row.get("error") for row in rows] == [None] * len(rows)
    content = json.loads(next(out.glob(f"{group}_*.json")).read_text())
    assert content["rows"] == rows
    assert content["environment"]["versions"]["jax"] == jax.__version__
    assert {"device", "dtype", "num_devices"} <= set(content["environment"])
    return rows


def check_runs(rows):
    """Check that every run has a complete record, and that its path is exactly a chain of its kernel."""
    assert rows
    for row in rows:
        for record in row["runs"].values():
            assert set(record) >= RECORD, row["name"]
            assert parsample.Status[record["status"]].is_exact
            assert record["seconds"]["quartile_1"] <= record["seconds"]["median"] <= record["seconds"]["quartile_3"]


def test_documents_show_the_committed_results():
    texts = [document.read_text() for document in reporting.DOCUMENTS]
    assert set(re.findall(r"<!-- results:(\w+) -->", "".join(texts))) == {*TABLES, *PAPERS}
    for text in texts:
        assert reporting.rewritten(text, load(suite.RESULTS)) == text


def test_a_marker_that_names_no_table_is_refused():
    with pytest.raises(ValueError, match="results:speed names no table"):
        reporting.rewritten("<!-- results:speed -->\n<!-- end -->", [])


@pytest.mark.slow
def test_the_script_for_gpus_runs_all_groups(tmp_path):
    assert gpu.main(["--tiny", "--repeats", "1", "--seconds", "2400", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "gpu_summary.json").read_text())
    assert {entry["ended"] for entry in summary.values()} == {"done"}
    files = {file.group: file for file in load(tmp_path)}
    assert set(files) == set(gpu.SHARES) == set(GROUPS) - {"long_runs", "soak", "survival", "warmup"}
    for group, file in files.items():
        assert {"device", "dtype", "num_devices"} <= set(file.environment)
        assert file.environment["versions"]["jax"] == jax.__version__
        assert any(map(suite.is_measured, file.rows))
        for row in file.rows:
            assert suite.is_measured(row) or "is not installed" in row["skipped"]
        # Runs of the profile are stopped on purpose, after a given number of sweeps.
        if group not in ("end_to_end", "models", "profile"):
            check_runs(file.rows)
    check_runs(files["models"].table("models"))
    check_findings(files)
    check_report(tmp_path, len(files))


def check_findings(files):
    """Check results that do not depend on the hardware."""
    # One batch of all steps reproduces the path.
    batch = files["limit"].table("limit")[0]
    assert (batch["runs"]["blocks"]["status"], batch["floor_agreement"]) == ("CONVERGED", 1.0)
    assert all(row["seconds_per_step"]["unroll_1"] > 0 for row in files["profile"].table("lanes"))
    assert {row["runs"]["newton"]["status"] for row in files["scaling"].table("newton")} == {"CONVERGED"}


def check_report(out, num_groups):
    """Check that the documents' tables and the figures are made from the files in `out` only."""
    documents = [out / document.name for document in reporting.DOCUMENTS]
    for document, original in zip(documents, reporting.DOCUMENTS, strict=True):
        shutil.copy(original, document)
    assert reporting.main(["--results", str(out), "--documents", *map(str, documents)]) == 0
    text = "".join(document.read_text() for document in documents)
    assert "mixture, MALA 0.5, T = 2,048" in text
    for group in ("long_runs", "soak", "survival", "warmup"):
        assert f"Not measured yet (`python -m benchmarks.run {group}`)" in text
    assert text.count("Not measured yet") == 4 + len(PAPERS)
    assert len(list((out / "figures").glob("*.png"))) == num_groups
    # Writing again changes nothing; text outside the markers is kept.
    assert reporting.rewritten(text, load(out)) == text
    outside = re.compile(r"(<!-- results:\w+ -->).*?(<!-- end -->)", re.DOTALL)
    assert outside.sub("", text) == outside.sub("", "".join(document.read_text() for document in reporting.DOCUMENTS))


@pytest.mark.slow
def test_long_runs_are_processes_of_their_own(tmp_path):
    rows = rehearse("long_runs", tmp_path, only="run.zarr") + rehearse("long_runs", tmp_path, only="Moments")
    cases = {row["case"]: row for row in rows}
    assert {case: row["num_draws"] for case, row in cases.items()} == {
        "run.zarr": 2048,
        "run.zarr, thin=10": 204,
        "Moments": 2048,
        "Moments and Quantiles": 2048,
    }
    for row in rows:
        assert 0 < row["over_baseline_mib"] < 1000
        assert 0 < row["sampling_seconds"] < row["sample_seconds"] < row["wall_seconds"]
        assert (row["disk_bytes"] > 0) == row["case"].startswith("run.zarr")
    assert tables.long_runs(load(tmp_path)[0]).count("| 2,048 |") == len(cases)


@pytest.mark.slow
def test_signals_do_no_damage(tmp_path):
    row = rehearse("survival", tmp_path)[0]
    assert (row["kind"], row["instants"] >= 3, row["instants"]) == ("SIGKILL", True, sum(row["phases"].values()))
    assert {name: row[name] for name in survival.DAMAGE} == dict.fromkeys(survival.DAMAGE, 0)
    assert tables.survival(load(tmp_path)[0]).splitlines()[-1].startswith("| SIGKILL |")


@pytest.mark.slow
def test_random_runs_survive_and_refits_level_off(tmp_path):
    rows = rehearse("soak", tmp_path)
    assert [row["title"] for row in rows] == ["one process", "two processes", "refits"]
    for row in rows[:2]:
        assert row["runs"] == 1
        assert row["values_compared"] > 0
        assert 0 <= sum(row["signals"].values()) == row["instants"] <= soak.MAX_SIGNALS["tiny"]
        assert {name: row[name] for name in survival.DAMAGE} == dict.fromkeys(survival.DAMAGE, 0)
        assert row["damaged"] == []
    assert rows[2]["turns"] == 1
    written = tables.soak(load(tmp_path)[0])
    assert [line.split(" | ")[0] for line in written.splitlines()][2:4] == ["| one process", "| two processes"]


def test_growth_of_memory_is_a_slope_after_the_burn_in():
    sizes = [*range(0, 300, 10), *(300 + 0.5 * turn for turn in range(60))]
    sizes[50] += 1000.0
    held = {"peak_bytes": 2**30, "objects": 1000, "threads": 9, "open_files": 6}
    turns = [{"turn": turn, "resident_bytes": int(size * 2**20), **held} for turn, size in enumerate(sizes, start=1)]
    found = soak.levels(turns)
    assert (found["turns"], found["burn_in_turns"]) == (90, 31)
    assert found["mib_per_100_turns"] == pytest.approx(50.0, rel=1e-6)
    assert (found["burn_in_mib"], found["end_mib"]) == (300.0, 329.5)


@pytest.mark.parametrize("seed", range(3))
def test_rounds_are_drawn_by_the_seed(seed):
    first, again = (soak.drawn(np.random.default_rng(seed), "cpu") for _ in range(2))
    assert first == again != soak.drawn(np.random.default_rng(seed + 1), "cpu")
    assert 30_000 - 5 < first["num_samples"] * first["thin"] <= 300_000


def test_values_that_differ_in_bits_are_counted():
    whole = survival.Draws(
        3, {"posterior/x": np.array([[0.0, np.nan, 2.0]]), "sample_stats/diverging": np.zeros((1, 3), bool)}
    )
    first = survival.Draws(2, {name: values[:, :2].copy() for name, values in whole.arrays.items()})
    assert first.differing(whole) == 0
    first.arrays["posterior/x"][0, 0] = -0.0
    assert first.differing(whole) == 1
    assert first._replace(number=3).differing(whole) > 1
    assert survival.Draws(0, {}).differing(whole) > 0


def signalled(**damage):
    phases = dict.fromkeys(survival.PHASES, 10)
    return {
        "kind": "SIGKILL",
        "instants": 60,
        "phases": phases,
        "runs": 7,
        **dict.fromkeys(survival.DAMAGE, 0),
        **damage,
    }


def test_the_table_of_survival_shows_all_damage():
    header, body = survival.table([signalled(differing=1234)])
    assert len(header) == len(body[0])
    assert dict(zip(header, body[0], strict=True))["values that differ"] == "1,234"


def test_the_script_for_gpus_survives_a_group_that_is_cut_off(tmp_path):
    assert gpu.main(["limit", "--tiny", "--seconds", "0.5", "--out", str(tmp_path)]) == 1
    summary = json.loads((tmp_path / "gpu_summary.json").read_text())
    assert summary["limit"]["ended"].startswith("cut off")
    assert summary["figures"]["ended"] == "done"
    assert sum(gpu.SHARES.values()) <= gpu.TOTAL <= 540


def test_one_failing_job_does_not_cost_the_others(tmp_path):
    def fail(_options):
        raise RuntimeError("out of luck")

    calls = []
    ran = suite.Job("t", "runs", lambda _options: calls.append(1) or {"runs": {}})
    options = replace(TINY, out=tmp_path)
    rows = suite.run_jobs("group", [suite.Job("t", "fails", fail), ran], options)
    assert "out of luck" in rows[0]["error"]
    assert suite.is_measured(rows[1])
    # The next run keeps finished jobs and tries failed ones again.
    rows = suite.run_jobs("group", [suite.Job("t", "fails", ran.run), ran], options, resume=True)
    assert (len(calls), len(rows), all(map(suite.is_measured, rows))) == (2, 2, True)


def test_beyond_the_budget_jobs_are_skipped_and_say_so(tmp_path):
    job = suite.Job("t", "late", lambda _options: {"runs": {}})
    rows = suite.run_jobs("group", [job], replace(TINY, out=tmp_path, budget=-1.0))
    assert "budget" in rows[0]["skipped"]


def test_after_the_first_no_round_begins_beyond_the_deadline():
    calls = []
    records = timing.measure({"run": lambda: calls.append(1)}, repeats=5, deadline=0.0)
    assert len(calls) == 2  # the first one compiles
    assert records["run"]["seconds"]["repeats"] == 1
    assert records["run"]["status"] == "SEQUENTIAL"


def test_rounds_alternate_and_leave_out_what_is_told_apart():
    order = []
    runs = {name: lambda name=name: order.append(name) or 100.0 for name in "ab"}
    records = timing.measure(runs, repeats=2, apart=lambda result: result)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert all(-100 < record["seconds"]["median"] < -90 for record in records.values())


def test_a_round_that_compiles_is_repeated():
    calls = []

    def run():
        calls.append(1)
        return jax.jit(lambda x: x + len(calls))(1.0) if len(calls) < 3 else 0.0

    _, _, compiled_to_the_last = timing.steadily(run)
    assert (len(calls), compiled_to_the_last) == (3, False)


def test_extrapolated_times_say_from_what():
    record = {"seconds": {"median": 2.0, "quartile_1": 1.0, "quartile_3": 3.0, "repeats": 5}}
    longer = timing.extrapolated(record, 1000, 10)
    assert longer["seconds"] == {"median": 200.0, "quartile_1": 100.0, "quartile_3": 300.0, "repeats": 5}
    assert longer["extrapolated_from"] == 10
    assert timing.extrapolated(record, 10, 10) == record


def test_exponents_and_crossovers():
    x = [1.0, 10.0, 100.0]
    assert scaling.exponent(x, [3 * value**1.5 for value in x]) == pytest.approx(1.5)
    assert scaling.crossover(x, [0.1, 0.1, 10.0]) == pytest.approx(10 * 10**0.5)
    assert np.isnan(scaling.crossover(x, [2.0, 2.0, 2.0]))


def test_the_loop_in_c_samples_the_banana():
    try:
        positions, acceptance = native.banana_hmc(1_000_000)
    except native.NoCompilerError as reason:
        pytest.skip(str(reason))
    # Exact: N(0, 10^2), and variance 1 + 2 0.03^2 10^4 = 19; about 300 steps make an effective draw of x1.
    assert positions.std(0) == pytest.approx([10.0, 19**0.5], rel=0.1)
    assert abs(positions[:, 0].mean()) < 1.5
    assert acceptance == pytest.approx(0.977, abs=0.01)


@pytest.mark.slow
def test_gibbs_in_blocks_is_gibbs_step_by_step():
    chains = [eight_schools(512, seed=seed) for seed in range(2)]
    solutions = reference._solve(chains, parsample.DEER(128, Zero()))
    assert timing.certificate(solutions)["status"] == "CONVERGED"
    for name, paths in reference._rollouts(chains).items():
        np.testing.assert_allclose(np.stack([solution.states[name] for solution in solutions]), paths, atol=1e-7)


@pytest.mark.slow
def test_chains_side_by_side_are_blackjax_chains():
    chains = Chains(problems.mixture_mala(2, 600))
    positions, _ = chains.blackjax()[1]
    solution = chains.in_blocks(parsample.DEER(200, Zero()))
    np.testing.assert_allclose(solution.outputs[0]["x"], positions["x"], atol=1e-7)
    np.testing.assert_allclose(chains.sequential().outputs[0]["x"], positions["x"], atol=1e-7)
    assert timing.certificate(solution)["status"] == "CONVERGED"


@pytest.mark.slow
def test_chains_that_stall_are_finished_before_their_time_is_taken():
    chains = Chains(problems.mixture_mala(1, 200))
    solution = chains.in_blocks(parsample.DEER(10, Zero(), stall_after=1))
    assert timing.certificate(solution)["status"] == "STALLED"
    np.testing.assert_allclose(solution.outputs[0]["x"], chains.sequential().outputs[0]["x"], atol=1e-7)


@pytest.mark.parametrize("name", posteriors.MADE)
def test_posteriors_are_finite_where_they_start(name):
    posterior = posteriors.posterior_of(name)
    value, gradient = jax.value_and_grad(posterior.logdensity)(posterior.initial_position)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_metrics_of_regressions_are_those_at_the_mode():
    problem = problems.laplace_hmc(posteriors.synthetic_logistic(50, 3), 4, 128)
    # Starts are draws from the Gaussian at the mode: they scatter about it, and the chains accept.
    assert problem.positions["beta"].shape == (4, 3)
    assert np.asarray(Chains(problem).sequential().outputs[1]).mean() > 0.7


# Fields that the process of every sampler reports.
PROCESS = {
    "wall_seconds",
    "cpu_seconds",
    "seconds_after_imports",
    "num_programs",
    "smallest_bulk_ess",
    "ess_per_second",
    "means",
    "sds",
}


@pytest.mark.slow
def test_processes_of_all_samplers_report_what_a_user_waits_for(tmp_path):
    rows = rehearse("end_to_end", tmp_path, only="samplers: ")
    assert [row["sampler"] for row in rows] == list(end_to_end.SAMPLERS)
    for row in rows:
        assert set(row) >= PROCESS
        assert 10 < row["smallest_bulk_ess"] < 5000
        assert 0 < row["seconds_after_imports"] < row["wall_seconds"] < row["job_seconds"]
        # The population mean of the eight schools.
        assert row["means"][1] == pytest.approx(4.4, abs=1.5)
    written = tables.end_to_end(load(tmp_path)[0])
    assert written.count("| eight_schools | 200 |") == len(reporting.MEASURES)


@pytest.mark.slow
def test_processes_are_certified_and_counted(tmp_path):
    rows = rehearse("end_to_end", tmp_path, only="mixture") + rehearse("end_to_end", tmp_path, only="deer")[-1:]
    assert [(row["sampler"], row["dtype"]) for row in rows] == [
        ("auto", "float64"),
        ("sequential", "float64"),
        ("deer", "float32"),
    ]
    for row in rows:
        assert row["certificate"].startswith("certified")
        assert row["evals_per_step"] >= 1
        assert row["num_programs"] > 0
    np.testing.assert_allclose(rows[0]["means"], rows[1]["means"], rtol=1e-3)


def small_case(num_samples=100, sampler="auto"):
    return end_to_end.Case("samplers", "mixture", sampler, num_samples)


def test_rounds_take_turns_and_change_the_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(end_to_end, "cases", lambda _scale: [small_case(), small_case(sampler="sequential")])
    monkeypatch.setattr(end_to_end, "case_row", lambda case, number, *_: seeds.append((case.sampler, number)))
    for job in end_to_end.jobs(replace(TINY, repeats=2)):
        job.run(TINY)
    assert seeds == [("auto", 1), ("sequential", 1), ("auto", 2), ("sequential", 2)]
    names = [job.title for job in end_to_end.jobs(replace(TINY, repeats=2))]
    assert names[2] == "samplers: mixture, auto, 100 draws, float32, round 2"


def test_a_sampler_that_exceeds_the_limit_is_stopped_and_not_run_again():
    options, stopped = replace(TINY, run_limit=0.5), {}
    first = end_to_end.case_row(small_case(), 1, stopped, options)
    assert (first["over_limit"], first["was_run"]) == (0.5, True)
    longer = end_to_end.case_row(small_case(200), 1, stopped, options)
    assert (longer["over_limit"], longer["was_run"]) == (0.5, False)


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no_such_model"):
        end_to_end.case_row(small_case()._replace(posterior="no_such_model"), 1, {}, TINY)


def process_rows(sampler, *seconds):
    identity = small_case(sampler=sampler).identity()
    return [
        {**identity, "table": "samplers", "round": number, "wall_seconds": value, "ess_per_second": 100 / value}
        for number, value in enumerate(seconds, start=1)
    ]


def test_rounds_are_summarized_by_median_and_extremes():
    over = {**small_case(sampler="auto").identity(), "table": "samplers", "round": 3, "over_limit": 60.0}
    rows = [*process_rows("auto", 2.0, 4.0), over, *process_rows("sequential", 3.0, 1.0, 2.0)]
    auto, sequential = end_to_end.summaries(rows).values()
    assert sequential.spread("wall_seconds") == (2.0, 1.0, 3.0)
    assert auto.spread("wall_seconds") == (4.0, 2.0, np.inf)
    assert end_to_end.ratio_within_rounds(auto, sequential, "wall_seconds") == np.median([2 / 3, 4 / 1])
    written = tables.end_to_end(tables.File("end_to_end", {}, rows))
    assert "| mixture | 100 | 4 s (2 s to >60 s) | 2 s (1 s to 3 s) | - |" in written
    models = tables.end_to_end_models(tables.File("end_to_end", {}, [{**row, "table": "models"} for row in rows]))
    assert "| mixture | 100 | 4 s (2 s to >60 s) | 2 s (1 s to 3 s) | 2.33 | - | - |" in models
    slow = [{**row, "table": "models"} for row in [{**over, "sampler": "sequential"}, *process_rows("auto", 1.0)]]
    assert "| >60 s | - | - | - |" in tables.end_to_end_models(tables.File("end_to_end", {}, slow))
    only_over = tables.end_to_end(tables.File("end_to_end", {}, [over, *process_rows("sequential", 1.0)]))
    assert "| mixture | 100 | >60 s | 1 s (1 s to 1 s) |" in only_over


def test_the_smallest_effective_sample_size_is_that_of_all_coordinates():
    draws = np.random.default_rng(0).normal(size=(4, 500, 5))
    draws[..., 4] = draws[..., 4].cumsum(1)
    positions = {"a": draws[..., :2], "b": draws[..., 2:].reshape(4, 500, 3, 1)}
    np.testing.assert_array_equal(samplers.flattened(positions), draws)
    whole = samplers.smallest_bulk_ess(draws)
    assert whole < 50
    assert samplers.smallest_bulk_ess(draws[..., :4]) > 1000
    assert samplers.smallest_bulk_ess(draws, at_once=2) == pytest.approx(whole)
