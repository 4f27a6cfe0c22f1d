"""Group "models": the sampler on every file in models/, as planned and step by step; and its work in blocks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

import parsample
from benchmarks import posteriors, problems
from benchmarks.chains import Chains
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import certificate

# Models and kernels whose evaluations per step in blocks are counted.
WORK: tuple[tuple[str, str], ...] = (
    ("eight_schools", "nuts"),
    ("funnel", "nuts"),
    ("logistic_regression", "nuts"),
    ("logistic_regression", "hmc"),
    ("mixture", "mala"),
)


def jobs(options: Options) -> Iterator[Job]:
    """One job per model, then the counts of work."""
    tiny = options.scale == "tiny"
    # An accelerator takes a fraction of a millisecond or more per sequential step, and a second per warm-up: only one
    # model is run there.
    num_samples = {"tiny": 2048, "cpu": 100_000, "gpu": 20_000}[options.scale]
    every = list(posteriors.MODEL_STEMS)
    stems = {"tiny": ["mixture"], "cpu": every, "gpu": ["logistic_regression"]}[options.scale]
    for stem in stems:
        yield Job("models", stem, partial(model_row, stem, num_samples))
    for stem, kernel in WORK[-1:] if tiny else WORK:
        yield Job("work", f"{stem}, {kernel}", partial(sampler_work, stem, kernel, num_samples))
    for make in () if tiny else (problems.banana_hmc, problems.mixture_mala):
        problem = make(num_steps=num_samples)
        yield Job("work", problem.name, partial(chain_work, problem))


def sampler(stem: str, num_samples: int, **settings: Any) -> parsample.SampleResult:
    """One chain of a model."""
    posterior = posteriors.model_posterior(stem)
    return parsample.sample(
        jax.random.key(0),
        posterior.logdensity,
        posterior.initial_position,
        num_samples=num_samples,
        num_chains=1,
        progress_bar=False,
        **{**posterior.settings, **settings},
    )


def model_row(stem: str, num_samples: int, options: Options) -> Row:
    """The sampler on one model, as planned and step by step; seconds of check and sampling only.

    Compilation and the warm-up, which is the same for both, are left out.
    """
    results: dict[str, parsample.SampleResult] = {}

    def run(method: str) -> parsample.SampleResult:
        results[method] = sampler(stem, num_samples, method=method)
        return results[method]

    runs = {method: partial(run, method) for method in ("auto", "sequential")}
    records = options.measure(runs, apart=lambda result: result.seconds["compilation"] + result.seconds["warmup"])
    auto = results["auto"]
    return {
        "title": stem,
        "work": {"T": num_samples, "num_chains": 1, "kernel": "hmc"},
        "runs": records,
        "check_seconds": auto.seconds.get("check", 0.0),
        "plan": "step by step" if auto.report is None else str(auto.report.plan),
        "parallel": bool(auto.report is not None and auto.report.parallelizable),
        "contraction_rate": None if auto.report is None else auto.report.contraction_rate,
    }


def sampler_work(stem: str, kernel: str, num_samples: int, _options: Options) -> Row:
    """Evaluations per step of the sampler in blocks, a count without timing noise; and the cost of lockstep."""
    settings = {"target_acceptance_rate": None} if kernel == "mala" else {}
    result = sampler(stem, num_samples, kernel=kernel, method="deer", **settings)
    block_size = result.segments[0].block_size
    return {
        "title": f"{stem}, {kernel}",
        "work": {"T": num_samples, "num_lanes": result.settings["num_lanes"]},
        "runs": {"blocks": certificate(result)},
        "evals_if_gathered": evals_if_gathered(result.report, block_size),
        # With the other kernels, all lanes take trajectories of the same length at the same time.
        "lockstep": lockstep(result.sample_stats["n_steps"][0]) if kernel == "nuts" else 1.0,
    }


def chain_work(problem: problems.Problem, _options: Options) -> Row:
    """The same counts for a BlackJAX chain, whose trajectories all have one length."""
    chains = Chains(problem)
    report = chains.check()
    method, mesh = chains.best_blocks(report)
    solution = chains.in_blocks(method, mesh)
    return {
        "title": problem.name,
        "work": {**problem.identity(), "num_lanes": solution.block_ends.shape[-2]},
        "runs": {"blocks": certificate(solution)},
        "evals_if_gathered": evals_if_gathered(report, method.block_size),
        "lockstep": 1.0,
    }


def evals_if_gathered(report: parsample.Report | None, block_size: int) -> float | None:
    """Evaluations per step if lanes cost nothing once they have met, at the meeting times of the pilot's pairs."""
    if report is None or not np.isfinite(report.coalescence).all():
        return None
    return float(1 + report.coalescence.mean() / block_size)


def lockstep(num_leapfrogs: np.ndarray, num_lanes: int = 64) -> float:
    """Leapfrog steps of the longest trajectory among `num_lanes` over those of a mean one: the cost of lockstep."""
    block_size = len(num_leapfrogs) // num_lanes
    lanes = num_leapfrogs[: block_size * num_lanes].reshape(num_lanes, block_size)
    return float(lanes.max(0).mean() / lanes.mean())
