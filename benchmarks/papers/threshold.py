"""Networks are solved in a few sweeps where their Lyapunov exponent is negative, and not where it is positive.

Figure 2 of arXiv 2508.16817: sweeps and exponent of a mean-field network against its gain, for several lengths.
"""

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
from benchmarks.papers.tools.predictability import conditioning, overshoot, predicted_sweeps, spectral_norms, sweeps_for
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, markdown
from models.recursions.network import mean_field_network

# Gains, seeds, units, steps, and sweeps after which the rest is evaluated step by step.
SIZES: dict[str, tuple[tuple[float, ...], int, int, int, int]] = {
    "tiny": ((0.5, 2.0), 1, 16, 200, 40),
    "cpu": ((0.5, 0.8, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0), 2, 100, 1000, 500),
    "full": (tuple(np.linspace(0.5, 2.0, 50).round(4).tolist()), 20, 100, 10_000, 10_000),
}
LENGTHS = (100, 300, 1000, 3000, 10_000)

# Iterations of the authors' code on T = 1000, run for design notes; their counts include the last, confirming one.
PUBLISHED = {0.5: "4", 0.8: "5", 1.0: "8", 1.2: "33", 1.5: "203", 2.0: "not in 1,000"}


def jobs(options: Options) -> Iterator[Job]:
    """One job per network."""
    gains, num_seeds, *size = size_of(SIZES, options)
    for gain in gains:
        for seed in range(num_seeds):
            yield Job("threshold", f"g = {gain}, seed {seed}", partial(network_row, gain, seed, tuple(size)))


def network_row(gain: float, seed: int, size: tuple[int, int, int], _options: Options) -> Row:
    """Exponent and sweeps of one network, at several lengths from one solve."""
    num_units, num_steps, max_sweeps = size
    network = mean_field_network(gain, num_steps=num_steps, num_units=num_units, seed=seed)
    exponent = parsample.lyapunov_exponent(*network, num_probes=3)
    largest = float(spectral_norms(*network).max())
    guess = random_guess(network, seed + 1, partial(jax.random.uniform, minval=-1.0, maxval=1.0))
    found = solve(network, max_sweeps, initial_guess=guess, **in_its_own_units(network))
    lengths = [length for length in LENGTHS if length < num_steps] + [num_steps]
    pilot = _first_part(found, num_steps // 4)
    return {
        "gain": gain,
        "work": {"T": num_steps, "D": num_units},
        "lle": float(exponent.lle),
        "lle_spread": float(exponent.spread),
        "overshoot": overshoot(exponent),
        "log_condition": conditioning(
            float(exponent.lle), num_steps, overshoot=overshoot(exponent), largest_norm=largest
        ).log_condition,
        "lengths": lengths,
        "sweeps": finite(sweeps_for(found, lengths)),
        "predicted_sweeps": finite(predicted_sweeps(pilot, num_steps))[0],
        "published_rule": finite(published_sweeps(found, num_steps))[0],
        "max_sweeps": max_sweeps,
        "status": parsample.Status(int(found.status)).name,
        "merits": finite(np.asarray(found.merit_history)[: int(found.num_iters)]),
    }


def _first_part(found: parsample.Solution, num_steps: int) -> parsample.Solution:
    """The solve cut to its first `num_steps` steps, from which the sweeps of the whole path are predicted."""
    history = np.minimum(found.prefix_history, num_steps)
    is_done = history.max() == num_steps
    status = parsample.Status.CONVERGED if is_done else parsample.Status.STALLED
    return found._replace(prefix_history=history, exact_prefix=num_steps, status=int(status))


def by_gain(file: File) -> dict[float, list[Row]]:
    """The rows of each gain."""
    rows = file.table("threshold")
    return {gain: [row for row in rows if row["gain"] == gain] for gain in sorted({row["gain"] for row in rows})}


def last_sweeps(row: Row) -> float:
    """Sweeps of the whole path; inf if it was finished step by step."""
    return np.inf if row["sweeps"][-1] is None else row["sweeps"][-1]


def table(file: File) -> str:
    """One row per gain."""
    body = []
    for gain, rows in by_gain(file).items():
        exponents, sweeps = [row["lle"] for row in rows], [last_sweeps(row) for row in rows]
        ruled = [np.inf if row["published_rule"] is None else row["published_rule"] for row in rows]
        predicted = [np.inf if row["predicted_sweeps"] is None else row["predicted_sweeps"] for row in rows]
        most = rows[0]["max_sweeps"]
        body.append(
            [
                f"{gain:g}",
                f"{np.mean(exponents):+.3f}",
                f"{np.mean([row['log_condition'] for row in rows]) / np.log(10):.1f}",
                number(float(np.median(sweeps)), most),
                number(float(np.median(predicted)), most),
                number(float(np.median(ruled)), most),
                PUBLISHED.get(gain, "-"),
            ]
        )
    header = (
        "gain g", "LLE, nats per step", "log10 of the condition", "sweeps", "predicted from T / 4",
        "by the published stop rule", "authors' code",
    )  # fmt: skip
    return markdown(header, body)


def figure(file: File, panels: Any) -> Any:
    """Exponent, and sweeps at several lengths, against the gain."""
    groups = by_gain(file)
    drawn, axes = panels(2)
    gains = list(groups)
    for rows in groups.values():
        axes[0, 0].plot([row["gain"] for row in rows], [row["lle"] for row in rows], "C0o", markersize=3)
    axes[0, 0].axhline(0, color="k", linewidth=0.8)
    axes[0, 0].set(xlabel="gain g", ylabel="LLE, nats per step")
    for i, length in enumerate(next(iter(groups.values()))[0]["lengths"]):
        medians = [_median_at(rows, i) for rows in groups.values()]
        axes[0, 1].plot(gains, medians, "o-", markersize=3, label=f"T = {length:,}")
    axes[0, 1].axhline(next(iter(groups.values()))[0]["max_sweeps"], color="0.6", linestyle=":", label="given up")
    axes[0, 1].set(yscale="log", xlabel="gain g", ylabel="sweeps of DEER")
    axes[0, 1].legend(fontsize=7)
    return drawn


def _median_at(rows: list[Row], place: int) -> float:
    return float(np.median([row["sweeps"][place] or row["max_sweeps"] for row in rows]))


if __name__ == "__main__":
    raise SystemExit(main("threshold"))
