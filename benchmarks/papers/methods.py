"""All methods on all chains: sweeps, evaluations per step, time; and the fastest method beside the check's plan."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

import parsample
from benchmarks import posteriors, problems
from benchmarks.papers.chains import SAFE, chain_of
from benchmarks.papers.common import main, size_of, solve
from benchmarks.papers.tools.corrections import GradientDescent, TrustRegion
from benchmarks.papers.tools.surrogate import surrogate_hmc, surrogate_mala
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, duration, markdown, median
from models.recursions.eight_schools_gibbs import eight_schools
from models.recursions.network import mean_field_network
from models.recursions.observers import observer
from models.recursions.two_well import two_well
from parsample import (
    Dense,
    Diagonal,
    Identity,
    Newton,
    Recursion,
    Zero,
)

SIZES = {"tiny": (512, 16), "cpu": (1024, 32), "full": (8192, 100)}

# A method that has not converged after T / GIVEN_UP sweeps has failed.
GIVEN_UP = 8

METHODS: dict[str, dict[str, Any]] = {
    "DEER": {"linearization": Dense()},
    "DEER, safeguarded": {"linearization": Dense(), **SAFE},
    "DEER, damped 0.1": {"linearization": Dense(), "correction": Newton(0.1)},
    "ELK": {"linearization": Dense(), "correction": TrustRegion()},
    "quasi-DEER": {"linearization": Diagonal(), **SAFE},
    "quasi-DEER, 1 probe": {"linearization": Diagonal(1), **SAFE},
    "quasi-ELK": {"linearization": Diagonal(), "correction": TrustRegion()},
    "Picard": {"linearization": Identity()},
    "Jacobi": {"linearization": Zero()},
    "gradient descent": {"linearization": Dense(), "correction": GradientDescent(0.25)},
    "block DEER, b = 16, dense": {"linearization": Dense(), "block_size": 16, **SAFE},
    "block DEER, b = 64, A = 0": {"linearization": Zero(), "block_size": 64},
}
SURROGATE = "DEER, sigmoid surrogate"

# Recommended use of each method.
ADVICE = {
    "DEER": "smooth recursions of few dimensions: fewest sweeps of all",
    "DEER, safeguarded": "kernels that reject, and curvature that varies: where plain DEER overshoots",
    "DEER, damped 0.1": "where DEER diverges and safeguards do not help; elsewhere it costs sweeps",
    "ELK": "kernels that reject, where DEER overshoots; the smallest weight that helps",
    "quasi-DEER": "many dimensions, with Jacobians that are nearly diagonal, if need be in other coordinates",
    "quasi-DEER, 1 probe": "the same, if D tangents are too many: one tangent per step for any D",
    "quasi-ELK": "as ELK, in many dimensions",
    "Picard": "random walks, whose Jacobian is the identity, and steps that hardly move",
    "Jacobi": "states that are forgotten within a few steps",
    "gradient descent": "nothing: a comparator whose sweeps grow with the square of the condition",
    "block DEER, b = 16, dense": "accelerators with small models: fewer sweeps, each a longer loop over fewer lanes",
    "block DEER, b = 64, A = 0": "samplers: no tangents, and little more than one evaluation per step",
    SURROGATE: "rarely: where the branch taken misleads Newton's method on a kernel that rejects often",
}


def _mixture(num_steps: int) -> tuple[Recursion, Recursion]:
    problem = problems.mixture_mala(num_steps=num_steps)
    return chain_of(problem), chain_of(replace(problem, algorithm=surrogate_mala(problem.logdensity, 0.5)))


def _banana(num_steps: int) -> tuple[Recursion, Recursion]:
    problem = problems.banana_hmc(num_steps=num_steps)
    return chain_of(problem), chain_of(
        replace(problem, algorithm=surrogate_hmc(problem.logdensity, 0.5, jnp.ones(2), 8))
    )


def _logistic(num_steps: int) -> tuple[Recursion, Recursion]:
    problem = problems.logistic_mala(1, num_steps)
    return chain_of(problem), chain_of(replace(problem, algorithm=surrogate_mala(problem.logdensity, 0.0015)))


def _walk(num_steps: int) -> tuple[Recursion, None]:
    algorithm = blackjax.additive_step_random_walk(
        posteriors.model_posterior("mixture").logdensity, blackjax.mcmc.random_walk.normal(jnp.ones(2))
    )
    return parsample.as_recursion(jax.random.key(0), algorithm, {"x": jnp.ones(2)}, num_steps), None


CHAINS: dict[str, Callable[[int, int], tuple[Recursion, Recursion | None]]] = {
    "network, g = 0.8": lambda steps, units: (mean_field_network(0.8, num_steps=steps, num_units=units), None),
    "two wells": lambda steps, _: (two_well(steps), None),
    "Lorenz observer": lambda steps, _: (observer("Lorenz", steps), None),
    "eight schools, Gibbs": lambda steps, _: (eight_schools(steps), None),
    "mixture, MALA": lambda steps, _: _mixture(steps),
    "mixture, random walk": lambda steps, _: _walk(steps),
    "banana, HMC": lambda steps, _: _banana(steps),
    "logistic 1000 x 25, MALA": lambda steps, _: _logistic(steps // 4),
    "network, g = 1.5": lambda steps, units: (mean_field_network(1.5, num_steps=steps // 4, num_units=units), None),
}


def jobs(options: Options) -> Iterator[Job]:
    """One job per chain."""
    num_steps, num_units = size_of(SIZES, options)
    chains = ("mixture, MALA",) if options.scale == "tiny" else tuple(CHAINS)
    for name, make in ((name, CHAINS[name]) for name in chains):
        yield Job("methods", name, partial(chain_row, make, num_steps, num_units))


def chain_row(make: Callable, num_steps: int, num_units: int, options: Options) -> Row:
    """Every method on one chain, from the same guess, in units of the chain's own scale."""
    recursion, smoothed = make(num_steps, num_units)
    truth = parsample.rollout(*recursion)
    scale = jax.tree.map(lambda leaf: jnp.maximum(jnp.std(leaf, axis=0), 1e-12), truth)
    patience = max(16, recursion.num_steps // GIVEN_UP)
    runs: dict[str, Any] = {"sequential": partial(parsample.rollout, *recursion)}
    for name, method in METHODS.items():
        runs[name] = partial(solve, recursion, patience, scale=scale, **method)
    if smoothed is not None:
        runs[SURROGATE] = partial(solve, smoothed, patience, scale=scale, **METHODS["DEER, safeguarded"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", parsample.ParallelStallWarning)
        told = parsample.check(jax.random.key(0), recursion.step, recursion.initial_state, inputs=recursion.inputs)
    once = Options(scale=options.scale, repeats=1, job_seconds=options.job_seconds)
    dimension = sum(np.size(leaf) for leaf in jax.tree.leaves(recursion.initial_state))
    return {
        "work": {"T": recursion.num_steps, "D": dimension},
        "lle": told.lle,
        "plan": "parallel" if told.parallelizable else "sequential",
        "plan_parallel": told.parallelizable,
        "max_sweeps": patience,
        "runs": once.measure(runs),
    }


def fastest(row: Row) -> str:
    """The fastest run among those that found the path."""
    done = [name for name, run in row["runs"].items() if run["status"] in ("CONVERGED", "SEQUENTIAL")]
    return min(done, key=lambda name: median(row, name) or np.inf)


def fewest_sweeps(row: Row) -> str:
    """The method that converged in the fewest sweeps with blocks of one step (longer blocks need fewer)."""
    runs = {name: run for name, run in row["runs"].items() if not name.startswith("block")}
    done = {name: run["num_iters"] for name, run in runs.items() if run["status"] == "CONVERGED"}
    return min(done, key=done.__getitem__) if done else "-"


def table(file: File) -> str:
    """Sweeps of every method on every chain; then the fastest method per chain, and recommendations."""
    rows = file.table("methods")
    names = [*METHODS, SURROGATE]
    body = []
    for name in names:
        cells = []
        for row in rows:
            run = row["runs"].get(name)
            cells.append("" if run is None else _cell(run, row))
        body.append([name, *cells])
    header = ("sweeps (evaluations per step)", *(f"{row['name']}, T = {row['work']['T']:,}" for row in rows))
    taken = [
        [
            row["name"],
            f"{row['work']['D']}",
            f"{row['lle']:+.3f}",
            duration(median(row, "sequential")),
            f"{fastest(row)}, {duration(median(row, fastest(row)))}",
            fewest_sweeps(row),
            row["plan"],
            "yes" if row["plan_parallel"] == (fastest(row) != "sequential") else "no",
        ]
        for row in rows
    ]
    columns = ("chain", "D", "LLE", "sequential", "fastest here", "fewest sweeps, b = 1", "the check's plan", "agrees")
    advice = [[name, ADVICE[name], _won(rows, name)] for name in names]
    return "\n\n".join(
        [
            markdown(header, body),
            markdown(columns, taken),
            markdown(("method", "right for", "here: converged on"), advice),
        ]
    )


def _cell(run: Row, row: Row) -> str:
    if run["status"] != "CONVERGED":
        return f"> {row['max_sweeps']:,}"
    return f"{run['num_iters']:,} ({run['evals_per_step']:.1f})"


def _won(rows: list[Row], name: str) -> str:
    """Number of chains on which a method converged, and its median work relative to the least of any method."""
    tried = [row for row in rows if name in row["runs"]]
    done = [row for row in tried if row["runs"][name]["status"] == "CONVERGED"]
    if not done:
        return f"0 of {len(tried)} chains"
    ratios = [row["runs"][name]["evals_per_step"] / _least_work(row) for row in done]
    return f"{len(done)} of {len(tried)} chains, {np.median(ratios):.1f}x the least evaluations"


def _least_work(row: Row) -> float:
    return min(run["evals_per_step"] for run in row["runs"].values() if run["status"] == "CONVERGED")


def figure(file: File, panels: Any) -> Any:
    """Sweeps of every method on every chain, as a map."""
    rows, names = file.table("methods"), [*METHODS, SURROGATE]
    drawn, axes = panels(1, width=9, height=5)
    values = np.full((len(names), len(rows)), np.nan)
    for j, row in enumerate(rows):
        for i, name in enumerate(names):
            run = row["runs"].get(name)
            if run is not None and run["status"] == "CONVERGED":
                values[i, j] = np.log10(run["num_iters"])
                axes[0, 0].text(j, i, f"{run['num_iters']}", ha="center", va="center", fontsize=7)
    image = axes[0, 0].imshow(values, aspect="auto", cmap="viridis_r", alpha=0.6)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0, 0].set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right", fontsize=7)
    drawn.colorbar(image, label="log10 of sweeps (white: given up)")
    return drawn


if __name__ == "__main__":
    raise SystemExit(main("methods"))
