"""Group "reference": chains with published times, run by BlackJAX, step by step, in blocks, and in C."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import parsample
from benchmarks import native, problems
from benchmarks.chains import Chains, position_and_acceptance
from benchmarks.problems import Problem
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import better_of_two, certificate, extrapolated
from models.recursions.eight_schools_gibbs import eight_schools
from parsample.chain.recursion import Recursion
from parsample.internal.arithmetic import ceil_div
from parsample.internal.compilation import jit_with_xla_options
from parsample.solver.linearization import Dense, Diagonal, Zero

# Times of the implementation of arXiv 2508.18413 in float32: CPU times measured on two cores with jax 0.6.2, A100 times
# as published by its authors.
PUBLISHED = {
    "banana": (
        "sequential 0.27 s (2 CPU cores), 22.6 s (A100); parallel 139 iterations, 2.9 s (2 CPU cores), 0.135 s (A100), "
        "error 1.2e-3; C, one core, 0.019 s"
    ),
    "mixture": "sequential 0.33 s (2 CPU cores); parallel 97 iterations, 0.56 s (2 CPU cores)",
    "logistic": (
        "sequential 0.20 s (2 CPU cores); parallel 14 iterations, 10 s (2 CPU cores); 20 to 30 times sequential on a "
        "GPU at best"
    ),
    "embeddings": 'windowed; "more than 3 times" sequential (GPU)',
    "gibbs": (
        "sequential 0.18 s (2 CPU cores); DEER 37 and 19 iterations, 2.6 s; quasi-DEER 105 to 110, 0.64 s (2 CPU cores)"
    ),
}
# Above this dimension a dense linearization costs too much to be tried.
MAX_DENSE = 64


def jobs(options: Options) -> Iterator[Job]:
    """One job per row of the published table, then our own."""
    tiny = options.scale == "tiny"
    steps: dict[str, Any] = {"num_steps": 2048} if tiny else {}
    small: dict[str, Any] = {"num_steps": 256, "num_rows": 50} if tiny else {}
    gibbs = Job("reference", "gibbs", partial(gibbs_row, 512 if tiny else 10_000))
    for key, problem in (
        ("banana", partial(problems.banana_hmc, **steps)),
        ("logistic", partial(problems.logistic_mala, **small)),
        ("gibbs", None),
        ("mixture", partial(problems.mixture_mala, **steps)),
        ("embeddings", partial(problems.embeddings_mala, **small, **({"num_features": 8} if tiny else {}))),
    ):
        yield gibbs if problem is None else Job("reference", key, partial(chain_row, problem, PUBLISHED[key]))
    if not tiny:
        yield Job("reference", "real logistic", partial(chain_row, problems.real_logistic, ""))
        large = partial(problems.large_logistic, 1, 20_000)
        yield Job("reference", "large logistic", partial(chain_row, large, ""))


def chain_row(make: Callable[[], Problem], published: str, options: Options) -> Row:
    """One problem: BlackJAX, our rollout, ``method="auto"``, the best blocks of those tried, Newton's method, and C."""
    problem = make()
    chains = Chains(problem)
    measured_steps = options.sequential_steps(problem.num_steps)
    short = Chains(problem, measured_steps)
    report = chains.check()
    best, tried = best_of(candidates(problem.num_steps, problem.num_chains, options), chains)
    runs: dict[str, Callable[[], Any]] = {"blackjax": short.blackjax, "sequential": short.sequential}
    if problem.num_chains == 1:
        runs["auto"] = partial(auto, problem, chains)
    runs["blocks"] = partial(chains.in_blocks, best, chains.mesh)
    if published and problem.dimension <= MAX_DENSE:  # published figures are of Newton's method
        runs["newton"] = partial(chains.in_blocks, newton(problem.num_steps), chains.mesh)
    note = {}
    if problem.name.startswith("banana"):
        try:
            native.banana_hmc(1)
            start = tuple(float(x) for x in problem.positions["x"][0])
            runs["c_loop"] = partial(native.banana_hmc, problem.num_steps, start)
        except native.NoCompilerError as reason:
            note["c_loop_skipped"] = str(reason)
    records = options.measure(runs)
    for name in ("blackjax", "sequential"):
        records[name] = extrapolated(records[name], problem.num_steps, measured_steps)
    accepted = np.mean(np.asarray(short.sequential().outputs[1]))
    return {
        "title": problem.name,
        "work": {**problem.identity(), "acceptance_rate": float(accepted)},
        "runs": records,
        "blocks_setting": describe(best),
        "tried": tried,
        "plan": str(report.plan),
        "lle": report.lle,
        "published": published,
        **note,
    }


