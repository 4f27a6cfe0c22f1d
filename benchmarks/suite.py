"""Shared by all groups of the suite: options of a run, jobs, and results, which are written after every job."""

import json
import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import parsample
from benchmarks.timing import environment, measure

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Sizes, repeats and time limits of a run.

    Attributes
    ----------
    scale
        Which sizes: "tiny" (a rehearsal), "cpu" or "gpu".
    repeats
        Timed rounds after the one that compiles.
    budget
        Seconds for the whole group: jobs that would begin later are skipped, and the results say so.
    job_seconds
        Seconds that the timed rounds of a job may take, beyond the first.
    cores
        CPU cores that child processes may use; None: JAX's default.
    run_limit
        Seconds after which a process that runs one sampler is stopped.
    instants
        Signals of each kind that group "survival" sends at least.
    seed
        Seed of these instants, and of group "soak".
    minutes
        Length of group "soak".
    only
        Jobs whose "table: name" contains this text; None: all.
    out
        Folder of the results.
    deadline
        Time by which the group should end, by `time.perf_counter`.
    """

    scale: str = "cpu"
    repeats: int = 5
    budget: float = 540.0
    job_seconds: float = 15.0
    cores: int | None = None
    run_limit: float = 600.0
    instants: int = 60
    seed: int = 0
    minutes: float = 120.0
    only: str | None = None
    out: Path = field(default=RESULTS)
    deadline: float = math.inf

    def measure(
        self, runs: dict[str, Callable[[], Any]], apart: Callable[[Any], float] = lambda _: 0.0
    ) -> dict[str, Row]:
        """`benchmarks.timing.measure` with the repeats and time limits of these options."""
        return measure(runs, self.repeats, self.job_seconds, self.deadline, apart)

    def sequential_steps(self, num_steps: int) -> int:
        """Steps of a sequential run that are timed; accelerators take so long that the rest is extrapolated."""
        return min(num_steps, 4096) if self.scale == "gpu" else num_steps


class Job(NamedTuple):
    """One row of a table: its names, and the function that measures it."""

    table: str
    name: str
    run: Callable[[Options], Row]

    @property
    def title(self) -> str:
        return f"{self.table}: {self.name}"


class Results:
    """Rows of one group in one file, written after every job."""

    def __init__(self, group: str, out: Path, keep: bool = False) -> None:
        self.environment = environment()
        self.path = out / f"{group}_{device_label(self.environment)}_{self.environment['dtype']}.json"
        self.group = group
        self.rows: list[Row] = []
        if keep and self.path.exists():
            content = json.loads(self.path.read_text())
            if content["environment"] != self.environment:
                raise SystemExit(f"{self.path} was measured in another environment; choose another --out.")
            self.rows = content["rows"]

    def has(self, job: Job) -> bool:
        """Whether the job has been done before."""
        return any(_is_of(row, job) and is_measured(row) for row in self.rows)

    def add(self, job: Job, row: Row) -> None:
        """Write the row of a job, in place of any earlier one."""
        self.rows = [other for other in self.rows if not _is_of(other, job)]
        self.rows.append({"table": job.table, "name": job.name, **row})
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"group": self.group, "environment": self.environment}, indent=1).removesuffix("\n}")
        # A row per line: groups of many processes have hundreds.
        rows = ",\n  ".join(map(json.dumps, self.rows))
        self.path.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n')


def device_label(found: dict[str, Any]) -> str:
    """A device's name as part of a file name."""
    return "cpu" if found["platform"] == "cpu" else "-".join(found["device"].lower().split())


def is_measured(row: Row) -> bool:
    """Whether a row holds measurements, and not the reason why there are none."""
    return "skipped" not in row and "error" not in row


def _is_of(row: Row, job: Job) -> bool:
    return (row["table"], row["name"]) == (job.table, job.name)


def run_jobs(group: str, jobs: Iterable[Job], options: Options, resume: bool = False) -> list[Row]:
    """Run the jobs of a group one after another, even if some fail; the rows are written and returned.

    With `resume`, jobs that were measured before are not run again; with `options.only`, rows of other jobs are kept.
    """
    results = Results(group, options.out, keep=resume or options.only is not None)
    results.write()
    begin = time.perf_counter()
    options = replace(options, deadline=begin + options.budget)
    for job in jobs:
        if (resume and results.has(job)) or (options.only and options.only not in job.title):
            continue
        spent = time.perf_counter() - begin
        if spent > options.budget:
            results.add(job, {"skipped": f"the budget of {options.budget:.0f} s was spent"})
            continue
        row = _row(job, options)
        results.add(job, {**row, "job_seconds": time.perf_counter() - begin - spent})
        print(_line(results.rows[-1]), flush=True)
    return results.rows


def _row(job: Job, options: Options) -> Row:
    try:
        with warnings.catch_warnings():
            # That blocks do not pay is a result here, and is recorded in the row.
            warnings.simplefilter("ignore", parsample.ParallelStallWarning)
            return job.run(options)
    except Exception:  # one failing job must not cost the others
        return {"error": traceback.format_exc()}


def _line(row: Row) -> str:
    """One line of progress output for a row."""
    head = f"{row['table']}: {row['name']} ({row['job_seconds']:.0f} s)"
    if not is_measured(row):
        return f"{head} {row.get('skipped') or row['error']}"
    if "wall_seconds" in row:
        return f"{head} {row['wall_seconds']:.4g} s"
    times = (
        f"{name} {run['seconds']['median']:.4g} s" for name, run in row.get("runs", {}).items() if "seconds" in run
    )
    return f"{head} {', '.join(times)}"
