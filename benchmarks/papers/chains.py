"""The samplers of arXiv 2508.18413, and the gain from each of its techniques.

Long chains by Newton's method; rotation and whitening, and several chains at a time; a Gibbs sampler; HMC in
parallel over its leapfrog steps, and over the chain; a sliding window at D = 768; and stopping early.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import parsample
from benchmarks import problems
from benchmarks.papers.common import PLAIN, finite, main, number, size_of, solve
from benchmarks.papers.tools.coordinates import Coordinates
from benchmarks.papers.tools.corrections import NewtonIn
from benchmarks.papers.tools.leapfrog import PhasePoint, leapfrog_step
from benchmarks.papers.tools.linearizations import BlockDiagonal, DiagonalIn
from benchmarks.papers.tools.predictability import sweeps_for
from benchmarks.papers.tools.sliding import deer_in_windows
from benchmarks.problems import Problem
from benchmarks.suite import Job, Options, Row
from benchmarks.tables import File, cell, markdown, median
from models.recursions.eight_schools_gibbs import eight_schools
from parsample import Dense, Diagonal, Recursion, Zero

# Safeguards on, as by default: these kernels reject.
SAFE = {"clip": 1.0, "max_step": 8.0}

# Steps of the long chains and of the regression, numbers of chains, steps of the Gibbs sampler, leapfrog steps;
# (D, rows, steps) of the sliding window; (steps, defects) of early stopping.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "long": 400,
        "regression": (100,),
        "batches": (2,),
        "gibbs": 200,
        "leapfrogs": (16,),
        "window": (64, 16, 100),
        "early": (400, (1.0, 1e-8)),
    },
    "cpu": {
        "long": 100_000,
        "regression": (128, 512),
        "batches": (1, 2, 4),
        "gibbs": 10_000,
        "leapfrogs": (12, 50, 150),
        "window": (768, 500, 512),
        "early": (10_000, (1.0, 0.3, 0.1, 1e-2, 1e-4, 1e-8)),
    },
}
SIZES["full"] = {
    **SIZES["cpu"],
    "regression": (512, 2048, 8192),
    "batches": (1, 2, 4, 8, 16),
    "window": (768, 1000, 4096),
}

PUBLISHED = {
    "banana": "139 (A100, float32)",
    "mixture": "97 (CPU, float32)",
    "gibbs": "DEER 37 and 19, quasi-DEER 105 to 110",
}


def jobs(options: Options) -> Iterator[Job]:
    """Every technique of the paper."""
    size = size_of(SIZES, options)
    yield Job("long", "banana", partial(long_row, problems.banana_hmc, size["long"]))
    yield Job("long", "mixture", partial(long_row, problems.mixture_mala, size["long"]))
    yield Job("gibbs", "eight schools", partial(gibbs_row, size["gibbs"]))
    yield Job("early", "mixture", partial(early_row, *size["early"]))
    for num_integration_steps in size["leapfrogs"]:
        yield Job("leapfrog", f"L = {num_integration_steps}", partial(leapfrog_row, num_integration_steps))
    for num_steps in size["regression"]:
        for name in ("own", "orthogonal", "whitening"):
            yield Job("rotation", f"T = {num_steps}, {name}", partial(rotation_row, name, num_steps))
    for num_chains in size["batches"]:
        yield Job("batch", f"{num_chains}", partial(batch_row, num_chains, size["regression"][0]))
    yield Job("window", "embeddings", partial(window_row, *size["window"]))


def chain_of(problem: Problem, chain: int = 0) -> Recursion:
    """One chain of a problem as a recursion."""
    position = jax.tree.map(lambda leaf: leaf[chain], problem.positions)
    key = jax.random.key(chain)
    return parsample.as_recursion(key, problem.algorithm, position, problem.num_steps)


def long_row(make: Any, num_steps: int, options: Options) -> Row:
    """Sweeps of Newton's method with b = 1, at several lengths from one solve; and time against sequential."""
    recursion = chain_of(make(num_steps=num_steps))
    scale = jnp.std(parsample.rollout(*recursion), axis=0)
    run = partial(solve, recursion, 1000, scale=scale, **SAFE)
    found = run()
    lengths = [length for length in (100, 1000, 10_000) if length < num_steps] + [num_steps]
    once = partial(parsample.rollout, *recursion)
    return {
        "title": make(num_steps=1).name,
        "work": {"T": num_steps, "D": 2},
        "lengths": lengths,
        "sweeps": finite(sweeps_for(found, lengths)),
        "max_sweeps": 1000,
        "runs": options.measure({"sequential": once, "newton": run}),
    }


