"""Group "profile": the cost of a step of many lanes, unrolled or not, and the affine solve's share of a Newton
iteration.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import parsample
from benchmarks import posteriors, problems
from benchmarks.chains import Chains, position_and_acceptance
from benchmarks.problems import Problem
from benchmarks.suite import Job, Options, Row
from parsample.chain.blackjax_chain import AlgorithmDynamics
from parsample.internal.compilation import jit_with_xla_options
from parsample.solver import affine
from parsample.solver.linearization import Dense, Zero
from parsample.solver.operators import DenseOperator, Operator

# Lane counts whose step is timed, and the number of steps timed together.
LANES = {"tiny": (1, 8), "cpu": tuple(8**k for k in range(5)), "gpu": (1, 64, 1024, 16_384, 131_072)}
STEPS = {"tiny": 8, "cpu": 64, "gpu": 64}
UNROLLED = {"tiny": (1, 4), "cpu": (1, 4, 16), "gpu": (1, 4)}


def jobs(options: Options) -> Iterator[Job]:
    """Lanes and unrolling for cheap and expensive chains; the affine solve for several lengths."""
    tiny = options.scale == "tiny"
    yield from _lanes_of("mixture", problems.mixture_mala, options)
    if not tiny:
        yield from _lanes_of("real logistic", problems.real_logistic, options)
    lengths = {"tiny": (64,), "cpu": (1024, 16_384), "gpu": (1024, 131_072)}[options.scale]
    for num_steps in lengths:
        for dimension in (4,) if tiny else (2, 16):
            yield Job("affine", f"T = {num_steps}, D = {dimension}", partial(affine_row, num_steps, dimension))
    if not tiny:
        yield from _lanes_of("banana", problems.banana_hmc, options)


def _lanes_of(name: str, make: Any, options: Options) -> Iterator[Job]:
    for lanes in LANES[options.scale]:
        yield Job("lanes", f"{name}, {lanes} lanes", partial(lanes_row, make, lanes))


def lanes_row(make: Any, lanes: int, options: Options) -> Row:
    """Seconds per step of all lanes at once, in a sweep and in a plain loop unrolled by several factors.

    For the sweep, the difference between long and short blocks is taken, so that the cost of its start cancels.
    """
    problem: Problem = make(lanes)
    side_by_side, num_steps = Chains(problem, 16), STEPS[options.scale]
    runs = {
        f"unroll_{factor}": partial(
            _lanes, side_by_side.dynamics, num_steps, factor, side_by_side.states, side_by_side.chain_keys
        )
        for factor in UNROLLED[options.scale]
    }
    lengths = (num_steps, 4 * num_steps)
    for length in lengths:
        chains = Chains(make(1, lanes * length))
        runs[f"sweep_{length}"] = partial(chains.in_blocks, parsample.DEER(length, Zero(), max_iters=1))
    records = options.measure(runs)
    seconds = {name: record["seconds"]["median"] for name, record in records.items()}
    short, long = (seconds.pop(f"sweep_{length}") for length in lengths)
    per_step = {name: value / num_steps for name, value in seconds.items()}
    return {
        "x": lanes,
        "title": problem.name,
        "work": {"num_lanes": lanes, "num_steps": num_steps, "D": problem.dimension},
        "runs": records,
        "seconds_per_step": {"sweep": max(long - short, 0.0) / (lengths[1] - lengths[0]), **per_step},
    }


@jit_with_xla_options(3)
def _lanes(dynamics: AlgorithmDynamics, num_steps: int, unroll: int, states: Any, keys: jax.Array) -> Any:
    def one(key: jax.Array, state: Any) -> Any:
        new_state, info = dynamics.algorithm.step(key, state)
        return new_state, position_and_acceptance(new_state, info)

    def advance(states: Any, t: jax.Array) -> Any:
        return jax.vmap(one)(jax.vmap(lambda key: jax.random.fold_in(key, t))(keys), states)

    return jax.lax.scan(advance, states, jnp.arange(num_steps), unroll=unroll)


def affine_row(num_steps: int, dimension: int, options: Options) -> Row:
    """The affine solve alone, in all its forms, against one iteration of Newton's method with b = 1.

    One iteration is half the difference between four and two, so that the costs of start and finish cancel.
    """
    problem = problems.laplace_hmc(posteriors.synthetic_logistic(100, dimension), 1, num_steps)
    chains = Chains(problem)
    key_matrix, key_defect = jax.random.split(jax.random.key(0))
    # Of spectral radius below 1, like the Jacobians of a predictable chain.
    matrices = 0.5 / dimension**0.5 * jax.random.normal(key_matrix, (num_steps, dimension, dimension))
    operators = DenseOperator(matrices)
    defects = jax.random.normal(key_defect, (num_steps, dimension))
    runs = {
        "solve": partial(_solved, affine.solve, operators, defects),
        "sequential_solve": partial(_solved, affine.solve_sequential, operators, defects),
        "associative_solve": partial(_solved, affine.solve_associative, operators, defects),
    }
    for count in (2, 4):
        # Tolerance 0 is never met, so exactly `count` sweeps are run.
        method = parsample.DEER(1, Dense(), atol=0.0, rtol=0.0, max_iters=count, stall_after=num_steps)
        runs[f"newton_{count}"] = partial(chains.in_blocks, method)
    records = options.measure(runs)
    medians = {name: record["seconds"]["median"] for name, record in records.items()}
    iteration = (medians["newton_4"] - medians["newton_2"]) / 2
    return {
        "x": num_steps,
        "title": f"D = {dimension}",
        "work": problem.identity(),
        "runs": records,
        "iteration_seconds": iteration,
        "solve_share": medians["solve"] / iteration if iteration > 0 else None,
    }


@jit_with_xla_options(1)
def _solved(solve: Any, operators: Operator, defects: jax.Array) -> jax.Array:
    return solve(operators, defects)
