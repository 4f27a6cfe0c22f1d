"""Chaotic flows cannot be solved in parallel; their observers, which follow the same paths, can.

Table 1 of arXiv 2508.16817: exponents and sweeps of nine flows and of their observers, T = 30,000, dt = 0.01; and the
prediction of `parsample.check` for each.
"""

import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

import parsample
from benchmarks.papers.common import (
    finite,
    in_its_own_units,
    main,
    number,
    published_sweeps,
    random_guess,
    size_of,
    solve,
)
from benchmarks.papers.tools.predictability import overshoot, sweeps_for
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, cell, duration, markdown
from models.recursions.flows import flow
from models.recursions.observers import REPLACED, observer
from parsample import Recursion

DT = 0.01

# Steps, and sweeps after which the rest of a path is evaluated step by step.
SIZES = {"tiny": (4000, 400), "cpu": (30_000, 3000), "full": (30_000, 30_000)}
PUBLISHED = {"flow": "697 to 30,000", "observer": "2 to 14"}


def jobs(options: Options) -> Iterator[Job]:
    """Each flow and its observer."""
    num_steps, max_sweeps = size_of(SIZES, options)
    names = ["Lorenz", "VallisElNino"] if options.scale == "tiny" else list(REPLACED)
    for name in names:
        yield Job("observer", name, partial(row, observer, name, num_steps, max_sweeps))
    for name in names:
        yield Job("flow", name, partial(row, flow, name, num_steps, max_sweeps))


def row(make: Any, name: str, num_steps: int, max_sweeps: int, options: Options) -> Row:
    """Exponent, sweeps, times and verdict of a recursion."""
    recursion = make(name, num_steps, dt=DT)
    exponent = parsample.lyapunov_exponent(*recursion, num_probes=3, dt=DT)
    run = partial(solve, recursion, max_sweeps, initial_guess=random_guess(recursion, 1), **in_its_own_units(recursion))
    found = jax.block_until_ready(run())
    runs = {"sequential": partial(parsample.rollout, *recursion)}
    if parsample.Status(int(found.status)) is parsample.Status.CONVERGED:
        runs["newton"] = run
    told, seconds = _told(recursion)
    return {
        "work": {"T": num_steps, "D": 3, "dt": DT},
        "lle": float(exponent.lle),
        "lle_spread": float(exponent.spread),
        "overshoot": overshoot(exponent),
        "sweeps": finite(sweeps_for(found, [num_steps]))[0],
        "published_rule": finite(published_sweeps(found, num_steps))[0],
        "max_sweeps": max_sweeps,
        "status": parsample.Status(int(found.status)).name,
        "runs": options.measure(runs),
        "check_lle": told.lle / DT,
        "check_se": told.lle_se / DT,
        "check_met": float(np.isfinite(told.coalescence).mean()),
        "check_parallel": told.parallelizable,
        "check_cause": told.cause,
        "check_seconds": seconds,
    }


def _told(recursion: Recursion) -> tuple[parsample.Report, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", parsample.ParallelStallWarning)
        begin = time.perf_counter()
        told = parsample.check(jax.random.key(0), recursion.step, recursion.initial_state, inputs=recursion.inputs)
    return told, time.perf_counter() - begin


def table(file: File) -> str:
    """One row per flow, with its observer."""
    body = []
    flows = {entry["name"]: entry for entry in file.table("flow")}
    for seen in file.table("observer"):
        if (flow_row := flows.get(seen["name"])) is None:
            continue
        cells = [f"{seen['name']}"]
        for entry in (flow_row, seen):
            sweeps = np.inf if entry["sweeps"] is None else entry["sweeps"]
            cells += [f"{entry['lle']:+.2f}", number(sweeps, entry["max_sweeps"]), _said(entry)]
        times = (cell(flow_row, "sequential"), cell(seen, "sequential"), cell(seen, "newton"))
        body.append([*cells, *times])
    header = (
        "flow", "LLE, nats per time", "sweeps", "the check", "observer: LLE", "sweeps", "the check",
        "flow step by step", "observer step by step", "by Newton, b = 1",
    )  # fmt: skip
    note = f"Published sweeps: flows {PUBLISHED['flow']}, observers {PUBLISHED['observer']}."
    told = [*flows.values(), *file.table("observer")]
    if told:
        note += f" A check took {duration(float(np.median([entry['check_seconds'] for entry in told])))}, compilation "
        note += "included."
    return markdown(header, body) + "\n\n" + note


def _said(entry: Row) -> str:
    """The check's prediction: exponent, share of pairs that met, and plan on this device."""
    verdict = "parallel" if entry["check_parallel"] else "sequential"
    return f"{entry['check_lle']:+.2f} +- {entry['check_se']:.2f}, {100 * entry['check_met']:.0f}% met, {verdict}"


def figure(file: File, panels: Any) -> Any:
    """Sweeps against exponents."""
    drawn, axes = panels(1)
    for table_name, mark in (("flow", "C3s"), ("observer", "C0o")):
        rows = file.table(table_name)
        sweeps = [entry["sweeps"] or entry["max_sweeps"] for entry in rows]
        axes[0, 0].plot([entry["lle"] for entry in rows], sweeps, mark, label=f"{table_name}s")
    axes[0, 0].axvline(0, color="k", linewidth=0.8)
    axes[0, 0].set(yscale="log", xlabel="LLE, nats per unit of time", ylabel="sweeps of DEER (flows: given up)")
    axes[0, 0].legend(fontsize=7)
    return drawn


if __name__ == "__main__":
    raise SystemExit(main("observers"))
