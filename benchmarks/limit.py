"""Group "limit": a solve against one batched evaluation of all its steps, and that against the hardware's limits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

import parsample
from benchmarks import problems
from benchmarks.chains import Chains
from benchmarks.problems import Problem
from benchmarks.reference import describe
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import extrapolated
from parsample.chain.blackjax_chain import AlgorithmDynamics
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.devices import SPLIT

# Bytes that one batched evaluation may hold beside its arguments; longer chains are evaluated in equal pieces.
MAX_BATCH_BYTES = 2 * 2**30


def jobs(options: Options) -> Iterator[Job]:
    """The device's bandwidth and rate, then one job per chain."""
    tiny = options.scale == "tiny"
    yield Job("device", "bandwidth and rate", device_row)
    num_steps = {"tiny": 2048, "cpu": 100_000, "gpu": 1_000_000}[options.scale]
    yield Job("limit", "mixture", partial(limit_row, partial(problems.mixture_mala, 1, num_steps)))
    if tiny:
        return
    yield Job("limit", "banana", partial(limit_row, partial(problems.banana_hmc, 1, num_steps)))
    yield Job("limit", "real logistic", partial(limit_row, partial(problems.real_logistic, 1, num_steps)))
    yield Job("limit", "large logistic", partial(limit_row, partial(problems.large_logistic, 1, num_steps // 5)))
    yield Job("limit", "logistic, 16 chains", partial(limit_row, partial(problems.real_logistic, 16, num_steps // 10)))


def device_row(options: Options) -> Row:
    """Bytes per second of a large copy, and operations per second of a large matrix product, of one device."""
    count, side = {"tiny": (2**16, 128), "cpu": (2**26, 2048), "gpu": (2**28, 8192)}[options.scale]
    values = jnp.zeros(count)
    matrix = jnp.ones((side, side))
    copy = jax.jit(lambda x: x + 1)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    runs = {"copy": partial(copy, values), "product": partial(product, matrix)}
    records = options.measure(runs)
    return {
        "title": "one device",
        "work": {"bytes": 2 * values.nbytes, "operations": 2 * side**3},
        "runs": records,
        "bytes_per_second": 2 * values.nbytes / records["copy"]["seconds"]["median"],
        "operations_per_second": 2 * side**3 / records["product"]["seconds"]["median"],
    }


def limit_row(make: Callable[[], Problem], options: Options) -> Row:
    """A solve, and its floor: one batched evaluation of all transitions, from the solved states with the same keys."""
    problem = make()
    chains = Chains(problem)
    blocks = chains.best_blocks(chains.check())
    steps = options.sequential_steps(problem.num_steps)
    floor = Floor(chains, chains.in_blocks(*blocks))
    records = options.measure(
        {
            "sequential": Chains(problem, steps).sequential,
            "blocks": partial(chains.in_blocks, *blocks),
            "floor": floor,
        }
    )
    records["sequential"] = extrapolated(records["sequential"], problem.num_steps, steps)
    total = problem.num_steps * problem.num_chains
    operations, traffic = gradient_costs(problem)
    return {
        "title": problem.name,
        "work": problem.identity(),
        "runs": records,
        "blocks_setting": describe(blocks[0]),
        "ratio": records["blocks"]["seconds"]["median"] / records["floor"]["seconds"]["median"],
        "floor_agreement": floor.agreement(),
        "floor_pieces": floor.num_pieces,
        # Gradients only, each with XLA's count for one gradient of a batch.
        "gradient_operations": operations * problem.gradients_per_step * total,
        "gradient_bytes": traffic * problem.gradients_per_step * total,
    }


class Floor:
    """One batched evaluation of all transitions of a known path."""

    def __init__(self, chains: Chains, solution: parsample.Solution) -> None:
        self.chains, mesh = chains, chains.mesh
        self.positions = _with_chain_axis(solution.outputs[0], chains)
        self.num_pieces = self._pieces()
        length = chains.num_steps // self.num_pieces * self.num_pieces
        before = jax.tree.map(
            lambda first, path: jnp.concatenate([first[:, None], path[:, :-1]], axis=1)[:, :length],
            chains.problem.positions,
            self.positions,
        )
        keys = jax.vmap(lambda key: jax.random.split(key, chains.num_steps))(chains.chain_keys)[:, :length]
        states = jax.jit(jax.vmap(jax.vmap(chains.problem.algorithm.init)))(before)
        # Chains and steps are flattened into the rows of one batch, which is split over the devices.
        flat = jax.tree.map(lambda leaf: leaf.reshape(self.num_pieces, -1, *leaf.shape[2:]), (keys, states))
        self.batches = [_piece(flat, piece) for piece in range(self.num_pieces)]
        if mesh is not None and jax.tree.leaves(self.batches[0])[0].shape[0] % mesh.size == 0:
            self.batches = jax.device_put(self.batches, NamedSharding(mesh, SPLIT))
        self.length = length
        jax.block_until_ready(self.batches)

    def _pieces(self) -> int:
        """Number of equal pieces, a power of two."""
        problem = self.chains.problem
        rows = self.chains.num_steps * problem.num_chains
        # A batch of a regression holds a margin for every row of data and step.
        held = 64 * problem.dimension + 8 * problem.setting.get("num_rows", 0)
        pieces = 1
        while rows * held > pieces * MAX_BATCH_BYTES:
            pieces *= 2
        return pieces

    def __call__(self) -> Any:
        return [_step_all(self.chains.dynamics, *batch) for batch in self.batches]

    def agreement(self) -> float:
        """Share of steps that agree with the path to 1e-3 standard deviations.

        1 for one chain, unless rounding in float32 flips accept decisions.
        """
        parts = [jax.device_get(part[0]) for part in self()]
        agree = np.asarray(True)
        for path, *found in zip(*map(jax.tree.leaves, (self.positions, *parts)), strict=True):
            wanted = np.asarray(path)[:, : self.length]
            difference = np.abs(np.concatenate(found).reshape(wanted.shape) - wanted) / wanted.std((0, 1))
            agree = agree & (difference < 1e-3).reshape(*wanted.shape[:2], -1).all(-1)
        return float(agree.mean())


def _piece(tree: Any, piece: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[piece], tree)


def _with_chain_axis(tree: Any, chains: Chains) -> Any:
    return tree if chains.problem.num_chains > 1 else jax.tree.map(lambda leaf: leaf[None], tree)


@jit_with_xla_options(1)
def _step_all(dynamics: AlgorithmDynamics, keys: jax.Array, states: Any) -> Any:
    def one(key: jax.Array, state: Any) -> Any:
        return dynamics.transform(*dynamics.algorithm.step(key, state))

    return jax.vmap(one)(keys, states)


def gradient_costs(problem: Problem, batch: int = 256) -> tuple[float, float]:
    """Operations and bytes of one gradient of the log density in a batch, as XLA counts them."""
    positions = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], (batch, *leaf.shape[1:])), problem.positions)
    batched = jax.jit(jax.vmap(jax.value_and_grad(problem.logdensity)))
    analysis = batched.lower(positions).compile().cost_analysis() or {}
    return analysis.get("flops", np.nan) / batch, analysis.get("bytes accessed", np.nan) / batch
