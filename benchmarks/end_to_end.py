"""Group "end_to_end": wall time of whole processes, from their start to draws in memory.

Importing, warm-up and compilation count. Every job is one process that runs one sampler once, and gives one row of
results. A round runs every case once, with compared cases next to each other; rounds differ in their seed. If the group
is stopped early, the numbers of rounds per case therefore differ by at most one; ``--resume`` continues with the next
process.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.posteriors import MODEL_STEMS
from benchmarks.suite import Job, Options, Row

ROOT = Path(__file__).parent.parent

# Cheap and expensive log densities, well and badly conditioned, 10 to 303 dimensions.
POSTERIORS = (
    "logistic_regression",
    "logistic_600x12",
    "logistic_4000x40",
    "eight_schools",
    "ill_conditioned_gaussian",
    "poisson_hierarchical",
    "latent_gaussian_process",
    "state_space",
)
METHODS = ("auto", "sequential")

# Compared samplers, with their titles in tables.
SAMPLERS = {
    "auto": "parsample, auto",
    "sequential": "parsample, sequential",
    "numpyro_diagonal": "NumPyro",
    "numpyro_dense": "NumPyro, dense",
    "nutpie_diagonal": "nutpie",
    "nutpie_low_rank": "nutpie, low rank",
    "blackjax_diagonal": "BlackJAX",
    "blackjax_dense": "BlackJAX, dense",
}


class Case(NamedTuple):
    """Arguments of one process, without the seed."""

    table: str
    posterior: str
    sampler: str
    num_samples: int
    num_chains: int = 4
    x64: bool = False

    @property
    def dtype(self) -> str:
        return "float64" if self.x64 else "float32"

    @property
    def name(self) -> str:
        return f"{self.posterior}, {self.sampler}, {self.num_samples} draws, {self.dtype}"

    def identity(self) -> Row:
        """Entries of a result row that identify the case."""
        return {
            "title": self.posterior,
            "sampler": self.sampler,
            "draws": self.num_samples,
            "chains": self.num_chains,
            "dtype": self.dtype,
        }

    def command(self, seed: int, limit: float) -> list[str]:
        """The command of the process."""
        options = ["--draws", self.num_samples, "--chains", self.num_chains, "--seed", seed, "--limit", limit]
        options += ["--started", time.time(), *["--x64"] * self.x64]
        return [sys.executable, "-m", "benchmarks.samplers", self.posterior, self.sampler, *map(str, options)]


class Grid(NamedTuple):
    """Models, posteriors and draws per chain of the three tables."""

    models: tuple[str, ...]
    model_draws: tuple[int, ...]
    posteriors: tuple[str, ...]
    sampler_draws: tuple[int, ...]
    banana_draws: int


GRIDS = {
    "tiny": Grid(("mixture",), (200,), ("eight_schools",), (200,), 200),
    "cpu": Grid(MODEL_STEMS, (1000, 10_000, 100_000), POSTERIORS, (10_000, 100_000), 20_000),
    "gpu": Grid(("logistic_regression",), (10_000,), POSTERIORS[:3], (10_000,), 20_000),
}


def cases(scale: str) -> Iterator[Case]:
    """All cases of one round."""
    grid, x64 = GRIDS[scale], bool(jax.config.jax_enable_x64)
    for model, draws, method in product(grid.models, grid.model_draws, METHODS):
        yield Case("models", model, method, draws, x64=x64)
    for posterior, draws, sampler in product(grid.posteriors, grid.sampler_draws, SAMPLERS):
        yield Case("samplers", posterior, sampler, draws, x64=x64)
    pairs = product(("deer", "auto"), (False, True))
    for method, in_double in islice(pairs, 1 if scale == "tiny" else None):
        yield Case("banana", "narrow_banana", method, grid.banana_draws, 1, in_double)


def jobs(options: Options) -> Iterator[Job]:
    """One job per process: all cases of the first round, then those of the next."""
    stopped: dict[tuple[str, str], int] = {}
    for number in range(1, options.repeats + 1):
        for case in cases(options.scale):
            yield Job(case.table, f"{case.name}, round {number}", partial(case_row, case, number, stopped))


def case_row(case: Case, number: int, stopped: dict[tuple[str, str], int], options: Options) -> Row:
    """The row of one process; `stopped` has the fewest draws at which each sampler exceeded the limit, and is updated.

    A sampler that exceeded the limit once is not run again with as many draws or more.
    """
    key, limit = (case.posterior, case.sampler), options.run_limit
    row = {**case.identity(), "round": number, "seed": number}
    if stopped.get(key, math.inf) <= case.num_samples:
        return {**row, "over_limit": limit, "was_run": False}
    child = subprocess.run(
        case.command(number, limit), check=False, capture_output=True, text=True, cwd=ROOT, env=child_environment()
    )
    if child.returncode == -signal.SIGALRM:
        stopped[key] = case.num_samples
        return {**row, "over_limit": limit, "was_run": True}
    if child.returncode:
        raise RuntimeError(child.stderr[-4000:])
    return {**row, **json.loads(child.stdout.splitlines()[-1])}


def child_environment() -> dict[str, str]:
    """Variables of a child process: no cache of compiled programs, and no more of a GPU's memory than it needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return {**kept, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Spread(NamedTuple):
    """Median, smallest and largest value of the rounds; infinite where the time limit was exceeded."""

    median: float
    smallest: float
    largest: float


class Summary:
    """All rounds of one case."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @property
    def limit(self) -> float:
        """The time limit that was exceeded."""
        return max((row["over_limit"] for row in self.rows if "over_limit" in row), default=math.inf)

    def spread(self, measure: str, missing: float = math.inf) -> Spread:
        """A measure over all rounds; rounds that exceeded the limit count as `missing`."""
        values = np.array([row.get(measure, missing) for row in self.rows], float)
        return Spread(float(np.median(values)), float(values.min()), float(values.max()))

    def texts(self, measure: str) -> list[str]:
        """The different texts that the rounds report."""
        return sorted({row[measure] for row in self.rows if measure in row})


def summaries(rows: Iterable[Row]) -> dict[tuple[Any, ...], Summary]:
    """Rows of one table by posterior, draws per chain, dtype and sampler, in the order of their first round."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["title"], row["draws"], row["dtype"], row["sampler"]), []).append(row)
    return {key: Summary(group) for key, group in found.items()}


def ratio_within_rounds(ours: Summary, theirs: Summary, measure: str) -> float:
    """Median over rounds of the ratio of two cases; NaN unless both finished in most rounds.

    Cases of one round share a seed: the duration of a warm-up depends more on the seed than on the case.
    """
    others = {row["round"]: row for row in theirs.rows}
    pairs = [(row, others[row["round"]]) for row in ours.rows if row["round"] in others]
    ratios = [row[measure] / other[measure] for row, other in pairs if measure in row and measure in other]
    return float(np.median(ratios)) if 2 * len(ratios) > len(pairs) else math.nan