def gibbs_row(num_steps: int, options: Options) -> Row:
    """The eight-schools sampler by Newton's method and its diagonal, two chains."""
    row: Row = {"work": {"T": num_steps, "D": 18}, "max_sweeps": 500}
    runs: dict[str, Any] = {}
    for seed in range(2):
        recursion = eight_schools(num_steps, seed=seed)
        runs[f"sequential_{seed}"] = partial(parsample.rollout, *recursion)
        runs[f"dense_{seed}"] = partial(solve, recursion, 500, linearization=Dense(), **SAFE)
        runs[f"diagonal_{seed}"] = partial(solve, recursion, 500, linearization=Diagonal(), **SAFE)
        row[f"lle_{seed}"] = float(parsample.lyapunov_exponent(*recursion).lle)
    return {**row, "runs": options.measure(runs)}


def early_row(num_steps: int, defects: tuple[float, ...], options: Options) -> Row:
    """Newton's method stopped at several defects: time, and errors of the moments and of the distribution."""
    recursion = chain_of(problems.mixture_mala(num_steps=num_steps))
    exact = parsample.rollout(*recursion)
    scale = jnp.std(exact, axis=0)
    runs, errors = {}, {}
    for atol in defects:
        run = partial(solve, recursion, 1000, scale=scale, atol=atol, rtol=0.0, **SAFE)
        found = run().states
        moments = jnp.stack([found.mean(0) - exact.mean(0), found.std(0) - exact.std(0)]) / scale[None]
        runs[f"{atol:g}"] = run
        errors[f"{atol:g}"] = {"moments": float(jnp.abs(moments).max()), "mmd": _mmd(found, exact)}
    half = num_steps // 2
    return {
        "work": {"T": num_steps, "D": 2},
        "errors": errors,
        "mmd_of_halves": _mmd(exact[:half], exact[half:]),
        "runs": options.measure(runs),
    }


def _mmd(first: jax.Array, second: jax.Array, number_kept: int = 1000) -> float:
    """Maximum mean discrepancy of two samples, thinned, by a Gaussian kernel one standard deviation wide."""
    width = jnp.std(second, axis=0)
    x, y = (each[:: max(1, len(each) // number_kept)] / width[None] for each in (first, second))

    def mean_kernel(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.exp(-0.5 * jnp.square(a[:, None] - b[None]).sum(-1)).mean()

    return float(jnp.sqrt(jnp.maximum(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y), 0)))


def leapfrog_row(num_integration_steps: int, options: Options) -> Row:
    """One trajectory in parallel over its leapfrog steps, by four linearisations; and a chain in parallel over its own.

    In coordinates whitened by the curvature at the mode, where the metric is the identity.
    """
    problem = problems.real_logistic(num_steps=512)
    vector, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], problem.positions))
    axes = jnp.linalg.cholesky(laplace_covariance(problem))
    target = _flat(problem.logdensity, unravel, axes)
    vector = jnp.linalg.solve(axes, vector)
    mass, step_size = jnp.ones(vector.size), 0.1
    momentum = jax.random.normal(jax.random.key(2), vector.shape)
    first = PhasePoint(vector, momentum + step_size / 2 * jax.grad(target)(vector))
    step = leapfrog_step(target, step_size, mass)
    path = Recursion(step, first, jnp.arange(num_integration_steps))
    runs: dict[str, Any] = {"sequential": partial(parsample.rollout, *path)}
    forms = {"blocks_2x2": BlockDiagonal(2), "blocks_2x2_probed": BlockDiagonal(2, 1)}
    for name, form in {**forms, "diagonal": Diagonal(), "dense": Dense()}.items():
        runs[name] = partial(solve, path, None, linearization=form)
    algorithm = blackjax.hmc(target, step_size, mass, num_integration_steps)
    chain = parsample.as_recursion(jax.random.key(0), algorithm, vector, problem.num_steps)
    runs["chain_sequential"] = partial(parsample.rollout, *chain)
    runs["chain_blocks"] = partial(solve, chain, None, linearization=Zero(), block_size=64)
    return {
        "num_integration_steps": num_integration_steps,
        "work": {"D": vector.size, "chain_steps": problem.num_steps, "step_size": step_size},
        "runs": options.measure(runs),
    }


