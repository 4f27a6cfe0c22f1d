"""Group "scaling": time, work and sweeps against steps, dimension, data, chains and block size."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import parsample
from benchmarks import posteriors, problems
from benchmarks.chains import Chains, position_and_acceptance
from benchmarks.problems import Problem
from benchmarks.reference import describe
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import extrapolated
from parsample.internal.arithmetic import ceil_div
from parsample.solver.linearization import Dense, Diagonal, Zero

# Longer chains are evaluated in windows of this many steps, each from the final state of the one before.
WINDOW = 1_000_000


class Sizes(NamedTuple):
    """Values on the axis of every curve, at one scale; and the base length of the other chains."""

    steps: tuple[int, ...]
    dimensions: tuple[int, ...]
    rows: tuple[int, ...]
    chains: tuple[int, ...]
    blocks: tuple[int, ...]
    length: int


SIZES = {
    "tiny": Sizes((256, 1024), (2,), (20,), (2,), (64,), 512),
    "cpu": Sizes(
        steps=(10**3, 10**4, 10**5, 10**6, 10**7),
        dimensions=(2, 10, 50, 200, 1000),
        rows=(100, 1000, 10_000),
        chains=(1, 4, 16, 64, 256),
        blocks=tuple(4**k for k in range(2, 9)),
        length=10_000,
    ),
    "gpu": Sizes(
        steps=(10**4, 10**6),
        dimensions=(2, 1000),
        rows=(1000, 30_000),
        chains=(1, 64),
        blocks=(64, 512, 4096),
        length=32_768,
    ),
}


def jobs(options: Options) -> Iterator[Job]:
    """One job per point, curve by curve."""
    sizes = SIZES[options.scale]
    for num_steps in sizes.steps:
        yield Job("steps", f"T = {num_steps}", partial(steps_row, num_steps, min(WINDOW, max(sizes.steps) // 2)))
    for block_size in sizes.blocks:
        yield Job("blocks", f"b = {block_size}", partial(block_row, block_size, 4 * sizes.length))
    for num_chains in sizes.chains:
        make = partial(problems.real_logistic, num_chains, max(2048, sizes.length // 4))
        yield Job("chains", f"K = {num_chains}", partial(point, make, num_chains))
    for num_rows in sizes.rows:
        make = partial(_regression, num_rows, sizes.length)
        yield Job("rows", f"N = {num_rows}", partial(point, make, num_rows))
    for dimension in sizes.dimensions:
        make = partial(problems.gaussian_hmc, dimension, sizes.length)
        yield Job("dimensions", f"D = {dimension}", partial(point, make, dimension))
    for num_steps in sizes.steps[:3]:
        yield Job("newton", f"T = {num_steps}", partial(newton_row, num_steps))


def _regression(num_rows: int, num_steps: int) -> Problem:
    return problems.laplace_hmc(posteriors.synthetic_logistic(num_rows, 10), 1, num_steps)


def point(make: Callable[[], Problem], x: int, options: Options) -> Row:
    """One point of a curve: step by step, and in the blocks that the check would choose, whether or not they pay."""
    problem = make()
    chains = Chains(problem)
    steps = options.sequential_steps(problem.num_steps)
    report = chains.check()
    blocks = chains.best_blocks(report)
    records = options.measure(
        {
            "sequential": Chains(problem, steps).sequential,
            "blocks": partial(chains.in_blocks, *blocks),
        }
    )
    records["sequential"] = extrapolated(records["sequential"], problem.num_steps, steps)
    return {
        "x": x,
        "title": problem.name,
        "work": problem.identity(),
        "runs": records,
        "blocks_setting": describe(blocks[0]),
        "plan": str(report.plan),
        "lle": report.lle,
    }


def block_row(block_size: int, num_steps: int, options: Options) -> Row:
    """One block size on the banana, with step by step as the baseline."""
    problem = problems.banana_hmc(num_steps=num_steps)
    chains = Chains(problem)
    starts = 10 * jax.random.normal(jax.random.key(3), (16, 2))
    steps = options.sequential_steps(num_steps)
    runs = {
        "sequential": Chains(problem, steps).sequential,
        "blocks": partial(chains.in_blocks, parsample.DEER(block_size, Zero()), chains.mesh, starts),
    }
    # Tangents pay in short blocks only; in long ones they double or triple the work for nothing.
    if block_size <= 256:
        runs["diagonal"] = partial(chains.in_blocks, parsample.DEER(block_size, Diagonal()), chains.mesh, starts)
        runs["dense"] = partial(chains.in_blocks, parsample.DEER(block_size, Dense()), chains.mesh, starts)
    records = options.measure(runs)
    records["sequential"] = extrapolated(records["sequential"], num_steps, steps)
    return {"x": block_size, "title": problem.name, "work": problem.identity(), "runs": records}


def newton_row(num_steps: int, options: Options) -> Row:
    """Sweeps of Newton's method with b = 1: logarithmic in T where the chain is predictable (arXiv 2508.16817)."""
    problem = problems.laplace_hmc(posteriors.synthetic_logistic(100, 4), 1, num_steps)
    chains = Chains(problem)
    newton = partial(chains.in_blocks, parsample.DEER(1, Dense()), chains.mesh)
    return {
        "x": num_steps,
        "title": problem.name,
        "work": problem.identity(),
        "runs": options.measure({"newton": newton}),
    }


