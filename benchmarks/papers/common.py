"""Shared by all experiments: the published solver's settings and stop rule, and the command line."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import parsample
from benchmarks.report import section
from benchmarks.run import run_group
from benchmarks.suite import RESULTS, Options, is_measured
from benchmarks.tables import load
from benchmarks.timing import use_cores
from parsample import Recursion

# The published solver stops when the merit function over T is below the first. The second is about the same limit for
# the difference of states, with each coordinate in its own units.
PUBLISHED_MERIT = 1e-10
PUBLISHED_ATOL = 1e-5

# Newton's method as published: no safeguards.
PLAIN = {"clip": None, "max_step": None}


def size_of(sizes: dict[str, Any], options: Options) -> Any:
    """The sizes of the options' scale, or those of "cpu" if it has none of its own."""
    return sizes.get(options.scale, sizes["cpu"])


def in_its_own_units(recursion: Recursion) -> dict[str, Any]:
    """Settings with the absolute tolerance `PUBLISHED_ATOL`, in units of the state and not of the path's scale."""
    return {"scale": jax.tree.map(jnp.ones_like, recursion.initial_state), "atol": PUBLISHED_ATOL, "rtol": 0.0}


def random_guess(recursion: Recursion, seed: int, draw: Callable = jax.random.normal) -> Any:
    """A guess of the path: independent draws for every entry of the states."""
    leaves, treedef = jax.tree.flatten(recursion.initial_state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [draw(key, (recursion.num_steps, *leaf.shape)) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def solve(recursion: Recursion, max_sweeps: int | None = None, **settings: Any) -> parsample.Solution:
    """`parsample.deer` as published, except for `settings`; at most `max_sweeps` sweeps, the rest step by step."""
    patience = recursion.num_steps if max_sweeps is None else max_sweeps
    return parsample.deer(*recursion, **{**PLAIN, "stall_after": patience, **settings})


def published_sweeps(solution: parsample.Solution, num_steps: int) -> float:
    """Sweeps after which the published rule would have stopped; inf: not in this solve."""
    small = np.asarray(solution.merit_history)[: int(solution.num_iters)] / num_steps < PUBLISHED_MERIT
    return float(small.argmax() + 1) if small.any() else math.inf


def number(value: float, most: float | None = None) -> str:
    """A count as text; "> most" or "-" if it is not finite."""
    if np.isfinite(value):
        return f"{value:,.0f}"
    return "-" if most is None else f"> {most:,.0f}"


def finite(values: Any) -> list[float | None]:
    """Numbers for JSON, which has no infinities: None instead."""
    return [float(value) if np.isfinite(value) else None for value in np.ravel(values)]


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment, draw its figure and print its table; 0 if no job failed."""
    from benchmarks.figures import draw  # noqa: PLC0415 - matplotlib is an extra, and takes a second

    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.papers.{name}")
    parser.add_argument("--full", action="store_true", help="the published sizes")
    parser.add_argument("--tiny", action="store_true", help="small sizes, only to test that everything runs")
    parser.add_argument("--x32", action="store_true", help="float32")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores to use (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds after the one that compiles")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds after which further jobs are skipped")
    parser.add_argument("--only", help='only jobs whose "table: name" contains this; other rows of the file are kept')
    parser.add_argument("--resume", action="store_true", help="only jobs that were skipped or failed before")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(arguments)
    if jax.default_backend() == "cpu":
        use_cores(chosen.cores)
    if not chosen.x32:
        jax.config.update("jax_enable_x64", True)
    options = Options(
        scale="tiny" if chosen.tiny else "full" if chosen.full else "cpu",
        repeats=1 if chosen.tiny else chosen.repeats,
        budget=chosen.budget,
        job_seconds=2.0,
        only=chosen.only,
        out=chosen.out,
    )
    group = f"papers.{name}"
    rows = run_group(group, options, chosen.resume)
    files = [file for file in load(chosen.out) if file.group == group]
    print(section(name, files))
    for path in draw(files, chosen.out / "figures"):
        print(path)
    return 0 if all(is_measured(row) or "skipped" in row for row in rows) else 1
