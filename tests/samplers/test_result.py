"""Results: names, shapes, certificate, and how they print."""

import dataclasses
import html
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from chains import gaussian_start
from results import fabricated
from runs import KERNELS_TESTED, run

from parsample import Status
from parsample.kernels import KERNELS
from parsample.samplers.result import SampleResult


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
    assert "\n".join(lines[1:-3]) == str(result.report)
    assert lines[-3].startswith("took")
    assert "compilation" in lines[-3]
    assert lines[-2] == f"path               {result.certificate}"
    assert lines[-1] == f"draws              {result.diagnostics}"
    diverging = dataclasses.replace(result.diagnostics, num_diverging=[1, 2])
    assert "divergences        3 of 2000 steps: mistrust the tails" in repr(
        dataclasses.replace(result, diagnostics=diverging)
    )
    assert repr(dataclasses.replace(result, interrupted=True)).splitlines()[0].endswith("(interrupted)")


def test_reprs_fit_on_a_screen_and_notebooks_have_tables():
    result = run("hmc")
    for shown in (result, result.report):
        assert len(repr(shown).splitlines()) <= 15
        assert len(repr(shown)) < 2000
        assert shown._repr_html_().count("<tr>") >= 4
    assert html.escape(result.certificate) in result._repr_html_()
    assert repr(result.report) == str(result.report)


def test_the_worst_of_segments_is_the_status():
    result = run("hmc", "deer")
    stalled = result.segments[0]._replace(status=Status.STALLED)
    assert dataclasses.replace(result, segments=[stalled, *result.segments]).status is Status.STALLED


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_a_result_saves_and_summarises_itself(tmp_path, name):
    result = fabricated(Status.CONVERGED)
    result.save(str(tmp_path / name), dims={"x": ["axis"]})
    with xarray.open_datatree(tmp_path / name) as tree:
        assert tree["posterior"]["x"].dims == ("chain", "draw", "axis")
        np.testing.assert_array_equal(tree["posterior"]["y"], result.positions["y"])
    assert result.summary().count("\n") == 3  # a header, x[0], x[1] and y
    with pytest.raises(ValueError, match=r"run\.csv: the name must end in one of \.nc, \.zarr"):
        result.save(tmp_path / "run.csv")
