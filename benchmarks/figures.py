"""The figures of the suite, one PNG per group, device and precision."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.end_to_end import SAMPLERS, Summary, summaries
from benchmarks.papers import paper
from benchmarks.scaling import crossover
from benchmarks.tables import CURVES, MEASURES, File, curve, median

NAMES = {
    "blackjax": "BlackJAX",
    "sequential": "sequential",
    "auto": "auto",
    "blocks": "blocks",
    "diagonal": "diagonal",
    "dense": "dense",
    "newton": "Newton, b = 1",
    "c_loop": "C",
    "floor": "one batch",
}


# A run has the same colour in every figure.
COLOURS = {run: f"C{i}" for i, run in enumerate(NAMES)}


def draw(files: list[File], folder: Path) -> list[Path]:
    """Draw the figure of every file whose group has one; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in files:
        plot = _plot_of(file.group)
        figure = None if plot is None else plot(file)
        if figure is not None:
            versions, environment = file.environment["versions"], file.environment
            where = f"{environment['device']}, {environment['dtype']}, jax {versions['jax']}"
            figure.suptitle(f"{file.group}: {where}", fontsize=9)
            path = folder / f"{file.group}_{file.label}.png"
            figure.savefig(path, dpi=120)
            plt.close(figure)
            paths.append(path)
    return paths


def _plot_of(group: str) -> Callable[[File], Any] | None:
    if group.startswith("papers."):
        return partial(paper(group.removeprefix("papers.")).figure, panels=_panels)
    return FIGURES.get(group)


def _panels(columns: int, rows: int = 1, width: float = 4.2, height: float = 3.4) -> tuple[Any, np.ndarray]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    return figure, axes


