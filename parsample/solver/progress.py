"""Progress of Newton's method after a sweep, and the decision whether to continue."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from parsample.internal.trees import write
from parsample.solver.grid import Grid
from parsample.solver.method import DEER
from parsample.solver.status import Status


class DeviceSummary(NamedTuple):
    """Summary of one device's blocks after a sweep; with leading axis N once gathered from all N devices.

    Attributes
    ----------
    num_exact
        Leading blocks of the device that start exactly where the previous block ended.
    lost
        Whether the state that enters the first block after them is not finite.
    num_unmet
        Blocks whose start or join is not within tolerance.
    num_met
        Leading blocks of the device whose start and join are within tolerance.
    defect
        The largest defect.
    squares
        Sum of all squared defects, in units of the state.
    """

    num_exact: Int[Array, "*N"]
    lost: Bool[Array, "*N"]
    num_unmet: Int[Array, "*N"]
    num_met: Int[Array, "*N"]
    defect: Float[Array, "*N"]
    squares: Float[Array, "*N"]


class Progress(NamedTuple):
    """Progress of all devices together after `num_iters` sweeps; histories have one entry per sweep.

    Attributes
    ----------
    num_iters
        Sweeps run.
    front
        Exact prefix, in blocks: these are the chain's own for any scale.
    hopeless
        Whether an exact block ends in a non-finite state, which no further sweep can repair.
    defects
        Largest defect; -1 beyond `num_iters`.
    merits
        Half the sum of all squared defects; -1 beyond `num_iters`.
    fronts, met_prefixes, unmet
        Values of `front`, leading blocks within tolerance, and numbers of blocks that have not met.
    """

    num_iters: Int[Array, ""]
    front: Int[Array, ""]
    hopeless: Bool[Array, ""]
    defects: Float[Array, " H"]
    merits: Float[Array, " H"]
    fronts: Int[Array, " H"]
    met_prefixes: Int[Array, " H"]
    unmet: Int[Array, " H"]


def no_progress(max_sweeps: int, dtype: Any) -> Progress:
    """Progress before the first of at most `max_sweeps` sweeps."""
    zero, zeros = jnp.asarray(0), jnp.zeros((max_sweeps,), int)
    unknown = jnp.full((max_sweeps,), -1, dtype)
    return Progress(zero, zero, jnp.asarray(False), unknown, unknown, zeros, zeros, zeros)


def advance(progress: Progress, summaries: DeviceSummary, grid: Grid) -> Progress:
    """Progress after one more sweep, given the summaries of all devices."""
    front, reached = _leading(summaries.num_exact, grid)
    met_prefix, _ = _leading(summaries.num_met, grid)
    # Slices, not `.at[]`: a scatter would keep XLA from compiling the whole loop into one function on CPUs.
    histories = (progress.defects, progress.merits, progress.fronts, progress.met_prefixes, progress.unmet)
    news = (summaries.defect.max(), summaries.squares.sum() / 2, front, met_prefix, summaries.num_unmet.sum())
    histories = write(histories, news, progress.num_iters)
    hopeless = jnp.any(reached & (summaries.num_exact < grid.lanes_per_device) & summaries.lost)
    return Progress(progress.num_iters + 1, front, hopeless, *histories)


def _leading(counts: Int[Array, " N"], grid: Grid) -> tuple[Int[Array, ""], Bool[Array, " N"]]:
    """Leading blocks of the chain, from the counts of each device; and whether they reach each device."""
    through = jnp.cumprod(counts == grid.lanes_per_device)
    reached = jnp.concatenate([jnp.ones_like(through[:1]), through[:-1]]) == 1
    return jnp.minimum(jnp.sum(jnp.where(reached, counts, 0)), grid.num_blocks), reached


def stall_limit(method: DEER, grid: Grid, num_tangents: int) -> int:
    """Number of sweeps beyond which a sequential run is cheaper."""
    # A sweep does at least (1 + tangents) times the work of a sequential run, in C parallel blocks. On an unknown
    # device, a gain of less than a factor of four from running them in parallel is not worth having.
    return method.stall_after or max(16, grid.num_blocks // (4 * (1 + num_tangents)))


def max_sweeps(method: DEER, grid: Grid, num_tangents: int) -> int:
    """Largest number of sweeps: C, which always suffices, or fewer by `max_iters` or `stall_after`."""
    return min(grid.num_blocks, method.max_iters or grid.num_blocks, stall_limit(method, grid, num_tangents))


def verdict(
    progress: Progress,
    method: DEER,
    grid: Grid,
    num_tangents: int,
    atol: Array,
    num_required_steps: Int[Array, ""] | int | None = None,
) -> Int[Array, ""]:
    """A Status if this was the last sweep, else -1; only the first `num_required_steps` must converge, if given."""
    limit = stall_limit(method, grid, num_tangents)
    # Coalescing blocks show their rate of meeting early; Newton's method may speed up late.
    patience = max(4, limit // 4) if method.is_fixed_point else max(8, limit // 2)
    num_iters = progress.num_iters
    needed = grid.num_blocks if num_required_steps is None else -(-num_required_steps // grid.block_size)
    stalled = (num_iters >= patience) & (num_iters.astype(atol.dtype) + _sweeps_left(progress, needed, atol) > limit)
    stalled |= (num_iters >= limit) | progress.hopeless
    ended = jnp.where(stalled, int(Status.STALLED), -1)
    if method.max_iters is not None:
        ended = jnp.where(num_iters >= method.max_iters, int(Status.MAX_ITERS), ended)
    met = progress.unmet[num_iters - 1] == 0
    if num_required_steps is not None:
        met |= progress.met_prefixes[num_iters - 1] * grid.block_size >= num_required_steps
    return jnp.where(met, int(Status.CONVERGED), ended)


def _sweeps_left(progress: Progress, num_blocks: Int[Array, ""] | int, atol: Array) -> Float[Array, ""]:
    """Number of further sweeps the path needs, by the most optimistic of three trends over the last half of the sweeps.

    The exact prefix grows linearly; the number of blocks that have not met, or the largest defect, falls geometrically.
    """
    now, then = progress.num_iters - 1, jnp.maximum(progress.num_iters // 2 - 1, 0)
    lag = jnp.maximum(now - then, 1).astype(atol.dtype)

    def until_one(values: Array) -> Array:
        new, old = values[now].astype(lag.dtype), values[then].astype(lag.dtype)
        return jnp.where(new < old, lag * jnp.log(jnp.maximum(new, 1)) / jnp.log(old / new), jnp.inf)

    advanced = jnp.maximum(progress.fronts[now] - progress.fronts[then], 1).astype(lag.dtype)
    by_front = (num_blocks - progress.front).astype(lag.dtype) * lag / advanced
    return jnp.minimum(by_front, jnp.fmin(until_one(progress.unmet), until_one(progress.defects / atol)))
