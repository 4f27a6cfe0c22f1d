"""The tables of the results of `benchmarks.run`, as Markdown."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import soak as soaked
from benchmarks import survival as signals
from benchmarks import targets as goals
from benchmarks.end_to_end import SAMPLERS as SAMPLER_TITLES
from benchmarks.end_to_end import Summary, ratio_within_rounds, summaries
from benchmarks.scaling import crossover, exponent
from benchmarks.suite import Row, device_label, is_measured


class File(NamedTuple):
    """One file of results."""

    group: str
    environment: dict[str, Any]
    rows: list[Row]

    @property
    def label(self) -> str:
        """Device and precision, as part of a file name."""
        return f"{device_label(self.environment)}_{self.environment['dtype']}"

    def table(self, name: str) -> list[Row]:
        """The measured rows of a table."""
        return [row for row in self.rows if row["table"] == name and is_measured(row)]


def load(folder: Path) -> list[File]:
    """All results in a folder, by name."""
    contents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [
        File(content["group"], content["environment"], content["rows"]) for content in contents if "group" in content
    ]


def duration(seconds: float | None) -> str:
    """Seconds as text with a unit, s or ms."""
    if seconds is None or not np.isfinite(seconds):
        return "-"
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1000 * seconds:.3g} ms"


def median(row: Row, run: str) -> float | None:
    """Median seconds of a run, if it was made."""
    return row["runs"].get(run, {}).get("seconds", {}).get("median")


def gain(row: Row, run: str, baseline: str = "sequential") -> str:
    """Speed-up over the baseline, as text."""
    ours, theirs = median(row, run), median(row, baseline)
    return "-" if not ours or not theirs else f"{theirs / ours:.2g}x"


def cell(row: Row, run: str) -> str:
    """Median time of a run, with a star if it was extrapolated from a part of the run."""
    mark = "*" if "extrapolated_from" in row["runs"].get(run, {}) else ""
    return duration(median(row, run)) + mark


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def reference(file: File) -> str:
    """Chains with published times."""
    rows = file.table("reference")
    header = ("chain", "BlackJAX", "sequential", "auto", "best blocks", "Newton, b = 1", "C", "published")
    runs = ("blackjax", "sequential", "auto", "blocks")
    body = []
    for row in rows:
        work, newton = row["work"], row["runs"].get("newton")
        chains = f", {work['num_chains']} chains" if work.get("num_chains", 1) > 1 else ""
        iterations = f" ({newton['num_iters']} iterations)" if newton else ""
        cells = [cell(row, run) for run in runs]
        cells[-1] += f" ({row['blocks_setting']})" if "blocks_setting" in row else ""
        title = f"{row['title']}, T = {work['T']:,}{chains}"
        body.append([title, *cells, cell(row, "newton") + iterations, cell(row, "c_loop"), row.get("published") or "-"])
    return markdown(header, body)


def targets(file: File) -> str:
    """Targets, and whether they were reached."""
    body = goals.table(file.table("reference"), file.environment["dtype"])
    return markdown(("chain", "target", "auto", "reached"), body)


def models(file: File) -> str:
    """The sampler on model files."""
    header = (
        "model",
        "T",
        "contraction rate, nats per step",
        "verdict",
        "sequential",
        "auto, check included",
        "gain",
        "defect",
        "evaluations per step",
    )
    body = []
    for row in file.table("models"):
        auto = row["runs"]["auto"]
        # The contraction rate of pairs; older results have the Lyapunov exponent instead.
        rate = row.get("contraction_rate", row.get("lle"))
        lle = "-" if rate is None else f"{rate:+.2f}"
        verdict = "parallel" if row["parallel"] else "sequential"
        figures = (f"{auto['defect']:.1e}", f"{auto['evals_per_step']:.2f}")
        times = (cell(row, "sequential"), cell(row, "auto"), gain(row, "auto"))
        body.append([row["title"], f"{row['work']['T']:,}", lle, verdict, *times, *figures])
    return markdown(header, body)


def work(file: File) -> str:
    """Evaluations per step in blocks, and the cost of lanes in lockstep."""
    body = []
    for row in file.table("work"):
        run, gathered = row["runs"]["blocks"], row.get("evals_if_gathered")
        body.append(
            [
                row["title"],
                f"{row['work']['num_lanes']:,}" if "num_lanes" in row["work"] else "-",
                f"{run['evals_per_step']:.2f}",
                f"{gathered:.2f}" if gathered else "-",
                f"{row['lockstep']:.2f}" if "lockstep" in row else "-",
                f"{run['defect']:.1e}",
                run["status"],
            ]
        )
    header = ("in blocks", "lanes", "evaluations per step", "if lanes that have met cost nothing")
    return markdown((*header, "longest of 64 trajectories / mean", "largest defect", "status"), body)


CURVES = {
    "steps": "steps T (banana)",
    "dimensions": "dimension D (Gaussian)",
    "rows": "rows of data (logistic, D = 10)",
    "chains": "chains K (logistic, 569 rows)",
    "blocks": "block size b (banana)",
    "newton": "steps T (Newton, b = 1)",
}


def curve(file: File, table: str, run: str, what: str = "seconds") -> tuple[list[float], list[float]]:
    """One curve of group "scaling": x, and seconds, work or sweeps of a run."""
    rows = [row for row in sorted(file.table(table), key=lambda row: row["x"]) if run in row["runs"]]
    values = [median(row, run) if what == "seconds" else row["runs"][run][what] for row in rows]
    return [row["x"] for row in rows], [value or float("nan") for value in values]


def scaling(file: File) -> str:
    """Exponents and crossovers."""
    body = []
    for table, title in CURVES.items():
        for run in ("sequential", "blocks", "newton"):
            x, seconds = curve(file, table, run)
            if not x or (table == "blocks" and run == "sequential"):
                continue
            crossing = "-"
            if run == "blocks" and table != "blocks":
                ratio = np.array(curve(file, table, "sequential")[1]) / np.array(seconds)
                at = crossover(x, ratio.tolist())
                crossing = _crossing(ratio, at)
            span = f"{x[0]:,} to {x[-1]:,}"
            work, sweeps = curve(file, table, run, "evals_per_step")[1], curve(file, table, run, "num_iters")[1]
            most = "-" if run == "sequential" else f"{max(sweeps):.0f}"
            power = f"{exponent(x, seconds):.2f}"
            body.append([title, run, span, power, f"{work[0]:.2f} to {work[-1]:.2f}", most, crossing])
    header = ("varied", "evaluation", "from, to", "exponent of time", "work per step", "most sweeps", "blocks pay")
    return markdown(header, body)


def _crossing(ratio: np.ndarray, at: float) -> str:
    if np.isfinite(at):
        return f"from {at:,.0f}"
    return "everywhere" if (ratio > 1).all() else "nowhere" if (ratio <= 1).all() else "at the low end"


def _seconds_of_rounds(summary: Summary, measure: str) -> str:
    """Median, smallest and largest of several rounds, or the limit that the median exceeded."""
    spread = summary.spread(measure)
    if np.isinf(spread.median):
        return f">{duration(summary.limit)}"
    largest = f">{duration(summary.limit)}" if np.isinf(spread.largest) else duration(spread.largest)
    return f"{duration(spread.median)} ({duration(spread.smallest)} to {largest})"


def _rate_of_rounds(summary: Summary, measure: str) -> str:
    """Median, smallest and largest rate; 0 where the limit was exceeded."""
    spread = summary.spread(measure, missing=0.0)
    median, smallest, largest = (f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}" for rate in spread)
    return f"{median} ({smallest} to {largest})" if spread.median else "-"


# Tables of the samplers: measure, caption, and the function that formats a cell.
MEASURES: dict[str, tuple[str, Callable[[Summary, str], str]]] = {
    "wall_seconds": ("Seconds from the start of the process to draws in memory", _seconds_of_rounds),
    "seconds_after_imports": ("Of these, after importing", _seconds_of_rounds),
    "cpu_seconds": ("CPU seconds", _seconds_of_rounds),
    "ess_per_second": ("Smallest bulk ESS per second of the whole process", _rate_of_rounds),
}


def end_to_end(file: File) -> str:
    """Whole processes of all samplers: one table per measure, one row per posterior and number of draws."""
    found = summaries(file.table("samplers"))
    works = list(dict.fromkeys(key[:3] for key in found))
    header = ("posterior", "draws per chain", *SAMPLER_TITLES.values())
    parts = []
    for measure, (caption, write) in MEASURES.items():
        body = []
        for work in works:
            cases = (found.get((*work, sampler)) for sampler in SAMPLER_TITLES)
            cells = ["-" if case is None else write(case, measure) for case in cases]
            body.append([work[0], f"{work[1]:,}", *cells])
        parts.append(f"{caption}, median (smallest to largest):\n\n{markdown(header, body)}")
    return "\n\n".join(parts)


def end_to_end_models(file: File) -> str:
    """Whole processes on model files, as planned against step by step; ratios are medians over rounds."""
    found = summaries(file.table("models"))
    body = []
    for *work, sampler in found:
        pair = [found.get((*work, method)) for method in ("auto", "sequential")]
        if sampler == "auto" and None not in pair:
            body.append([work[0], f"{work[1]:,}", *_pair_cells(*pair), *_work_cells(pair[0])])
    header = (
        "model",
        "draws per chain",
        "auto",
        "sequential",
        "auto / sequential",
        "ratio after importing",
        "ratio of CPU seconds",
    )
    return markdown((*header, "evaluations per step", "defect", "programs compiled", "certified"), body)


def _pair_cells(auto: Summary, sequential: Summary) -> list[str]:
    measures = ("wall_seconds", "seconds_after_imports", "cpu_seconds")
    ratios = (ratio_within_rounds(auto, sequential, measure) for measure in measures)
    times = [_seconds_of_rounds(case, "wall_seconds") for case in (auto, sequential)]
    return [*times, *("-" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios)]


def _work_cells(summary: Summary) -> list[str]:
    """Median work, largest defect, median number of programs, and whether every round is certified."""
    heads = {text.split(":")[0] for text in summary.texts("certificate")}
    work, programs = (summary.spread(name).median for name in ("evals_per_step", "num_programs"))
    largest_defect = summary.spread("defect", missing=0.0).largest
    certified = "yes" if heads == {"certified"} else "NO" if heads else "-"
    return [f"{work:.2f}", f"{largest_defect:.1e}", f"{programs:.0f}", certified]


def end_to_end_banana(file: File) -> str:
    """Work of one chain of the narrow banana."""
    body = []
    for (_, draws, dtype, method), summary in summaries(file.table("banana")).items():
        sweeps = [row["num_sweeps"] for row in summary.rows if row.get("num_sweeps") is not None]
        span = f"{np.median(sweeps):.0f} ({min(sweeps)} to {max(sweeps)})" if sweeps else "-"
        spread = summary.spread("evals_per_step")
        evals = f"{spread.median:.2f} ({spread.smallest:.2f} to {spread.largest:.2f})"
        body.append([f"{draws:,}", dtype, method, evals, span, *_work_cells(summary)[1::2]])
    return markdown(("draws", "dtype", "method", "evaluations per step", "sweeps", "defect", "certified"), body)


def warmup(file: File) -> str:
    """Quality of draws after each version's warm-up: medians, sum of divergences and largest R-hat of the rounds."""
    header = ("model", "warm-up", "rounds", "ESS per draw", "ESS per gradient", "divergences", "R-hat", "CPU seconds")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(file.table("warmup"), key=lambda row: row["title"]):
        groups.setdefault((row["title"], row["version"]), []).append(row)
    body = []
    for (title, version), rows in groups.items():
        middle = {name: float(np.median([row[name] for row in rows])) for name in ("ess_per_draw", "ess_per_gradient")}
        body.append(
            [
                title,
                version,
                str(len(rows)),
                *(f"{value:.2g}" for value in middle.values()),
                f"{sum(row['num_diverging'] for row in rows):,}",
                f"{max(row['r_hat'] for row in rows):.3f}",
                f"{np.median([row['cpu_seconds'] for row in rows]):.1f}",
            ]
        )
    return markdown(header, body)


