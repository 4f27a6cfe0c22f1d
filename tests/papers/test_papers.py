"""The papers' experiments in tiny sizes: each runs its jobs, writes its table and figure, and shows its claim."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks import report, suite
from benchmarks.figures import draw
from benchmarks.papers import chains, common, methods
from benchmarks.run import run_group
from benchmarks.tables import load

TINY = suite.Options(scale="tiny", repeats=1, cores=1)


def rehearsed(name, out, only=None):
    """Run an experiment without errors, write its table, draw its figure, and return its rows by table."""
    rows = run_group(f"papers.{name}", replace(TINY, out=out, only=only))
    assert [row.get("error") for row in rows] == [None] * len(rows)
    (file,) = load(out)
    assert "| --- |" in report.section(name, [file])
    (picture,) = draw([file], out / "figures")
    assert plt.imread(picture).std() > 0.01  # something is drawn
    return {table: file.table(table) for table in {row["table"] for row in rows}}


@pytest.mark.slow
def test_sweeps_are_few_where_the_exponent_is_negative(tmp_path):
    calm, wild = rehearsed("threshold", tmp_path)["threshold"]
    assert calm["lle"] < -0.3
    assert (calm["status"], calm["sweeps"][-1] <= 6) == ("CONVERGED", True)
    assert calm["predicted_sweeps"] == pytest.approx(calm["sweeps"][-1], abs=2)
    assert wild["lle"] > 0.02
    assert (wild["status"], wild["sweeps"][-1]) == ("STALLED", None)


@pytest.mark.slow
def test_sweeps_of_two_wells_hardly_grow_with_the_length(tmp_path):
    for row in rehearsed("two_well", tmp_path)["two_well"]:
        assert row["lle"] < -0.005
        assert row["status"] == "CONVERGED"
        assert row["sweeps"][-1] <= 35
        assert row["merits"][-1] < 1e-8 < row["merits"][0]


@pytest.mark.slow
def test_observers_are_parallel_and_their_flows_are_not(tmp_path):
    tables = rehearsed("observers", tmp_path)
    for row in tables["observer"]:
        assert row["lle"] < 0
        assert row["sweeps"] < 20
    for row in tables["flow"]:
        assert row["max_sweeps"] == row["work"]["T"] // 10
        assert row["sweeps"] is None
    assert len(tables["observer"]) == len(tables["flow"]) == 2


@pytest.mark.slow
def test_gradient_descent_is_slowest_and_chaos_defeats_all_methods(tmp_path):
    calm, wild = rehearsed("gains", tmp_path)["gains"]
    sweeps = [calm["runs"][name]["num_iters"] for name in ("DEER", "quasi-DEER", "gradient descent")]
    assert sweeps == sorted(sweeps)
    assert calm["runs"]["DEER"]["status"] == "CONVERGED"
    assert wild["lle"] > 0
    assert wild["runs"]["DEER"]["status"] == "STALLED"


@pytest.mark.slow
def test_what_each_device_of_the_samplers_paper_buys(tmp_path):
    tables = rehearsed("chains", tmp_path)
    for row in tables["long"]:
        assert row["sweeps"][-1] < row["work"]["T"] / 4
    (gibbs,) = tables["gibbs"]
    assert gibbs["runs"]["dense_0"]["num_iters"] <= 10 < gibbs["runs"]["diagonal_0"]["num_iters"]
    own, rotated, whitened = (row["runs"]["probed"]["num_iters"] for row in tables["rotation"])
    assert max(rotated, whitened) < own
    runs = tables["leapfrog"][-1]["runs"]
    sweeps = [runs[name]["num_iters"] for name in ("dense", "blocks_2x2", "diagonal")]
    assert sweeps == sorted(sweeps)
    assert sweeps[0] < sweeps[2]
    (early,) = tables["early"]
    assert early["errors"]["1e-08"]["moments"] < 1e-6
    assert early["errors"]["1e-08"]["mmd"] < early["mmd_of_halves"]
    (window,) = tables["window"]
    assert window["runs"]["window_6"]["evals_per_step"] < window["runs"]["whole"]["evals_per_step"]


@pytest.mark.slow
def test_blocks_without_tangents_find_a_chain_with_the_least_work(tmp_path):
    (mixture,) = rehearsed("methods", tmp_path)["methods"]
    assert set(mixture["runs"]) == {"sequential", methods.SURROGATE, *methods.METHODS}
    assert set(methods.ADVICE) == {methods.SURROGATE, *methods.METHODS}
    blocks = "block DEER, b = 64, A = 0"
    for name in ("DEER", "DEER, safeguarded", "quasi-DEER", blocks):
        assert mixture["runs"][name]["status"] == "CONVERGED", name
    assert methods._least_work(mixture) == mixture["runs"][blocks]["evals_per_step"]


def test_a_maximum_mean_discrepancy_tells_samples_apart():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1000, 2))
    assert chains._mmd(first, first) == 0
    # Two samples of one law, n = 1000: about sqrt(2 (1 - E k) / n). Shifted samples: the discrepancy of the two laws.
    near, far = chains._mmd(first, second), chains._mmd(first, second + 1)
    assert 0.01 < near < 0.06 < far
    assert far == pytest.approx(np.sqrt(2 / 3 * (1 - np.exp(-1 / 3))), rel=0.1)


@pytest.mark.slow
def test_an_experiment_is_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common, "use_cores", lambda _: None)  # this process has its devices already
    assert common.main("threshold", ["--tiny", "--only", "g = 0.5", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| 0.5 | " in told
    assert str(tmp_path / "figures" / "papers.threshold_cpu_float64.png") in told
