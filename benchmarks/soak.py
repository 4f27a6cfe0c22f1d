"""Group "soak": hours of random runs that are killed and resumed, in one process and in two, and of refits in one.

A round draws a model, its settings and a precision, runs it without interruption, and then as a series of processes
that get SIGKILL, SIGINT or SIGTERM at random instants, until it is complete. After every process the store is compared
bitwise with the run that nothing interrupted. With two processes, one or both are struck; the other has to end by
itself, and the run goes on with two processes or with one. The refits are one process that fits new data again and
again; what it holds has to level off.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.end_to_end import ROOT, child_environment
from benchmarks.suite import Job, Options, Row
from benchmarks.survival import DAMAGE, Findings, Strike, Trial, Whole, at_instant, one_run

# Signals of a round, at most; then its last process is let end.
MAX_SIGNALS = {"tiny": 2, "cpu": 6, "gpu": 6}

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)

# Models that are cheap, so that a minute holds many instants.
MODELS = ("mixture", "banana", "funnel", "eight_schools", "eight_schools_centered", "logistic_regression")

# Choices of a round, by the arguments of `sample`.
CHOICES: dict[str, Sequence[Any]] = {
    "kernel": ("hmc", "nuts", "mala", "metropolis"),
    "method": ("auto", "sequential"),
    "num_chains": (1, 2, 4, 5),
    "thin": (1, 1, 2, 5),
    "num_lanes": (8, 16, 32),
    "x64": (False, True),
}

# Smallest and largest number of steps per chain; draws are fewer if runs are thinned.
NUM_STEPS = {"tiny": (9_000, 10_000), "cpu": (30_000, 300_000), "gpu": (30_000, 300_000)}

# First share of the refits, in which caches fill.
BURN_IN = 1 / 3

# What a process holds beside memory, by the names of `one_soak.held`.
HELD = {"objects": "Python objects", "threads": "threads", "open_files": "open files"}


class Pair(Trial):
    """A run of one or two processes, drawn anew each time that it goes on; it begins with two."""

    def __init__(self, folder: Path, settings: dict[str, Any], rng: np.random.Generator) -> None:
        super().__init__(folder, (settings.pop("model"),))
        self.settings, self.rng = settings, rng

    def start(self) -> list[subprocess.Popen]:
        """Begin the run, or go on with it."""
        is_begun = self.store.exists()
        number = 1 if is_begun and self.rng.random() < 0.3 else 2
        settings = json.dumps({**self.settings, "is_begun": is_begun})
        port = _free_port()
        return [
            self.spawn(
                ("benchmarks.one_soak", "member", port, rank, number, self.store, *self.arguments, settings), rank
            )
            for rank in range(number)
        ]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def drawn(rng: np.random.Generator, scale: str) -> dict[str, Any]:
    """A model file, and settings of a run."""
    chosen = {name: values[rng.integers(len(values))] for name, values in CHOICES.items()}
    smallest, largest = np.log(NUM_STEPS[scale])
    num_steps = int(np.exp(rng.uniform(smallest, largest)))
    model = ROOT / "models" / f"{MODELS[rng.integers(len(MODELS))]}.py"
    return {"model": str(model), "seed": int(rng.integers(1000)), "num_samples": num_steps // chosen["thin"], **chosen}


def command_line(settings: dict[str, Any]) -> list[str]:
    """Settings as arguments of ``parsample sample``."""
    options = {name: value for name, value in settings.items() if name not in ("model", "x64")}
    written = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [settings["model"], *written, *["--x64"] * settings["x64"]]


def jobs(_options: Options) -> Iterator[Job]:
    """Each gets a third of the time."""
    for name, make, strike in (("one process", _one, strike_one), ("two processes", _two, strike_some)):
        yield Job("soak", name, partial(rounds_row, name, make, strike))
    yield Job("soak", "refits", refits_row)


def _one(folder: Path, settings: dict[str, Any], _rng: np.random.Generator) -> Trial:
    return Trial(folder, command_line(settings))


def _two(folder: Path, settings: dict[str, Any], rng: np.random.Generator) -> Trial:
    return Pair(folder, dict(settings), rng)


def strike_one(
    rng: np.random.Generator, processes: list[subprocess.Popen], trial: Trial, whole: Whole
) -> signal.Signals | None:
    """Strike the first process with any signal."""
    return at_instant(rng, SIGNALS[rng.integers(len(SIGNALS))], processes, trial, whole)


def strike_some(
    rng: np.random.Generator, processes: list[subprocess.Popen], trial: Trial, whole: Whole
) -> signal.Signals | None:
    """Strike one or all; JAX keeps SIGTERM for itself in processes that belong together."""
    ranks = range(len(processes))
    victims = list(ranks) if rng.random() < 0.5 else [int(rng.integers(len(ranks)))]
    return at_instant(rng, SIGNALS[rng.integers(2)], processes, trial, whole, victims)


def rounds_row(
    name: str,
    make: Callable[[Path, dict[str, Any], np.random.Generator], Trial],
    strike: Callable[..., signal.Signals | None],
    options: Options,
) -> Row:
    """Rounds until the time is over; those that did damage are listed with their settings."""
    rng, begin, findings = np.random.default_rng([options.seed, len(name)]), time.perf_counter(), Findings()
    strikes: list[Strike] = [partial(strike, rng)] * MAX_SIGNALS[options.scale]
    damaged: list[dict[str, Any]] = []
    while not findings.runs or time.perf_counter() < begin + _seconds(options):
        settings, before = drawn(rng, options.scale), findings.damage()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            try:
                whole = Whole.of(make(Path(directory) / "whole", settings, rng))
            except RuntimeError as error:
                findings.failures.append(f"without a signal: {error}")
            else:
                one_run(make(Path(directory) / "struck", settings, rng), whole, strikes, findings)
        findings.runs += 1
        if findings.damage() > before:
            damaged.append({**settings, "model": Path(settings["model"]).stem, "round": findings.runs})
    return {
        "title": name,
        "seed": options.seed,
        "minutes": (time.perf_counter() - begin) / 60,
        "wall_seconds": time.perf_counter() - begin,
        **findings.as_row(),
        "damaged": damaged,
    }


def _seconds(options: Options) -> float:
    """Seconds of each job; 0, which means one round, in a rehearsal."""
    return 0.0 if options.scale == "tiny" else 60 * options.minutes / 3


def refits_row(options: Options) -> Row:
    """What a process that goes on fitting holds after its burn-in and at its end, and how its memory grows."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.one_soak", "refits", str(_seconds(options)), str(options.seed)]
    child = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=child_environment(),
        timeout=_seconds(options) + options.run_limit,
    )
    if child.returncode:
        raise RuntimeError(f"exit code {child.returncode}: {child.stderr[-4000:]}")
    turns = [json.loads(line) for line in child.stdout.splitlines()]
    return {
        "title": "refits",
        "seed": options.seed,
        "minutes": (time.perf_counter() - begin) / 60,
        "wall_seconds": time.perf_counter() - begin,
        **levels(turns),
    }