def limit(file: File) -> str:
    """Times of solves against one batched evaluation of all steps."""
    device = file.table("device")
    header = (
        "chain",
        "sequential",
        "blocks",
        "one batch of all steps",
        "blocks over batch",
        "hardware bound of gradients",
    )
    body = []
    for row in file.table("limit"):
        bound = "-"
        if device:
            operations = row["gradient_operations"] / device[0]["operations_per_second"]
            traffic = row["gradient_bytes"] / device[0]["bytes_per_second"]
            what = "operations" if operations > traffic else "bytes"
            bound = f"{duration(max(operations, traffic))} ({what})"
        title = f"{row['title']}, T = {row['work']['T']:,}"
        times = [cell(row, run) for run in ("sequential", "blocks", "floor")]
        body.append([title, *times, f"{row['ratio']:.2f}", bound])
    return markdown(header, body)


def long_runs(file: File) -> str:
    """Memory, time and disk of long runs."""
    header = (
        "draws go to",
        "steps per chain",
        "peak above the memory after imports",
        "whole process",
        "sampling",
        "disk",
    )
    body = [
        [
            row["case"],
            f"{row['work']['T']:,}",
            f"{row['over_baseline_mib']:.0f} MiB",
            duration(row["wall_seconds"]),
            duration(row["sampling_seconds"]),
            f"{row['disk_bytes'] / 2**20:.1f} MiB" if row["disk_bytes"] else "-",
        ]
        for row in file.table("long_runs")
    ]
    return markdown(header, body)


