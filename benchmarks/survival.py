"""Group "survival": runs that are killed at random instants, and go on by ``--resume`` until they are complete.

Every run is a series of processes ``parsample sample MODEL --out DIR/run.zarr --resume``, each of which gets a signal
at an instant that is uniform over the length of a whole process with an empty cache of compiled programs. Nothing else
ends them. The draws in the store are compared bitwise with those of a run that nothing interrupted, after every signal
and at the end. A third kind of run gets its signals while it writes a segment.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.end_to_end import ROOT, child_environment
from benchmarks.suite import Job, Options, Row

# Few lanes make short segments: of 2,048 draws per chain if steps are taken one by one, of at most 8,192 in blocks.
MODEL, NUM_LANES = "logistic_regression", 16
NUM_SAMPLES = {"tiny": 20_000, "cpu": 200_000, "gpu": 200_000}

# Signal of each kind of run, whether it comes during a write, and the share of `Options.instants` that is tried.
KINDS = {
    "SIGKILL": (signal.SIGKILL, False, 1.0),
    "SIGINT": (signal.SIGINT, False, 1.0),
    "SIGKILL while writing": (signal.SIGKILL, True, 0.5),
}

# What a signal can hit, by what is in the store: nothing yet; no draws yet; a process that has not yet added draws to
# those in the store; one that has; one whose arrays are longer than the draws that the store says are finished; one
# that has added the last draws.
PHASES = ("before the store", "before the first draws", "going on", "sampling", "writing", "after the last draw")

# Seconds that an interrupted process has to end by itself, and one that nothing interrupts.
PATIENCE, RUN_LIMIT = 150.0, 1800.0

# Seconds of a write, over which signals are spread.
WRITE_SECONDS = 0.2

# A process that goes on for so many seconds after its signal, and then reports success, has swallowed it.
SWALLOWED_SECONDS = 5.0


class Draws(NamedTuple):
    """Finished draws of a store: their number, and arrays by name."""

    number: int
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, store: Path) -> "Draws":
        """Open a store as any reader would."""
        import xarray  # noqa: PLC0415 - only this group and long_runs read files

        with xarray.open_datatree(store, engine="zarr") as tree:
            groups = [name for name in ("posterior", "sample_stats") if name in tree.children]
            arrays = {f"{group}/{name}": tree[group][name].to_numpy() for group in groups for name in tree[group]}
            return cls(int(tree.attrs["num_draws"]), arrays)

    @property
    def num_values(self) -> int:
        """Values of all arrays."""
        return sum(values.size for values in self.arrays.values())

    def differing(self, whole: "Draws") -> int:
        """Values that are not bitwise the first of `whole`; arrays of another length or dtype differ everywhere."""
        if self.arrays.keys() != whole.arrays.keys():
            return self.num_values + 1
        count = 0
        for name, values in self.arrays.items():
            expected = whole.arrays[name][:, : self.number]
            if values.shape != expected.shape or values.dtype != expected.dtype:
                count += values.size + 1
            else:
                count += int((_bits(values) != _bits(expected)).sum())
        return count


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


@dataclass
class Findings:
    """What signals did; `last_words` is the last line of stderr of one process per exit code."""

    phases: Counter = field(default_factory=Counter)
    signals: Counter = field(default_factory=Counter)
    exit_codes: Counter = field(default_factory=Counter)
    processes: int = 0
    runs: int = 0
    values_compared: int = 0
    draws_lost: int = 0
    differing: int = 0
    unreadable: int = 0
    swallowed: int = 0
    slowest_end: float = 0.0
    last_words: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def as_row(self) -> Row:
        """Entries of a row of results."""
        plain = ("processes", "runs", "values_compared", "draws_lost", "differing", "unreadable", "swallowed")
        return {
            **{name: getattr(self, name) for name in plain},
            "slowest_end_seconds": self.slowest_end,
            "signals": dict(self.signals),
            "instants": self.phases.total(),
            "phases": {phase: self.phases[phase] for phase in PHASES},
            "exit_codes": {str(code): number for code, number in sorted(self.exit_codes.items())},
            "last_words": self.last_words,
            "failures": self.failures[:5],
            "num_failures": len(self.failures),
            "leftovers": self.leftovers[:20],
            "num_leftovers": len(self.leftovers),
        }

    def damage(self) -> int:
        """Everything that signals must not do, added up."""
        counts = (self.draws_lost, self.differing, self.unreadable, self.swallowed)
        return sum(counts) + len(self.failures) + len(self.leftovers)


class State(NamedTuple):
    """A store between two processes.

    Attributes
    ----------
    number
        Finished draws of each chain; None if there is no store.
    is_torn
        Whether arrays are longer than that, because a write was not finished.
    inodes
        What changes when a write begins.
    is_complete
        Whether these are all draws.
    """

    number: int | None
    is_torn: bool
    inodes: tuple[int, ...]
    is_complete: bool = False

    def phase(self, before: "State") -> str:
        """The one of `PHASES` that a process was in, which left this and found `before`."""
        if self.number is None:
            return "before the store"
        if self.is_torn and self.inodes != before.inodes:
            return "writing"
        if self.number == 0:
            return "before the first draws"
        if self.number == before.number:
            return "going on"
        return "after the last draw" if self.is_complete else "sampling"


class Trial:
    """A folder for one run of the command line, with a cache of compiled programs of its own."""

    def __init__(self, folder: Path, arguments: Sequence[object]) -> None:
        self.folder, self.arguments = folder, arguments
        self.store = folder / "run.zarr"
        (folder / "cache").mkdir(parents=True)

    def start(self) -> list[subprocess.Popen]:
        """Begin the run, or go on with it."""
        command = ("parsample", "sample", *self.arguments, "--resume", "--no-progress", "--out", self.store)
        return [self.spawn(command)]

    def spawn(self, module: Sequence[object], rank: int = 0) -> subprocess.Popen:
        """A process of the run: a module and its arguments."""
        environment = {**child_environment(), "XDG_CACHE_HOME": str(self.folder / "cache")}
        # A handler, even this one, lets the child begin with the default: shells have it ignored in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, "-m", *map(str, module)]
        with (self.folder / f"stderr-{rank}").open("wb") as stderr:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment, cwd=ROOT)

    def errors(self) -> str:
        """The end of what the last processes wrote to stderr, without folders."""
        ends = (path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("stderr-*")))
        return re.sub(r"(/[^\s/'\"]+)+/", "", "\n".join(ends))

    def state(self) -> "State":
        """What is in the store."""
        if not self.store.exists():
            return State(None, False, ())
        attributes = json.loads((self.store / "zarr.json").read_text())["attributes"]
        paths = sorted(self.store.glob("*/draw/zarr.json"))
        lengths = {json.loads(path.read_text())["shape"][0] for path in paths}
        is_torn = lengths != {attributes["num_draws"]}
        return State(attributes["num_draws"], is_torn, tuple(map(_inode, paths)), bool(attributes["complete"]))

    def files(self) -> set[str]:
        """All files but the cache, without the names of checkpoints, of which two take turns."""
        found = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())
        ours = (name for name in found if not name.startswith("cache/"))
        return {name[: name.rindex("-")] if "/checkpoint-" in name else name for name in ours}


class Whole(NamedTuple):
    """A run that nothing interrupted."""

    seconds: float
    draws: Draws
    files: set[str]

    @classmethod
    def of(cls, trial: Trial) -> "Whole":
        """Run it."""
        begin = time.perf_counter()
        codes = [process.wait() for process in trial.start()]
        if any(codes):
            raise RuntimeError(trial.errors())
        return cls(time.perf_counter() - begin, Draws.read(trial.store), trial.files())


# Sends a signal to processes of a run; returns which, or None if the first of them has ended before.
Strike = Callable[[list[subprocess.Popen], Trial, Whole], signal.Signals | None]


def jobs(options: Options) -> Iterator[Job]:
    """One job per kind of signal."""
    with tempfile.TemporaryDirectory() as directory:
        found: list[Whole] = []
        for kind in list(KINDS)[: 1 if options.scale == "tiny" else None]:
            yield Job("survival", kind, partial(kind_row, kind, Path(directory), found))


def kind_row(kind: str, folder: Path, found: list[Whole], options: Options) -> Row:
    """The row of one kind of signal: runs until enough instants were tried, each until it is complete."""
    num_samples = NUM_SAMPLES[options.scale]
    if not found:
        found.append(Whole.of(_trial(folder / "whole", num_samples)))
    whole, (signum, in_write, share) = found[0], KINDS[kind]
    num_instants = max(1, round(share * options.instants))
    rng = np.random.default_rng([options.seed, list(KINDS).index(kind)])
    findings, begin = Findings(), time.perf_counter()
    while findings.phases.total() < num_instants and (not findings.runs or time.perf_counter() < options.deadline):
        trial = _trial(folder / f"{kind} {findings.runs}", num_samples)
        one_run(trial, whole, repeat(partial(_in_write if in_write else at_instant, rng, signum)), findings)
        findings.runs += 1
    return {
        "title": MODEL,
        "kind": kind,
        "seed": options.seed,
        "work": {"T": num_samples, "num_chains": 4, "num_lanes": NUM_LANES},
        "process_seconds": whole.seconds,
        "wall_seconds": time.perf_counter() - begin,
        **findings.as_row(),
    }


def _trial(folder: Path, num_samples: int) -> Trial:
    x64 = ["--x64"] * bool(jax.config.jax_enable_x64)
    model = ROOT / "models" / f"{MODEL}.py"
    return Trial(folder, (model, "--num-samples", num_samples, "--num-lanes", NUM_LANES, "--seed", 0, *x64))


def one_run(trial: Trial, whole: Whole, strikes: Iterable[Strike], findings: Findings) -> None:
    """Strike one series of processes after another, and let the last one end; any that fails ends the run as well."""
    number = 0
    for strike in chain(strikes, [lambda *_: None]):
        before, processes = trial.state(), trial.start()
        findings.processes += len(processes)
        signum = strike(processes, trial, whole)
        codes = _codes(processes, signum, findings)
        if signum is not None:
            findings.signals[signum.name] += 1
            findings.phases[trial.state().phase(before)] += 1
            findings.exit_codes.update(codes)
            findings.last_words[str(codes[0])] = (trial.errors().splitlines() or [""])[-1]
        if trial.store.exists():
            number = _look(trial, whole, number, findings)
        if signum is None:
            break
    if any(codes) or number != whole.draws.number:
        findings.failures.append(f"exit codes {codes} with {number} draws: {trial.errors()}")
    findings.leftovers += sorted(trial.files() - whole.files)


def at_instant(
    rng: np.random.Generator,
    signum: signal.Signals,
    processes: list[subprocess.Popen],
    _trial: Trial,
    whole: Whole,
    victims: Sequence[int] = (0,),
) -> signal.Signals | None:
    """Strike processes at an instant that is uniform over the length of a whole run."""
    try:
        processes[0].wait(rng.uniform(0, whole.seconds))
    except subprocess.TimeoutExpired:
        for rank in victims:
            processes[rank].send_signal(signum)
        return signum
    return None


def _in_write(
    rng: np.random.Generator, signum: signal.Signals, processes: list[subprocess.Popen], trial: Trial, whole: Whole
) -> signal.Signals | None:
    """Strike the only process shortly after one of the next segments begins to be written."""
    process = processes[0]
    first = trial.store / sorted(whole.draws.arrays)[0] / "zarr.json"
    num_left, seen = int(rng.integers(1, 5)), _inode(first)
    while process.poll() is None:
        if (now := _inode(first)) != seen:
            num_left, seen = num_left - 1, now
            if not num_left:
                time.sleep(rng.uniform(0, WRITE_SECONDS))
                process.send_signal(signum)
                return signum if process.poll() is None or process.returncode == -signum else None
        time.sleep(5e-4)
    return None


def _inode(path: Path) -> int:
    """What changes whenever a file is replaced; 0 if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _codes(processes: list[subprocess.Popen], signum: signal.Signals | None, findings: Findings) -> list[int]:
    """Exit codes of processes of which one was struck, or that end; those that take too long are killed."""
    begin, patience = time.perf_counter(), PATIENCE if signum else RUN_LIMIT
    for process in processes:
        try:
            process.wait(max(0.0, begin + patience - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            findings.failures.append(f"a process did not end within {patience:.0f} s; signal: {signum}")
    codes, seconds = [process.returncode for process in processes], time.perf_counter() - begin
    if signum is not None:
        findings.slowest_end = max(findings.slowest_end, seconds)
        findings.swallowed += seconds > SWALLOWED_SECONDS and not any(codes)
    return codes


def _look(trial: Trial, whole: Whole, before: int, findings: Findings) -> int:
    """Read the store as it was left; the number of its draws."""
    try:
        draws = Draws.read(trial.store)
    except Exception as error:  # whatever a reader meets is a finding
        findings.unreadable += 1
        findings.failures.append(f"unreadable store: {error!r}")
        return before
    findings.values_compared += draws.num_values
    findings.draws_lost += max(0, before - draws.number)
    findings.differing += draws.differing(whole.draws)
    return draws.number


# Columns of the table: what signals must not do, by the names in a row.
DAMAGE = {
    "draws_lost": "draws lost",
    "differing": "values that differ",
    "unreadable": "unreadable stores",
    "num_failures": "failures",
    "num_leftovers": "files left over",
}


def table(rows: list[Row]) -> tuple[list[str], list[Sequence[str]]]:
    """Header and body of the table of all kinds: instants by what they hit, and damage."""
    body: list[Sequence[str]] = []
    for row in rows:
        counts = [row["instants"], *(row["phases"][phase] for phase in PHASES), row["runs"]]
        body.append([row["kind"], *(f"{count:,}" for count in [*counts, *(row[name] for name in DAMAGE)])])
    return ["signal", "instants", *PHASES, "runs", *DAMAGE.values()], body