def levels(turns: list[dict[str, int]]) -> Row:
    """Memory, threads and open files after the burn-in and at the end, and MiB per 100 turns between.

    The slope is the median over all pairs of turns (Theil and Sen), which single large fits do not move.
    """
    first, last = turns[int(BURN_IN * len(turns))], turns[-1]
    mib = np.array([turn["resident_bytes"] for turn in turns[int(BURN_IN * len(turns)) :]]) / 2**20
    later, earlier = np.tril_indices(len(mib), -1)
    slopes = (mib[later] - mib[earlier]) / (later - earlier)
    return {
        "turns": last["turn"],
        "burn_in_turns": first["turn"],
        "burn_in_mib": float(mib[0]),
        "end_mib": float(mib[-1]),
        "mib_per_100_turns": float(100 * np.median(slopes)) if slopes.size else 0.0,
        "peak_mib": last["peak_bytes"] / 2**20,
        **{f"burn_in_{what}": first[what] for what in HELD},
        **{f"end_{what}": last[what] for what in HELD},
        # Every tenth turn, as a curve.
        "curve_mib": [round(turn["resident_bytes"] / 2**20) for turn in turns[::10]],
    }


def tables(rows: list[Row]) -> list[tuple[list[str], list[Sequence[str]]]]:
    """Header and body of two tables: of rounds, and of refits."""
    counts = {"runs": "rounds", "processes": "processes", "instants": "signals", "values_compared": "values compared"}
    counts |= DAMAGE | {"swallowed": "signals swallowed"}
    rounds: list[Sequence[str]] = []
    refits: list[Sequence[str]] = []
    for row in rows:
        if "turns" in row:
            spans = [f"{row[f'burn_in_{what}']:,} to {row[f'end_{what}']:,}" for what in HELD]
            memory = f"{row['burn_in_mib']:.0f} to {row['end_mib']:.0f} MiB"
            turns = f"{row['burn_in_turns']:,} to {row['turns']:,}"
            refits.append([f"{row['minutes']:.0f}", turns, memory, f"{row['mib_per_100_turns']:+.1f} MiB", *spans])
        else:
            figures = [f"{row[name]:,}" for name in counts]
            rounds.append([row["title"], f"{row['minutes']:.0f}", *figures, f"{row['slowest_end_seconds']:.0f} s"])
    ends = ["slowest end after a signal"]
    return [
        (["run of", "minutes", *counts.values(), *ends], rounds),
        (["minutes", "turns", "memory", "per 100 turns", *HELD.values()], refits),
    ]