def _flat(logdensity: Any, unravel: Any, axes: Any = None) -> Any:
    return lambda vector: logdensity(unravel(vector if axes is None else axes @ vector))


@cache
def _regression(num_steps: int, num_chains: int) -> tuple[Problem, jax.Array]:
    problem = problems.logistic_mala(num_chains, num_steps)
    return problem, laplace_covariance(problem)


def laplace_covariance(problem: Problem) -> jax.Array:
    """Inverse Hessian of minus the log density at its mode."""
    mode, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], problem.positions))
    return problems.laplace(_flat(problem.logdensity, unravel), mode)[1]


def diagonal_in(name: str, covariance: Any, num_probes: int | None = None) -> dict[str, Any]:
    """Settings of a diagonal linearization, exact or probed, in the coordinates that tables call `name`."""
    if name == "own":
        return {"linearization": Diagonal(num_probes)}
    coordinates = getattr(Coordinates, name)(np.asarray(covariance))
    return {"linearization": DiagonalIn(coordinates, num_probes), "correction": NewtonIn(coordinates)}


def rotation_row(name: str, num_steps: int, options: Options) -> Row:
    """MALA on a regression by diagonals in some coordinates, exact and probed; and by the whole Jacobian."""
    problem, covariance = _regression(num_steps, 1)
    recursion = chain_of(problem)
    forms = {"diagonal": diagonal_in(name, covariance), "probed": diagonal_in(name, covariance, 2)}
    if name == "own":
        forms["dense"] = {"linearization": Dense()}
    settings = {"scale": jnp.sqrt(jnp.diagonal(covariance)), **SAFE}
    runs: dict[str, Any] = {"sequential": partial(parsample.rollout, *recursion)}
    runs |= {form: partial(solve, recursion, 300, **each, **settings) for form, each in forms.items()}
    return {"coordinates": name, "work": {"T": num_steps, "D": 25}, "max_sweeps": 300, "runs": options.measure(runs)}


def batch_row(num_chains: int, num_steps: int, options: Options) -> Row:
    """Several chains of the regression side by side, by probed diagonals in rotated coordinates."""
    problem, covariance = _regression(num_steps, max(2, num_chains))
    chains = [chain_of(problem, chain) for chain in range(num_chains)]
    starts = jnp.stack([chain.initial_state for chain in chains])
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chain.inputs for chain in chains))
    settings = {**diagonal_in("orthogonal", covariance, 2), "stall_after": 300, **SAFE}
    scale = jnp.sqrt(jnp.diagonal(covariance))
    together = jax.jit(
        jax.vmap(lambda start, driven: parsample.deer(chains[0].step, start, driven, scale=scale, **settings))
    )
    one_by_one = jax.jit(jax.vmap(partial(parsample.rollout, chains[0].step)))
    runs = {"sequential": partial(one_by_one, starts, inputs), "probed": partial(together, starts, inputs)}
    return {"num_chains": num_chains, "work": {"T": num_steps, "D": 25}, "runs": options.measure(runs)}


def in_windows(recursion: parsample.Recursion, window: int, **settings: Any) -> parsample.Solution:
    """`solve` in sliding windows, with at most 300 sweeps per window."""
    return deer_in_windows(*recursion, window=window, **{**PLAIN, "stall_after": 300, **settings})


