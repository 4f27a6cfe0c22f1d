"""Group "models": the sampler on every file in models/, as planned against step by step; work in blocks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

import parsample
from benchmarks import problems
from benchmarks.chains import Chains
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import certificate

# Chains whose evaluations per step in blocks are counted; a model and a kernel, or a problem.
WORK: tuple[tuple[str, str], ...] = (
    ("eight_schools", "nuts"),
    ("logistic_regression", "hmc"),
    ("mixture", "mala"),
)


def jobs(options: Options) -> Iterator[Job]:
    """One job per model, then the counts of work."""
    tiny = options.scale == "tiny"
    # An accelerator takes a fraction of a millisecond or more for every sequential step, and a second for every model's
    # warm-up: there one model must do.
    num_samples = {"tiny": 2048, "cpu": 100_000, "gpu": 20_000}[options.scale]
    every = sorted(path.stem for path in problems.MODELS.glob("*.py"))
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
    posterior = problems.model_posterior(stem)
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
    """The sampler on one model, as planned and step by step; seconds of check and sampling, without the warm-up.

    The warm-up is the same for both, and not what is compared.
    """
    results: dict[str, parsample.SampleResult] = {}

    def run(method: str) -> parsample.SampleResult:
        results[method] = sampler(stem, num_samples, method=method)
        return results[method]

    runs = {method: partial(run, method) for method in ("auto", "sequential")}
    records = options.measure(runs, apart=lambda result: result.seconds["warmup"])
    auto = results["auto"]
    return {
        "title": stem,
        "work": {"T": num_samples, "num_chains": 1, "kernel": "hmc"},
        "runs": records,
        "check_seconds": auto.seconds["check"],
        "plan": str(auto.plan),
        "parallel": bool(auto.report is not None and auto.report.parallelizable),
        "lle": None if auto.report is None else auto.report.lle,
    }


def sampler_work(stem: str, kernel: str, num_samples: int, _options: Options) -> Row:
    """Evaluations per step of the sampler in blocks: a count, which no noise touches."""
    settings = {"target_acceptance_rate": None} if kernel == "mala" else {}
    result = sampler(stem, num_samples, kernel=kernel, method="deer", **settings)
    return {"title": f"{stem}, {kernel}", "work": {"T": num_samples}, "runs": {"blocks": certificate(result)}}


def chain_work(problem: problems.Problem, _options: Options) -> Row:
    """Evaluations per step of a BlackJAX chain in blocks."""
    chains = Chains(problem)
    solution = chains.in_blocks(*chains.best_blocks(chains.check()))
    return {"title": problem.name, "work": problem.identity(), "runs": {"blocks": certificate(solution)}}
