"""Pictures of a run: traces and ranks of the draws, paths meeting, and the front of exact states advancing."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from parsample.store import copied
from parsample.summary import scalar_components

if TYPE_CHECKING:
    import xarray

    from parsample.sampler_report import SamplerReport
    from parsample.sampling import SampleResult

# Draws per chain that a picture shows; more would hide each other.
MAX_DRAWS_SHOWN = 2000

# Variables that traces and ranks show, the first ones in order.
MAX_VARIABLES_SHOWN = 12

# Pairs of lanes that a picture shows.
MAX_PAIRS_SHOWN = 16

COLORS = ("#1b6ca8", "#e07a1f", "#3b8f5a", "#a8325e", "#6b5b95", "#8c8c3a", "#4a4a4a", "#c0504d")


def save_plots(result: "SampleResult", tree: "xarray.DataTree", directory: Path) -> list[Path]:
    """Write every picture that the run allows as PNG files; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {"traces": plot_traces(tree), "ranks": plot_ranks(tree)}
    if result.report is not None:
        figures["coalescence"] = plot_coalescence(result.report)
    if any(len(segment.block_defects) for segment in result.segments):
        figures["front"] = plot_front(result)
    paths = []
    for name, figure in figures.items():
        paths.append(directory / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def plot_traces(tree: "xarray.DataTree") -> Figure:
    """Draws of each variable against their number, one line per chain."""
    series = _series(tree)
    figure, axes = _grid(len(series), width=6.4, height=1.7)
    for axis, (name, draws) in zip(axes, series.items(), strict=True):
        stride = _stride(draws)
        for chain, values in enumerate(copied(draws[:, ::stride])):
            axis.plot(np.arange(values.size) * stride, values, lw=0.4, alpha=0.7, color=_color(chain))
        axis.set_title(name, loc="left", fontsize=9)
    for axis in axes[-2:]:
        axis.set_xlabel("draw")
    return figure


def plot_ranks(tree: "xarray.DataTree", num_bins: int = 20) -> Figure:
    """Share of each chain's draws in each rank bin, 1 where chains agree (Vehtari et al. 2021)."""
    series = _series(tree)
    figure, axes = _grid(len(series), width=6.4, height=1.7)
    for axis, (name, draws) in zip(axes, series.items(), strict=True):
        shown = copied(draws[:, :: _stride(draws)])
        ranks = shown.ravel().argsort().argsort().reshape(shown.shape) / shown.size
        for chain, values in enumerate(ranks):
            heights, edges = np.histogram(values, bins=num_bins, range=(0, 1))
            axis.stairs(heights * num_bins / values.size, edges, color=_color(chain), lw=1.2)
        axis.axhline(1, color="0.6", lw=0.8, ls="--")
        axis.set_ylim(0, None)
        axis.set_title(name, loc="left", fontsize=9)
    for axis in axes[-2:]:
        axis.set_xlabel("rank among all chains, as a fraction")
    return figure


def plot_coalescence(report: "SamplerReport") -> Figure:
    """Distance between lanes that share their randomness, one of them restarted elsewhere, against steps."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    distances = report.meeting.distances
    steps = 1 + np.arange(len(distances))
    floor = np.finfo(np.float32).eps
    for path, distance in enumerate(distances.T[:MAX_PAIRS_SHOWN]):
        axis.semilogy(steps, np.maximum(distance, floor), lw=0.9, color=_color(path))
    axis.set_xlabel("step")
    axis.set_ylabel("distance (posterior sd)")
    met = np.isfinite(report.coalescence).sum()
    axis.set_title(
        f"{met} of {report.coalescence.size} pairs met; 0 is drawn on the bottom line", loc="left", fontsize=10
    )
    return figure


def plot_front(result: "SampleResult") -> Figure:
    """Defect at every block start of the first chain, after each sweep: what is exact moves on, or drops at once."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    segments = [segment for segment in result.segments if len(segment.block_defects)]
    floor = np.finfo(np.float32).eps
    for sweep in range(max(len(segment.block_defects) for segment in segments)):
        first, times, sizes = 0, [], []
        for segment in segments:
            defects = segment.block_defects
            times.append(first + segment.block_size * np.arange(defects.shape[1]))
            sizes.append(np.maximum(defects[min(sweep, len(defects) - 1)], floor))
            first += segment.block_size * defects.shape[1]
        label = f"after sweep {sweep + 1}"
        axis.semilogy(np.concatenate(times), np.concatenate(sizes), "o", ms=3.5, color=_color(sweep), label=label)
    axis.set_ylim(float(floor) / 3, None)
    axis.set_xlabel("step of the chain")
    axis.set_ylabel("defect at block starts (posterior sd)")
    axis.set_title("a defect of 0 is drawn on the bottom line", loc="left", fontsize=10)
    axis.legend(frameon=False)
    return figure


def _series(tree: "xarray.DataTree") -> dict[str, np.ndarray]:
    """The components that traces and ranks show."""
    return dict(islice(scalar_components(tree), MAX_VARIABLES_SHOWN))


def _stride(draws: np.ndarray) -> int:
    """Every so manieth draw is shown."""
    return max(1, draws.shape[1] // MAX_DRAWS_SHOWN)


def _grid(count: int, width: float, height: float) -> tuple[Figure, list]:
    rows, columns = -(-count // 2), min(count, 2)
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]
