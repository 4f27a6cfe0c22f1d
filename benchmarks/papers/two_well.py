"""Langevin dynamics in two wells: locally unstable, globally predictable, so that sweeps hardly grow with the length.

Figure 3 of arXiv 2508.16817: sweeps against T up to 10,000 over 20 seeds, the exponent, and the merit in each sweep.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import parsample
from benchmarks.papers.common import finite, in_its_own_units, main, published_sweeps, random_guess, size_of, solve
from benchmarks.papers.tools.predictability import spectral_norms, sweeps_for
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, markdown
from models.recursions.two_well import STEP_SIZE, two_well

# Seeds, and steps.
SIZES = {"tiny": (2, 600), "cpu": (20, 10_000), "full": (20, 10_000)}

# The published exponent; and sweeps of the authors' code on 21 seeds at T = 10,000, run for design notes.
PUBLISHED_LLE, PUBLISHED_SWEEPS = "-0.0145", "12 to 35, median 23"


def jobs(options: Options) -> Iterator[Job]:
    """One job per path."""
    num_seeds, num_steps = size_of(SIZES, options)
    for seed in range(num_seeds):
        yield Job("two_well", f"seed {seed}", partial(path_row, seed, num_steps))


def path_row(seed: int, num_steps: int, _options: Options) -> Row:
    """Exponent and sweeps of one path, at many lengths from one solve."""
    path = two_well(num_steps, seed=seed)
    exponent = parsample.lyapunov_exponent(*path, num_probes=3, dt=STEP_SIZE)
    found = solve(path, initial_guess=random_guess(path, seed + 1000), **in_its_own_units(path))
    lengths = np.unique(np.linspace(20, num_steps, 40).astype(int))
    return {
        "work": {"T": num_steps, "D": 2},
        "lle": float(exponent.lle) * STEP_SIZE,
        "lle_per_time": float(exponent.lle),
        "norm_above_1": float((spectral_norms(*path) > 1).mean()),
        "lengths": lengths.tolist(),
        "sweeps": finite(sweeps_for(found, lengths)),
        "published_rule": finite(published_sweeps(found, num_steps))[0],
        "merits": finite(np.asarray(found.merit_history)[: int(found.num_iters)]),
        "status": parsample.Status(int(found.status)).name,
        "defect": float(found.defect),
    }


def table(file: File) -> str:
    """One row for all seeds."""
    rows = file.table("two_well")
    if not rows:
        return markdown(("T",), [])
    sweeps, ruled = [row["sweeps"][-1] for row in rows], [row["published_rule"] for row in rows]
    exponents = [row["lle"] for row in rows]
    line = (
        f"{rows[0]['work']['T']:,}",
        f"{len(rows)}",
        f"{np.mean(exponents):+.4f} ({min(exponents):+.4f} to {max(exponents):+.4f})",
        PUBLISHED_LLE,
        f"{100 * np.mean([row['norm_above_1'] for row in rows]):.0f}%",
        f"{min(sweeps):.0f} to {max(sweeps):.0f}, median {np.median(sweeps):.0f}",
        f"{min(ruled):.0f} to {max(ruled):.0f}, median {np.median(ruled):.0f}",
        PUBLISHED_SWEEPS,
    )
    header = (
        "T", "seeds", "LLE, nats per step", "published", "steps that expand", "sweeps", "by the published stop rule",
        "authors' code (published: at most about 35)",
    )  # fmt: skip
    return markdown(header, [line])


def figure(file: File, panels: Any) -> Any:
    """Sweeps against the length, and merit against the sweep, one line per seed."""
    drawn, axes = panels(2)
    for row in file.table("two_well"):
        axes[0, 0].plot(row["lengths"], row["sweeps"], "C0", linewidth=0.6, alpha=0.6)
        merits = np.array(row["merits"], float)
        axes[0, 1].plot(np.arange(1, 1 + merits.size), np.maximum(merits, 1e-32), "C0", linewidth=0.6, alpha=0.6)
    axes[0, 0].set(xlabel="T", ylabel="sweeps of DEER", ylim=(0, None))
    axes[0, 1].set(yscale="log", xlabel="sweep", ylabel="merit")
    return drawn


if __name__ == "__main__":
    raise SystemExit(main("two_well"))