def survival(file: File) -> str:
    """What signals hit, and what they did."""
    return markdown(*signals.table(file.table("survival")))


def soak(file: File) -> str:
    """Rounds of random runs, and refits."""
    return "\n\n".join(markdown(*table) for table in soaked.tables(file.table("soak")) if table[1])


AFFINE_FORMS = ("sequential", "associative")


def profile(file: File) -> str:
    """The affine solve's share of one iteration of Newton's method."""
    body = [
        [
            row["title"],
            f"{row['x']:,}",
            duration(row["iteration_seconds"]),
            *(cell(row, f"{form}_solve") for form in AFFINE_FORMS),
            "-" if row["solve_share"] is None else f"{100 * row['solve_share']:.0f}%",
        ]
        for row in file.table("affine")
    ]
    forms = (f"solve, {form}" for form in AFFINE_FORMS)
    return markdown(("dimension", "T", "one iteration", *forms, "share of the solve (form in use)"), body)


# Tables by the name in the markers: group of the results, and the function that writes the table.
TABLES: dict[str, tuple[str, Callable[[File], str]]] = {
    "reference": ("reference", reference),
    "targets": ("reference", targets),
    "models": ("models", models),
    "work": ("models", work),
    "scaling": ("scaling", scaling),
    "end_to_end": ("end_to_end", end_to_end),
    "end_to_end_models": ("end_to_end", end_to_end_models),
    "end_to_end_banana": ("end_to_end", end_to_end_banana),
    "warmup": ("warmup", warmup),
    "limit": ("limit", limit),
    "long_runs": ("long_runs", long_runs),
    "survival": ("survival", survival),
    "soak": ("soak", soak),
    "profile": ("profile", profile),
}