def auto(problem: Problem, chains: Chains) -> parsample.Solution:
    """``method="auto"`` on the first chain, by the public function."""
    return parsample.evaluate_inference_algorithm(
        chains.rng_keys[0],
        problem.algorithm,
        problem.num_steps,
        initial_position=jax.tree.map(lambda leaf: leaf[0], problem.positions),
        transform=position_and_acceptance,
    )


def newton(num_steps: int) -> parsample.DEER:
    """Newton's method with b = 1, run until it converges even if it does not pay, as in the published sweep counts."""
    return parsample.DEER(1, Dense(), max_iters=500, stall_after=num_steps)


# Numbers of lanes tried with coalescing blocks.
LANES = {"tiny": (8,), "cpu": (8, 64, 512), "gpu": (32, 256, 2048)}


def candidates(num_steps: int, num_chains: int, options: Options) -> list[parsample.DEER]:
    """Coalescing blocks of several sizes; the result row lists all of them, the table shows the fastest."""
    counts = {max(2, lanes // num_chains) for lanes in LANES[options.scale]}
    return [parsample.DEER(ceil_div(num_steps, count), Zero()) for count in sorted(counts) if 2 * count <= num_steps]


def best_of(methods: list[parsample.DEER], chains: Chains) -> tuple[parsample.DEER, list[Row]]:
    """The fastest of several settings, by the better of two runs each; and the record of each setting."""
    tried = [_tried(describe(method), partial(chains.in_blocks, method, chains.mesh)) for method in methods]
    fastest = min(range(len(methods)), key=lambda i: tried[i]["seconds"])
    return methods[fastest], tried


def _tried(name: str, run: Callable[[], Any]) -> Row:
    result, seconds = better_of_two(run)
    return {"setting": name, "seconds": seconds, **certificate(result)}


def describe(method: parsample.DEER) -> str:
    """Settings in a few words."""
    return f"b = {method.block_size}, {type(method.linearization).__name__}"


def gibbs_row(num_steps: int, options: Options) -> Row:
    """The Gibbs sampler: step by step, by Newton's method with b = 1, and by the fastest of several block sizes."""
    chains = [eight_schools(num_steps, seed=seed) for seed in range(2)]
    methods = [*candidates(num_steps, len(chains), options), parsample.DEER(16)]
    tried = [_tried(describe(method), partial(_solve, chains, method)) for method in methods]
    best = methods[min(range(len(methods)), key=lambda i: tried[i]["seconds"])]
    runs = {
        "sequential": partial(_rollouts, chains),
        "blocks": partial(_solve, chains, best),
        "newton": partial(_solve, chains, newton(num_steps)),
        "quasi_newton": partial(_solve, chains, replace(newton(num_steps), linearization=Diagonal())),
    }
    return {
        "title": "eight schools, Gibbs, 18 parameters",
        "work": {"T": num_steps, "D": 18, "num_chains": len(chains), "start": "data, and N(0, 0.5^2)"},
        "runs": options.measure(runs),
        "blocks_setting": describe(best),
        "tried": tried,
        "published": PUBLISHED["gibbs"],
    }


def _solve(chains: list[Recursion], method: parsample.DEER) -> list[parsample.Solution]:
    """One chain after another, each on all devices."""
    return [parsample.deer(chains[0].step, chain.initial_state, chain.inputs, **vars(method)) for chain in chains]


def _rollouts(chains: list[Recursion]) -> Any:
    starts, inputs = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        for parts in ([chain.initial_state for chain in chains], [chain.inputs for chain in chains])
    )
    return _roll_all(chains[0].step, starts, inputs)


@jit_with_xla_options(1)
def _roll_all(step: Callable, states: Any, inputs: Any) -> Any:
    return jax.vmap(partial(parsample.rollout, step))(states, inputs)