def _bars(file: File, table: str, runs: tuple[str, ...]) -> Any:
    """Times of several runs of each row, side by side."""
    rows = [row for row in file.table(table) if any(median(row, run) for run in runs)]
    if not rows:
        return None
    figure, axes = _panels(1, width=9, height=0.6 * len(rows) + 1.5)
    axis, thick = axes[0, 0], 0.8 / len(runs)
    for i, run in enumerate(runs):
        values = [median(row, run) or np.nan for row in rows]
        axis.barh(np.arange(len(rows)) + i * thick, values, thick, label=NAMES[run], color=COLOURS[run])
    axis.set_yticks(np.arange(len(rows)) + 0.4 - thick / 2, [row["title"] for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="seconds, without compilation")
    axis.legend(fontsize=7)
    return figure


def reference(file: File) -> Any:
    """Times of every row."""
    return _bars(file, "reference", ("blackjax", "sequential", "auto", "blocks", "newton", "c_loop"))


def models(file: File) -> Any:
    """Times of the sampler."""
    return _bars(file, "models", ("sequential", "auto"))


def limit(file: File) -> Any:
    """Times of solves, and of one batched evaluation of all their steps."""
    return _bars(file, "limit", ("sequential", "blocks", "floor"))


def scaling(file: File) -> Any:
    """Time, work and sweeps against each varied size; a dotted line marks where blocks begin to pay."""
    tables = [table for table in CURVES if file.table(table)]
    if not tables:
        return None
    figure, axes = _panels(len(tables), 3)
    for column, table in zip(axes.T, tables, strict=True):
        for what, axis in zip(("seconds", "evals_per_step", "num_iters"), column, strict=True):
            for run in ("sequential", "blocks", "diagonal", "dense", "newton"):
                x, y = curve(file, table, run, what)
                if x and not (run == "sequential" and what != "seconds"):
                    axis.plot(x, y, "o-", label=NAMES[run], markersize=3, color=COLOURS[run])
            if what == "seconds":
                _mark_crossover(file, table, axis)
            axis.set(xscale="log", yscale="log", xlabel=CURVES[table], ylabel=what.replace("_", " "))
            if axis.lines:
                axis.legend(fontsize=7)
    return figure


def _mark_crossover(file: File, table: str, axis: Any) -> None:
    """A line where blocks begin to pay, if the curves cross."""
    x, blocks = curve(file, table, "blocks")
    _, sequential = curve(file, table, "sequential")
    if len(blocks) == len(sequential) > 0:
        at = crossover(x, (np.array(sequential) / np.array(blocks)).tolist())
        if np.isfinite(at):
            axis.axvline(at, color="0.6", linewidth=0.8, linestyle=":")


def end_to_end(file: File) -> Any:
    """Seconds of whole processes, and their effective sample size per second; one column per number of draws.

    Pale bars end at the time limit that the median exceeded.
    """
    found = summaries(file.table("samplers"))
    if not found:
        return None
    lengths = sorted({draws for _, draws, *_ in found})
    posteriors = list(dict.fromkeys(title for title, *_ in found))
    figure, axes = _panels(len(lengths), 2, height=0.6 * len(posteriors) + 2)
    for column, draws in zip(axes.T, lengths, strict=True):
        for axis, measure in zip(column, ("wall_seconds", "ess_per_second"), strict=True):
            rows = {key[0::3]: summary for key, summary in found.items() if key[1] == draws}
            _sampler_bars(axis, rows, posteriors, measure)
            axis.set(xscale="log")
            axis.set_title(f"{draws:,} draws per chain", fontsize=8)
            axis.set_xlabel(MEASURES[measure][0], fontsize=7)
            axis.tick_params("x", labelsize=6)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _sampler_bars(axis: Any, rows: dict[tuple[str, str], Summary], posteriors: list[str], measure: str) -> None:
    """Bars of the medians; `rows` has keys (posterior, sampler)."""
    thick = 0.8 / len(SAMPLERS)
    missing = np.inf if measure == "wall_seconds" else np.nan
    for i, (sampler, title) in enumerate(SAMPLERS.items()):
        cases = [rows.get((posterior, sampler)) for posterior in posteriors]
        medians = np.array([np.nan if case is None else case.spread(measure, missing).median for case in cases])
        limits = [case.limit if np.isinf(time) else np.nan for case, time in zip(cases, medians, strict=True)]
        places = np.arange(len(posteriors)) + i * thick
        axis.barh(places, np.where(np.isinf(medians), np.nan, medians), thick, color=f"C{i}", label=title)
        axis.barh(places, limits, thick, color=f"C{i}", alpha=0.25)
    axis.set_yticks(np.arange(len(posteriors)) + 0.4 - thick / 2, posteriors, fontsize=7)
    axis.invert_yaxis()


def profile(file: File) -> Any:
    """Time per step against lanes; and times of one iteration and of each form of the affine solve."""
    lanes, solves = file.table("lanes"), file.table("affine")
    if not lanes and not solves:
        return None
    figure, axes = _panels(2)
    for title in dict.fromkeys(row["title"] for row in lanes):
        rows = [row for row in lanes if row["title"] == title]
        for run, line in zip(rows[0]["seconds_per_step"], ("-", "--", ":", "-."), strict=False):
            values = [row["seconds_per_step"][run] or np.nan for row in rows]
            axes[0, 0].plot([row["x"] for row in rows], values, line, label=f"{title}, {run.replace('_', ' ')}")
    axes[0, 0].set(xscale="log", yscale="log", xlabel="lanes", ylabel="seconds per step of all lanes")
    for title in dict.fromkeys(row["title"] for row in solves):
        rows = [row for row in solves if row["title"] == title]
        x = [row["x"] for row in rows]
        axes[0, 1].plot(x, [row["iteration_seconds"] for row in rows], "o-", label=f"{title}, one iteration")
        for run, line in (("sequential_solve", "--"), ("associative_solve", ":")):
            values = [median(row, run) or np.nan for row in rows]
            axes[0, 1].plot(x, values, line, label=f"{title}, {run.replace('_', ' ')}")
    axes[0, 1].set(xscale="log", yscale="log", xlabel="T", ylabel="seconds")
    for axis in axes[0]:
        if axis.lines:
            axis.legend(fontsize=6)
    return figure


FIGURES: dict[str, Callable[[File], Any]] = {
    "reference": reference,
    "models": models,
    "scaling": scaling,
    "end_to_end": end_to_end,
    "limit": limit,
    "profile": profile,
}
