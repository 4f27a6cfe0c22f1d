"""Chains of one problem, evaluated by each method that the suite compares."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import parsample
from benchmarks.problems import Problem
from parsample.chain.blackjax_chain import AlgorithmDynamics, begin
from parsample.internal.arithmetic import ceil_div
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.devices import mesh_of
from parsample.planning.check import examine
from parsample.planning.report import Report
from parsample.solver.finish import completed, finish
from parsample.solver.linearization import Zero
from parsample.solver.newton import solve
from parsample.solver.solution import rolled_out


def position_and_acceptance(state: Any, info: Any) -> tuple[Any, Any]:
    """Outputs that every evaluation keeps of a step: position, and whether its proposal was accepted."""
    return state.position, info.is_accepted


class Chains:
    """The chains of a problem, with the keys that ``blackjax.util.run_inference_algorithm`` would use.

    `parsample.evaluate_inference_algorithm` takes one chain; this class vmaps many, and lets the caller choose initial
    guesses and devices.
    """

    def __init__(self, problem: Problem, num_steps: int | None = None) -> None:
        self.problem = problem
        self.num_steps = num_steps or problem.num_steps
        self.mesh = mesh_of(None)
        self.dynamics = AlgorithmDynamics(problem.algorithm, position_and_acceptance)
        self.rng_keys = jax.random.split(jax.random.key(0), problem.num_chains)
        begun = jax.vmap(partial(begin, self.dynamics))(self.rng_keys, problem.positions)
        self.chain_keys, self.states, self.starts = begun

    @cached_property
    def _blackjax(self) -> Callable:
        def one(rng_key: jax.Array, position: Any) -> Any:
            return blackjax.util.run_inference_algorithm(
                rng_key,
                self.problem.algorithm,
                self.num_steps,
                initial_position=position,
                transform=position_and_acceptance,
            )

        # BlackJAX compiles at every call; we compare with its best case, compiled once.
        return jax.jit(jax.vmap(one) if self.problem.num_chains > 1 else _first(one))

    def blackjax(self) -> Any:
        """Evaluate step by step with BlackJAX."""
        return self._blackjax(self.rng_keys, self.problem.positions)

    def sequential(self) -> parsample.Solution:
        """Evaluate step by step with parsample."""
        return _sequential(self.dynamics, self.num_steps, self.states, self.starts, self.chain_keys)

    def in_blocks(self, method: parsample.DEER, mesh: Mesh | None = None, guesses: Any = None) -> parsample.Solution:
        """Evaluate in blocks. Block starts cycle through `guesses`, shape (n, D); None: the start of the chain."""
        solution = _in_blocks(
            self.dynamics, self.num_steps, method, mesh, self.states, self.starts, self.chain_keys, guesses
        )
        run = (self.dynamics, self.num_steps, method.block_size, self.states, self.chain_keys)
        return completed(solution, mesh, partial(_finish, *run))

    def check(self) -> Report:
        """Run the check on the first chain."""
        state = jax.tree.map(lambda leaf: leaf[0], self.states)
        return examine(self.dynamics, state, state, self.chain_keys[0], self.num_steps, self.mesh)

    def best_blocks(self, report: Report) -> tuple[parsample.DEER, Mesh | None]:
        """Arguments of `in_blocks`: coalescing blocks, as many as ``method="deer"`` has lanes."""
        num_blocks = max(1, report.num_lanes // self.problem.num_chains)
        return parsample.DEER(ceil_div(self.num_steps, num_blocks), Zero()), self.mesh


def _first(one: Callable) -> Callable:
    """Apply `one` to the only chain, without vmap."""

    def of_one(*arguments: Any) -> Any:
        return one(*jax.tree.map(lambda leaf: leaf[0], arguments))

    return of_one


@jit_with_xla_options(2)
def _sequential(
    dynamics: AlgorithmDynamics, num_steps: int, states: Any, starts: jax.Array, keys: jax.Array
) -> parsample.Solution:
    def one(state: Any, start: jax.Array, rng_key: jax.Array) -> parsample.Solution:
        transition, inputs = dynamics(state, rng_key, num_steps)
        return rolled_out(transition, start, inputs)

    if len(starts) == 1:
        return _first(one)(states, starts, keys)
    return jax.vmap(one)(states, starts, keys)


@jit_with_xla_options(4)
def _in_blocks(  # noqa: PLR0913
    dynamics: AlgorithmDynamics,
    num_steps: int,
    method: parsample.DEER,
    mesh: Mesh | None,
    states: Any,
    starts: jax.Array,
    keys: jax.Array,
    guesses: Any,
) -> parsample.Solution:
    num_blocks = ceil_div(num_steps, method.block_size)

    def one(state: Any, start: jax.Array, rng_key: jax.Array) -> parsample.Solution:
        transition, inputs = dynamics(state, rng_key, num_steps)
        block_starts = None if guesses is None else jnp.asarray(guesses)[np.arange(num_blocks) % len(guesses)]
        solution = solve(transition, start, inputs, method, block_starts=block_starts, mesh=mesh)
        return solution._replace(states=None)

    if len(starts) == 1:
        return _first(one)(states, starts, keys)
    return jax.vmap(one)(states, starts, keys)


@jit_with_xla_options(3)
def _finish(
    dynamics: AlgorithmDynamics,
    num_steps: int,
    block_size: int,
    states: Any,
    keys: jax.Array,
    solution: parsample.Solution,
) -> parsample.Solution:
    def one(state: Any, rng_key: jax.Array, solution: parsample.Solution) -> parsample.Solution:
        return finish(*dynamics(state, rng_key, num_steps), solution, block_size)

    if len(keys) > 1:
        return jax.vmap(one)(states, keys, solution)
    return one(*jax.tree.map(lambda leaf: leaf[0], (states, keys)), solution)
