"""Group "plans": what the check predicts against what is measured, and what it chooses against the best there is."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import batched
from typing import Any

import jax
from jax.sharding import Mesh

import parsample
from benchmarks import problems
from benchmarks.chains import Chains
from benchmarks.problems import Problem
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import better_of_two, certificate, extrapolated
from parsample.check import Report
from parsample.compilation import compiling
from parsample.grid import ceil_div, mesh_of
from parsample.linearize import Zero

# The search over block counts gives up after two that take so many times as long as the best.
HOPELESS = 1.5

# Fewest blocks searched: accelerators, which take a fraction of a millisecond for every step in a row, would spend
# minutes on a few long blocks.
FEWEST = {"tiny": 8, "cpu": 2, "gpu": 256}

# Settings that searched best are timed again beside the plan: the least of many noisy times is too small.
FINALISTS = 2


def jobs(options: Options) -> Iterator[Job]:
    """One job per chain and length."""
    tiny, gpu = options.scale == "tiny", options.scale == "gpu"
    yield Job("plans", "mixture", partial(plan_row, partial(problems.mixture_mala, 1, 2048 if tiny else 100_000)))
    if tiny:
        return
    lengths = (100_000, 1_000_000) if gpu else (10_000, 100_000)
    for length in lengths[::-1]:
        make = partial(problems.real_logistic, 1, length)
        yield Job("plans", f"real logistic, T = {length}", partial(plan_row, make))
    yield Job("plans", "banana", partial(plan_row, problems.banana_hmc))
    yield Job("plans", "large logistic", partial(plan_row, partial(problems.large_logistic, 1, lengths[0])))
    yield Job("plans", "Gaussian, D = 200", partial(plan_row, partial(problems.gaussian_hmc, 200, 50_000)))
    yield Job("plans", "banana, T = 1000000", partial(plan_row, partial(problems.banana_hmc, 1, 1_000_000)))
    yield Job("plans", "logistic, 16 chains", partial(plan_row, partial(problems.real_logistic, 16, lengths[0])))


def plan_row(make: Callable[[], Problem], options: Options) -> Row:
    """One chain: plan, search, and both timed side by side."""
    problem = make()
    chains = Chains(problem)
    chains.check()  # compiles: the plan is the next one's
    report = chains.check()
    searched = list(search(chains, report, FEWEST[options.scale]))
    ranked = sorted((entry for entry in searched if entry["is_exact"]), key=lambda entry: entry["seconds"])
    finalists = {f"best_{i}": entry for i, entry in enumerate(ranked[:FINALISTS])}
    runs: dict[str, Callable[[], Any]] = {"check": chains.check, "planned": partial(chains.as_planned, report)}
    steps = options.sequential_steps(problem.num_steps)
    runs["sequential"] = Chains(problem, steps).sequential
    runs.update({name: entry["run"] for name, entry in finalists.items()})
    if isinstance(report.plan.method, parsample.Sequential):
        runs["planned"] = runs["sequential"]
    records = options.measure(runs)
    for name in ("planned", "sequential"):
        if runs[name] is runs["sequential"]:
            records[name] = extrapolated(records[name], problem.num_steps, steps)
    measured = records["planned"]["seconds"]["median"]
    names = ["planned", "sequential", *finalists]
    best = min(names, key=lambda name: records[name]["seconds"]["median"])
    fastest = records[best]["seconds"]["median"]
    check_seconds = records["check"]["seconds"]["median"]
    return {
        "title": f"{problem.name}, T = {problem.num_steps:,}",
        "work": problem.identity(),
        "runs": records,
        "plan": str(report.plan),
        "predicted_seconds": report.plan.seconds,
        "predicted_over_measured": report.plan.seconds / measured,
        "predicted_sequential_seconds": report.plan.sequential_seconds,
        "predicted_evals_per_step": report.plan.evals_per_step,
        "best": finalists[best]["setting"] if best in finalists else best,
        "chosen_over_best": measured / fastest,
        "check_seconds": check_seconds,
        "check_share": check_seconds / measured,
        "search": [{name: value for name, value in entry.items() if name != "run"} for entry in searched],
    }


def search(chains: Chains, report: Report, fewest: int) -> Iterator[Row]:
    """Coalescing blocks, powers of two of them, on one device and on all, each timed twice."""
    teams = [mesh_of(jax.local_devices()[:1])] + ([] if chains.mesh is None else [chains.mesh])
    most = max(chains.num_steps // 4, fewest)
    counts = [2**k for k in range(1, most.bit_length()) if fewest <= 2**k <= most]
    for team in teams:
        best, hopeless = float("inf"), 0
        for num_blocks, method in _prepared(counts, chains, team, report):
            run = partial(chains.in_blocks, method, team, report.block_starts)
            result, seconds = better_of_two(run)
            found = certificate(result)
            yield {
                "setting": f"{num_blocks} blocks on {1 if team is None else team.size} devices",
                "seconds": seconds,
                "is_exact": parsample.Status[found["status"]].is_exact,
                **found,
                "run": run,
            }
            best = min(best, seconds)
            hopeless = hopeless + 1 if seconds > HOPELESS * best else 0
            if hopeless == 2:
                break


def _prepared(
    counts: list[int], chains: Chains, team: Mesh | None, report: Report
) -> Iterator[tuple[int, parsample.DEER]]:
    """Block counts and their settings, compiled two by two."""
    methods = [(count, parsample.DEER(ceil_div(chains.num_steps, count), Zero())) for count in counts]
    for pair in batched(methods, 2):
        with compiling(*(partial(chains.lower, method, team, report.block_starts) for _, method in pair)):
            pass  # nothing may be timed beside a compilation
        yield from pair