def window_row(num_features: int, num_rows: int, num_steps: int, options: Options) -> Row:
    """MALA on embeddings by a probed diagonal, all at once and in sliding windows."""
    problem = problems.embeddings_mala(num_steps, num_rows, num_features)
    recursion = chain_of(problem)
    once = Options(scale=options.scale, repeats=1)
    settings = {"linearization": Diagonal(1), **SAFE}
    runs: dict[str, Any] = {"sequential": partial(parsample.rollout, *recursion)}
    for window in (num_steps // 16, num_steps // 4):
        runs[f"window_{window}"] = partial(in_windows, recursion, window, **settings)
    runs["whole"] = partial(solve, recursion, 300, **settings)
    rotated = {**settings, **diagonal_in("orthogonal", laplace_covariance(problem), 1)}
    runs["rotated"] = partial(in_windows, recursion, num_steps // 4, **rotated)
    return {"work": {"T": num_steps, "D": num_features, "num_rows": num_rows}, "runs": once.measure(runs)}


def table(file: File) -> str:
    """One table for each technique of the paper."""
    parts = [_long(file), _gibbs(file), _rotation(file), _batch(file), _leapfrog(file), _window(file), _early(file)]
    parts.append(_advice(file))
    return "\n\n".join(part for part in parts if part)


def _sweeps(row: Row, run: str) -> str:
    found = row["runs"][run]
    return number(found["num_iters"] if found["status"] == "CONVERGED" else np.inf, row.get("max_sweeps"))


def _timed(row: Row, run: str) -> str:
    return f"{cell(row, run)} ({_sweeps(row, run)})" if run in row["runs"] else "-"


def _long(file: File) -> str:
    body = []
    for row in file.table("long"):
        pairs = zip(row["lengths"], row["sweeps"], strict=True)
        found = ", ".join(f"{number(sweeps or np.inf, row['max_sweeps'])} at {length:,}" for length, sweeps in pairs)
        body.append([row["title"], found, PUBLISHED[row["name"]], cell(row, "sequential"), cell(row, "newton")])
    return (
        markdown(("chain", "sweeps of DEER by T", "published at 100,000", "sequential", "DEER"), body) if body else ""
    )


def _gibbs(file: File) -> str:
    body = [
        [
            f"{row['work']['T']:,}, chain {seed + 1}",
            f"{row[f'lle_{seed}']:+.3f}",
            cell(row, f"sequential_{seed}"),
            _timed(row, f"dense_{seed}"),
            _timed(row, f"diagonal_{seed}"),
            PUBLISHED["gibbs"],
        ]
        for row in file.table("gibbs")
        for seed in range(2)
    ]
    header = (
        "eight schools, Gibbs, T",
        "LLE",
        "sequential",
        "DEER (sweeps)",
        "quasi-DEER (sweeps)",
        "published sweeps",
    )
    return markdown(header, body) if body else ""


def _rotation(file: File) -> str:
    body = [
        [
            f"{row['work']['T']:,}",
            row["coordinates"],
            cell(row, "sequential"),
            *(_timed(row, run) for run in ("diagonal", "probed", "dense")),
        ]
        for row in file.table("rotation")
    ]
    header = ("logistic 1000 x 25, MALA, T", "coordinates", "sequential", "diagonal (sweeps)")
    return markdown((*header, "2 probes (sweeps)", "dense (sweeps)"), body) if body else ""


def _batch(file: File) -> str:
    body = [
        [f"{row['num_chains']}", f"{row['work']['T']:,}", cell(row, "sequential"), _timed(row, "probed")]
        for row in file.table("batch")
    ]
    header = ("chains of this regression side by side", "T", "sequential", "2 probes, rotated (sweeps)")
    return markdown(header, body) if body else ""


def _leapfrog(file: File) -> str:
    body = []
    for row in file.table("leapfrog"):
        axis = [_timed(row, run) for run in ("blocks_2x2", "blocks_2x2_probed", "diagonal", "dense")]
        steps = row["work"]["chain_steps"]
        along = [(median(row, run) or np.nan) / steps * 1e6 for run in ("chain_sequential", "chain_blocks")]
        one = cell(row, "sequential")
        body.append([f"{row['num_integration_steps']}", one, *axis, *(f"{seconds:.3g} us" for seconds in along)])
    header = ("leapfrogs L", "one trajectory", "2 x 2 (sweeps)", "2 x 2, 1 probe", "diagonal", "dense")
    return markdown((*header, "a step of the chain", "in blocks along the chain"), body) if body else ""


def _window(file: File) -> str:
    body = []
    for row in file.table("window"):
        for run in (name for name in row["runs"] if name != "sequential"):
            found = row["runs"][run]
            quarter = f"{row['work']['T'] // 4:,} steps, rotated"
            title = {"whole": "all at once", "rotated": quarter}.get(run) or f"{int(run.split('_')[1]):,} steps"
            work = f"{found['evals_per_step']:.1f}"
            body.append([f"{row['work']['T']:,}", title, cell(row, "sequential"), _timed(row, run), work])
    header = ("D = 768, MALA, T", "window", "sequential", "1 probe (sweeps)", "evaluations per step")
    return markdown(header, body) if body else ""


def _early(file: File) -> str:
    body = []
    for row in file.table("early"):
        for atol, error in row["errors"].items():
            mmd = f"{error['mmd']:.2g} ({row['mmd_of_halves']:.2g})"
            body.append([atol, _timed(row, atol), f"{error['moments']:.2g}", mmd])
    header = ("stopped at a defect of, sd", "time (sweeps)", "error of mean and sd, sd", "MMD (of the chain's halves)")
    return markdown(header, body) if body else ""


def _advice(file: File) -> str:
    """When each technique is the right choice, and the measurement that shows it."""
    body = []
    rotations = {row["coordinates"]: row for row in file.table("rotation")}  # the longest of each
    if {"own", "orthogonal"} <= set(rotations):
        own, rotated = (_sweeps(rotations[name], "probed") for name in ("own", "orthogonal"))
        what = "posteriors whose coordinates are correlated, with probes in place of exact diagonals"
        body.append(["rotation, whitening", what, f"{rotated} sweeps in place of {own}"])
    for row in file.table("window"):
        narrow = min((run for run in row["runs"].values() if run["status"] == "CONVERGED"), key=_work)
        what = "paths too long or too wide for all Jacobians at once, and those whose far end is corrected in vain"
        found = f"{_work(narrow):.1f} evaluations per step in place of {_work(row['runs']['whole']):.1f}"
        body.append(["sliding window", what, found])
    for row in file.table("leapfrog")[-1:]:
        what = "a single long trajectory of a whitened target, on a device with lanes to spare"
        found = f"{_sweeps(row, 'blocks_2x2')} sweeps in place of {_sweeps(row, 'diagonal')} by diagonals"
        body.append(["2 x 2 blocks along the leapfrog axis", what, found])
    for row in file.table("early"):
        loose, tight = (_sweeps(row, list(row["errors"])[i]) for i in (1, -1))
        what = "rarely: moments are right long before the last digits, but Newton's last sweeps are few"
        body.append(["early stopping", what, f"{loose} sweeps in place of {tight}"])
    return markdown(("technique", "right for", "here"), body) if body else ""


def _work(run: Row) -> float:
    """Evaluations per step; inf for sequential runs, which leaves them out of comparisons."""
    return float("inf") if run["num_iters"] == 0 else run["evals_per_step"]


def figure(file: File, panels: Any) -> Any:
    """Sweeps against length; and error against time when stopped early."""
    drawn, axes = panels(2)
    for row in file.table("long"):
        sweeps = [value or np.nan for value in row["sweeps"]]
        axes[0, 0].plot(row["lengths"], sweeps, "o-", label=row["title"])
    axes[0, 0].set(xscale="log", xlabel="T", ylabel="sweeps of DEER", ylim=(0, None))
    for row in file.table("early"):
        times = [median(row, atol) for atol in row["errors"]]
        for what in ("moments", "mmd"):
            values = [max(error[what], 1e-16) for error in row["errors"].values()]
            axes[0, 1].plot(times, values, "o-", label=what)
        axes[0, 1].axhline(row["mmd_of_halves"], color="0.6", linestyle=":", label="MMD of the chain's halves")
    axes[0, 1].set(yscale="log", xlabel="seconds", ylabel="error when stopped early")
    for axis in axes[0]:
        if axis.lines:
            axis.legend(fontsize=7)
    return drawn


if __name__ == "__main__":
    raise SystemExit(main("chains"))
