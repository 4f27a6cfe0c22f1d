"""One group of the suite: ``python -m benchmarks.run GROUP``; results go to ``benchmarks/results/``.

Groups: reference (work with published figures), models (the sampler on models/), scaling (against steps, dimension,
data, chains, block size), end_to_end (whole processes, from their start to draws in memory, by parsample and by NUTS of
BlackJAX, NumPyro and nutpie), warmup (its quality and cost in two versions), limit (solves against one batched
evaluation of all steps), long_runs (memory, time and disk of long runs, by where draws go), survival (runs that are
killed at random instants), soak (hours of random runs that are killed and resumed, and of refits in one process), and
profile (where a sweep spends its time).
"""

import argparse
import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.suite import RESULTS, Options, Row, is_measured, run_jobs
from benchmarks.timing import environment, use_cores

GROUPS = ("reference", "models", "scaling", "end_to_end", "warmup", "limit", "long_runs", "survival", "soak", "profile")

# Groups whose work is done by child processes.
WITH_CHILDREN = ("end_to_end", "warmup", "long_runs", "survival", "soak")

# Default seconds of a group, for two CPU cores.
BUDGET = 540.0


def run_group(group: str, options: Options, resume: bool = False) -> list[Row]:
    """Run a group in this process."""
    module = importlib.import_module(f"benchmarks.{group}")
    return run_jobs(group, module.jobs(options), options, resume)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("group", choices=GROUPS)
    made.add_argument("--tiny", action="store_true", help="small sizes, only to test that everything runs")
    made.add_argument("--x64", action="store_true", help="float64")
    made.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores to use (default: all)")
    made.add_argument("--repeats", type=int, default=5, help="timed rounds (end_to_end: processes of each case)")
    made.add_argument("--budget", type=float, default=BUDGET, help="seconds after which further jobs are skipped")
    made.add_argument("--job-seconds", type=float, default=15.0, help="seconds that timed rounds of a job may take")
    made.add_argument("--run-limit", type=float, default=600.0, help="seconds after which a sampler is stopped")
    made.add_argument("--instants", type=int, default=60, help="survival: signals of each kind")
    made.add_argument("--seed", type=int, default=0, help="survival, soak: seed of the instants")
    made.add_argument("--minutes", type=float, default=120.0, help="soak: length of the whole group")
    made.add_argument("--only", help='only jobs whose "table: name" contains this; other rows of the file are kept')
    made.add_argument("--resume", action="store_true", help="only jobs that were skipped or failed before")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if no job failed."""
    chosen = parser().parse_args(arguments)
    if chosen.group in WITH_CHILDREN:
        # Before JAX starts: the memory of a GPU is left to the children.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if jax.default_backend() == "cpu":
        use_cores(chosen.cores)
    if chosen.x64:
        jax.config.update("jax_enable_x64", True)
    print(environment(), flush=True)
    options = Options(
        scale="tiny" if chosen.tiny else "cpu" if jax.default_backend() == "cpu" else "gpu",
        repeats=1 if chosen.tiny else chosen.repeats,
        budget=math.inf if chosen.group == "soak" else chosen.budget,  # which has --minutes
        job_seconds=chosen.job_seconds,
        cores=chosen.cores,
        run_limit=chosen.run_limit,
        instants=3 if chosen.tiny else chosen.instants,
        seed=chosen.seed,
        minutes=chosen.minutes,
        only=chosen.only,
        out=chosen.out,
    )
    rows = run_group(chosen.group, options, chosen.resume)
    skipped = sum("skipped" in row for row in rows)
    failed = sum("error" in row for row in rows)
    print(f"{sum(map(is_measured, rows))} jobs done, {skipped} skipped, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
