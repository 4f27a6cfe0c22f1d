"""Time against sequential evaluation for predictable and unpredictable networks, by each method.

Figure 6 of arXiv 2508.16817 (there on an H100, T = 1000, D = 100): gradient descent, quasi-DEER, DEER, and block DEER.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

import parsample
from benchmarks.papers.common import in_its_own_units, main, number, random_guess, size_of, solve
from benchmarks.papers.tools.corrections import GradientDescent
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, cell, markdown, median
from models.recursions.network import mean_field_network
from parsample import Dense, Diagonal, Zero

# Gains, units, steps, and sweeps after which the rest is evaluated step by step.
SIZES: dict[str, tuple[tuple[float, ...], int, int, int]] = {
    "tiny": ((0.5, 2.0), 16, 200, 40),
    "cpu": ((0.5, 0.8, 1.0, 1.2, 1.5), 100, 1000, 150),
    "full": (tuple(np.linspace(0.5, 2.0, 16).round(1).tolist()), 100, 1000, 1000),
}
METHODS: dict[str, dict[str, Any]] = {
    "gradient descent": {"linearization": Dense(), "correction": GradientDescent(0.25)},
    "quasi-DEER": {"linearization": Diagonal()},
    "DEER": {"linearization": Dense()},
    "block DEER": {"linearization": Zero(), "block_size": 32},
}


def jobs(options: Options) -> Iterator[Job]:
    """One job per gain."""
    gains, *size = size_of(SIZES, options)
    for gain in gains:
        yield Job("gains", f"g = {gain}", partial(gain_row, gain, tuple(size)))


def gain_row(gain: float, size: tuple[int, int, int], options: Options) -> Row:
    """Times and sweeps of all methods on one network."""
    num_units, num_steps, max_sweeps = size
    network = mean_field_network(gain, num_steps=num_steps, num_units=num_units)
    guess = random_guess(network, 1, partial(jax.random.uniform, minval=-1.0, maxval=1.0))
    shared = {"initial_guess": guess, **in_its_own_units(network)}
    exponent = parsample.lyapunov_exponent(*network)
    runs: dict[str, Any] = {"sequential": partial(parsample.rollout, *network)}
    runs |= {name: partial(solve, network, max_sweeps, **shared, **method) for name, method in METHODS.items()}
    return {
        "gain": gain,
        "work": {"T": num_steps, "D": num_units},
        "lle": float(exponent.lle),
        "max_sweeps": max_sweeps,
        "runs": options.measure(runs),
    }


def table(file: File) -> str:
    """One row per gain."""
    body = []
    for row in file.table("gains"):
        cells = [f"{row['gain']:g}", f"{row['lle']:+.3f}", cell(row, "sequential")]
        for name in METHODS:
            run = row["runs"][name]
            sweeps = run["num_iters"] if run["status"] == "CONVERGED" else np.inf
            cells.append(f"{cell(row, name)} ({number(sweeps, row['max_sweeps'])})")
        body.append(cells)
    header = ("gain g", "LLE, nats per step", "sequential", *(f"{name} (sweeps)" for name in METHODS))
    return markdown(header, body)


def figure(file: File, panels: Any) -> Any:
    """Times against the exponent."""
    drawn, axes = panels(1)
    rows = file.table("gains")
    for name in ("sequential", *METHODS):
        axes[0, 0].plot([row["lle"] for row in rows], [median(row, name) for row in rows], "o-", label=name)
    axes[0, 0].axvline(0, color="k", linewidth=0.8)
    axes[0, 0].set(yscale="log", xlabel="LLE, nats per step", ylabel="seconds")
    axes[0, 0].legend(fontsize=7)
    return drawn


if __name__ == "__main__":
    raise SystemExit(main("gains"))
