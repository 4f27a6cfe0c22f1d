"""Figures of a run: traces and ranks of the draws, distances of paths until they meet, and defects of the blocks."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import arviz
import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

from parsample.draws.store import copied
from parsample.draws.summary import scalar_components
from parsample.internal.arithmetic import ceil_div

if TYPE_CHECKING:
    import xarray

    from parsample.lanes.segments import Segment
    from parsample.planning.report import Report

# Maximum number of draws per chain in a figure; more would overlap.
MAX_DRAWS_SHOWN = 2000

# Maximum number of variables in traces and ranks; the first ones are shown.
MAX_VARIABLES_SHOWN = 12

# Maximum number of pairs of lanes in a figure.
MAX_PAIRS_SHOWN = 16

COLORS = ("#1b6ca8", "#e07a1f", "#3b8f5a", "#a8325e", "#6b5b95", "#8c8c3a", "#4a4a4a", "#c0504d")


def figures(tree: "xarray.DataTree", report: "Report | None", segments: Sequence["Segment"]) -> dict[str, Figure]:
    """All figures of a run by name: traces; ranks of several chains; coalescence, if checked; front, if in blocks."""
    drawn = {"traces": plot_draws(arviz.plot_trace, tree)}
    if tree["posterior"].sizes["chain"] > 1:  # ranks compare chains
        drawn["ranks"] = plot_draws(arviz.plot_rank, tree)
    if report is not None:
        drawn["coalescence"] = plot_coalescence(report)
    if any(len(segment.block_defects) for segment in segments):
        drawn["front"] = plot_block_defects(segments)
    return drawn


def save_plots(drawn: Mapping[str, Figure], directory: Path) -> list[Path]:
    """Write each figure to a PNG file of its name; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        paths.append(directory / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def plot_draws(plot: Callable, tree: "xarray.DataTree") -> Figure:
    """Figure of the thinned draws of the first variables; `plot` is an ArviZ function such as ``arviz.plot_rank``."""
    stride = max(1, tree["posterior"].sizes["draw"] // MAX_DRAWS_SHOWN)
    series = islice(scalar_components(tree, stride), MAX_VARIABLES_SHOWN)
    thinned = {name: copied(draws) for name, draws in series}
    numbers = stride * np.arange(next(iter(thinned.values())).shape[1])
    shown = arviz.from_dict({"posterior": thinned}, coords={"draw": numbers})
    size = (12.8, 1.9 * ceil_div(len(thinned), 2) + 0.4)
    collection = plot(shown, backend="matplotlib", col_wrap=2, figure_kwargs={"figsize": size, "layout": "constrained"})
    figure = collection.viz["figure"].item()
    pyplot.close(figure)  # pyplot would keep it open, and warn after 20 figures
    return figure


def plot_coalescence(report: "Report") -> Figure:
    """Plot distances against steps, for pairs of lanes with common keys, one of each pair restarted elsewhere."""
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


def plot_block_defects(segments: Sequence["Segment"]) -> Figure:
    """Plot the defect at each block start of the first chain after each sweep; the prefix with defect 0 is exact."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    segments = [segment for segment in segments if len(segment.block_defects)]
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


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]
