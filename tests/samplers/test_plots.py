"""Plots: contents of each picture of a real run, and the files."""

import dataclasses
import functools

import arviz
import jax
import numpy as np
import pytest
from chains import gaussian, gaussian_start
from matplotlib import pyplot

from parsample import Status
from parsample.samplers.plots import (
    MAX_DRAWS_SHOWN,
    MAX_PAIRS_SHOWN,
    MAX_VARIABLES_SHOWN,
    plot_block_defects,
    plot_coalescence,
    plot_draws,
    save_plots,
)
from parsample.samplers.result import SampleResult
from parsample.samplers.sample import sample

BLOCKS = "deer"


@functools.cache
def run(method: str) -> SampleResult:
    kwargs = {"num_samples": 1000, "num_warmup": 300, "num_chains": 2, "progress_bar": False}
    return sample(jax.random.key(0), gaussian, gaussian_start(), kernel="hmc", method=method, **kwargs)


def test_traces_have_one_axis_a_variable_and_one_line_a_chain():
    tree = run(BLOCKS).to_arviz(dims={"x": ["axis"]}, coords={"axis": ["left", "right"]})
    figure = plot_draws(arviz.plot_trace, tree)
    assert run(BLOCKS).status is Status.CONVERGED
    axes = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in axes] == ["x[left]", "x[right]", "y[0, 0]"]
    assert [len(axis.lines) for axis in axes] == [2, 2, 2]
    np.testing.assert_array_equal(figure.axes[1].lines[1].get_ydata(), run(BLOCKS).positions["x"][1, :, 1])
    np.testing.assert_array_equal(figure.axes[1].lines[1].get_xdata(), np.arange(1000))
    assert not pyplot.get_fignums()


def test_many_variables_and_draws_are_thinned():
    result = run(BLOCKS)
    positions = {"z": np.random.default_rng(0).normal(size=(2, 3 * MAX_DRAWS_SHOWN, 20))}
    stats = {"lp": positions["z"][..., 0]}
    tree = dataclasses.replace(result, positions=positions, sample_stats=stats).to_arviz()
    figure = plot_draws(arviz.plot_trace, tree)
    assert len(figure.axes) == MAX_VARIABLES_SHOWN
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), 3 * np.arange(MAX_DRAWS_SHOWN))


def test_coalescence_has_one_line_a_pair():
    report = run("deer").report
    figure = plot_coalescence(report)
    (axis,) = figure.axes
    assert len(axis.lines) == MAX_PAIRS_SHOWN
    assert axis.get_yscale() == "log"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "distance (posterior sd)")
    assert axis.get_title(loc="left").startswith("64 of 64 pairs met")
    floor = np.finfo(np.float32).eps
    expected = np.maximum(report.meeting.distances[:, 3], floor)
    np.testing.assert_array_equal(axis.lines[3].get_ydata(), expected)
    assert axis.lines[3].get_ydata()[-1] == floor


def test_front_has_one_row_of_points_a_sweep():
    result = run(BLOCKS)
    figure = plot_block_defects(result.segments)
    (axis,) = figure.axes
    (segment,) = result.segments
    assert len(axis.lines) == segment.num_sweeps >= 2
    assert axis.get_legend().get_texts()[0].get_text() == "after sweep 1"
    np.testing.assert_array_equal(axis.lines[0].get_xdata(), 32 * np.arange(32))
    defects = np.maximum(segment.block_defects[0], np.finfo(np.float32).eps)
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), defects)
    assert axis.lines[-1].get_ydata().max() == np.finfo(np.float32).eps
    assert "bottom line" in axis.get_title(loc="left")


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("sequential", ["traces", "ranks"]),
        ("deer", ["traces", "ranks", "coalescence", "front"]),
    ],
    ids=["sequential", "deer"],
)
def test_pictures_are_written(tmp_path, method, names):
    result = run(method)
    paths = save_plots(result.plot(), tmp_path / "new" / "pictures")
    assert [path.stem for path in paths] == names
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_a_result_draws_its_pictures_itself():
    figures = run(BLOCKS).plot()
    assert list(figures) == ["traces", "ranks", "coalescence", "front"]
    assert len(figures["coalescence"].axes[0].lines) == MAX_PAIRS_SHOWN
    assert list(run("sequential").plot()) == ["traces", "ranks"]


def test_one_chain_has_pictures_without_ranks():
    one = run(BLOCKS)
    positions = {name: draws[:1] for name, draws in one.positions.items()}
    stats = {name: draws[:1] for name, draws in one.sample_stats.items()}
    single = dataclasses.replace(one, positions=positions, sample_stats=stats)
    assert list(single.plot()) == ["traces", "coalescence", "front"]