def steps_row(num_steps: int, window: int, options: Options) -> Row:
    """A banana chain of any length, in windows, so that it needs only the memory of one window."""
    problem = problems.banana_hmc(num_steps=min(num_steps, window))
    chains = Chains(problem)
    report = chains.check()
    method, _ = chains.best_blocks(report)
    num_windows = ceil_div(num_steps, problem.num_steps)
    timed_steps = options.sequential_steps(problem.num_steps)
    records = options.measure(
        {
            "sequential": partial(_windows, Chains(problem, timed_steps), parsample.Sequential(), num_windows),
            "blocks": partial(_windows, chains, method, num_windows),
        }
    )
    for record, steps in zip(records.values(), (timed_steps, problem.num_steps), strict=True):
        records_of_all = extrapolated(record, problem.num_steps, steps)
        record.update(records_of_all)
    return {
        "x": num_steps,
        "title": problem.name,
        "work": {**problem.identity(), "T": num_steps, "windows": num_windows},
        "runs": records,
        "blocks_setting": describe(method),
        "plan": str(report.plan),
        "lle": report.lle,
    }


def _windows(chains: Chains, method: Any, num_windows: int) -> parsample.Solution:
    """The last window's solution, with the worst certificate and the mean work of all windows."""
    state = jax.tree.map(lambda leaf: leaf[0], chains.states)
    certificates = []
    for window in range(num_windows):
        solution = parsample.evaluate_inference_algorithm(
            jax.random.fold_in(chains.chain_keys[0], window),
            chains.problem.algorithm,
            chains.num_steps,
            initial_state=state,
            transform=position_and_acceptance,
            method=method,
        )
        state = solution.final
        certificates.append((int(solution.status), float(solution.defect), float(solution.evals_per_step)))
    statuses, defects, work = (np.array(values) for values in zip(*certificates, strict=True))
    return solution._replace(status=statuses.max(), defect=defects.max(), evals_per_step=work.mean())


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of log y against log x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else math.nan


def crossover(x: list[float], ratio: list[float]) -> float:
    """The x at which the ratio first rises to 1, interpolated in logarithms; NaN if it nowhere rises through 1."""
    for i in range(1, len(x)):
        low, high = math.log(ratio[i - 1]), math.log(ratio[i])
        if low < 0 <= high:
            share = -low / (high - low)
            return math.exp(math.log(x[i - 1]) + share * (math.log(x[i]) - math.log(x[i - 1])))
    return math.nan
