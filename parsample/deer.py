"""Block DEER: the whole path of a chain by Newton's method on its block starts.

T steps are cut into C blocks of b steps with starts x_c. One iteration runs all blocks (`sweep`), compares each
block's end e_{c-1} with the next one's start (*defect* d_c = e_{c-1} - x_c), and corrects the starts by
``delta_c = A_{c-1} delta_{c-1} + d_c`` (`affine`). After k iterations the first k blocks are exact whatever A is.
Inside blocks the path is the chain's own, so the largest defect certifies the whole of it. See Lim et al., arXiv
2309.12252, Gonzalez et al., arXiv 2407.19115 and Zoltowski et al., arXiv 2508.18413 for b = 1; with b > 1 and A = 0
it is multiple shooting (Bellen & Zennaro 1989).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from parsample import affine
from parsample.linearize import Zero, bounded
from parsample.solution import DEER, Solution
from parsample.status import Status
from parsample.sweep import Grid, Lanes, Splice, Sweep, Tolerance, in_lockstep
from parsample.transition import Inputs, Transition, Vector, entry, write

# Sweeps of which the defect of every block is kept, for the picture of the advancing front.
NUM_FRONTS = 8


class _Iterate(NamedTuple):
    """Where Newton's method stands."""

    starts: Float[Array, "C D"]
    lanes: Lanes
    scale: Vector
    splice: Splice
    defect_sizes: Float[Array, " C"]
    front: Int[Array, ""]
    stopped: Int[Array, ""]  # a Status, or -1 while running
    num_iters: Int[Array, ""]
    steps_run: Int[Array, ""]
    defect_history: Float[Array, " H"]
    front_history: Int[Array, " H"]
    unmet_history: Int[Array, " H"]
    block_defects: Float[Array, "F C"]


def solve(
    transition: Transition,
    start: Vector,
    inputs: Inputs,
    method: DEER,
    *,
    block_starts: Float[Array, "C D"] | None = None,
    scale: Vector | None = None,
    probe_key: Array | None = None,
    axis_name: str | None = None,
) -> Solution:
    """The path of `transition` from `start`, by block DEER.

    Parameters
    ----------
    transition, start, inputs
        The chain, its reduced initial state, shape (D,), and what drives it for T steps.
    method
        The settings.
    block_starts
        Guesses of the states at the block starts, shape (C, D). None: `start` everywhere.
    scale
        Standard deviation of the chain, shape (D,), the unit of defects. None: that of the path found so far.
    probe_key
        Key of Hutchinson's probes; the path does not depend on it.
    axis_name
        Name of a vmapped axis of chains to be solved in lockstep, which keeps the loops free of masks.
    """
    grid = Grid(inputs.num_steps, method.block_size)
    key = jax.random.key(0) if probe_key is None else probe_key
    seeds = method.linearization.seeds(key, start.shape[0], start.dtype)
    everywhere = in_lockstep(axis_name)
    sweep = Sweep(transition, method.linearization, inputs, grid, seeds, everywhere)
    first = _begin(sweep, start, block_starts, scale, _max_sweeps(method, grid, seeds.shape[0]))
    last = jax.lax.while_loop(lambda it: it.stopped < 0, partial(_iterate, sweep, method, scale, everywhere), first)
    return _conclude(sweep, last, everywhere)


def _max_sweeps(method: DEER, grid: Grid, num_tangents: int) -> int:
    """C sweeps always suffice; `max_iters` and `stall_after` may ask for fewer."""
    return min(grid.num_blocks, method.max_iters or grid.num_blocks, _stall_after(method, grid, num_tangents))


def _stall_after(method: DEER, grid: Grid, num_tangents: int) -> int:
    # A sweep does at least (1 + tangents) times the work of a sequential run, side by side. With nothing known of the
    # device, a fourfold gain from that is the least worth having.
    return method.stall_after or max(16, grid.num_blocks // (4 * (1 + num_tangents)))


def _begin(sweep: Sweep, start: Vector, guess: Array | None, scale: Vector | None, max_sweeps: int) -> _Iterate:
    num_blocks = sweep.grid.num_blocks
    starts = jnp.broadcast_to(start, (num_blocks, *start.shape)) if guess is None else write(guess, start, 0)
    zero = jnp.asarray(0)
    return _Iterate(
        starts=starts,
        lanes=sweep.blank(starts),
        scale=jnp.ones_like(start) if scale is None else scale,
        splice=Splice(jnp.asarray(0), jnp.zeros_like(starts), starts),
        defect_sizes=jnp.zeros_like(starts[:, 0]),
        front=zero,
        stopped=jnp.asarray(-1),
        num_iters=zero,
        steps_run=zero,
        defect_history=jnp.full((max_sweeps,), jnp.nan, start.dtype),
        front_history=jnp.zeros((max_sweeps,), int),
        unmet_history=jnp.zeros((max_sweeps,), int),
        block_defects=jnp.full((NUM_FRONTS, num_blocks), jnp.nan, start.dtype),
    )


def _iterate(
    sweep: Sweep, method: DEER, scale: Vector | None, everywhere: Callable[[Array], Array], it: _Iterate
) -> _Iterate:
    """One iteration: sweep, defects, verdict, corrected starts."""
    # A new splice lies beyond the one before (of any chain in lockstep), which it overwrites: there is only ever one.
    spliced = jnp.any(it.splice.difference != 0)
    min_steps = -everywhere(-jnp.where(spliced, it.splice.step + 1, 0))
    lanes, splice = sweep(it.starts, it.lanes, method.tolerance(it.scale), min_steps)
    tolerance = method.tolerance(_spread(lanes.path) if scale is None else scale)
    ends = jax.vmap(sweep.transition.reduce)(lanes.carries)
    arrivals = _exchange(it.starts[0], ends)
    defects = arrivals - it.starts
    met = tolerance.vouches(defects, it.starts) & tolerance.vouches(splice.difference, splice.state)
    exact = (defects == 0).all(-1) & tolerance.vouches(splice.difference, splice.state)
    it = it._replace(lanes=lanes, splice=splice, scale=tolerance.scale, steps_run=it.steps_run + splice.step)
    it = _record(it, tolerance.size(defects), met, exact)
    it = it._replace(stopped=_verdict(it, ends, met, method, sweep, everywhere))
    starts = _correct(it, defects, arrivals, sweep, method, tolerance)
    return it._replace(starts=jnp.where(it.stopped < 0, starts, it.starts))


def _spread(path: Float[Array, "b C D"]) -> Vector:
    """Standard deviation of the finite states of a path; where that is 0 the size of the state, or 1."""
    # A few thousand states give a unit good to a few percent; reading them all would show in a sweep's time.
    stride = max(1, path.shape[0] * path.shape[1] // 4096)
    states = path.reshape(-1, path.shape[-1])[::stride]
    finite = jnp.isfinite(states).all(-1, keepdims=True)
    count = jnp.maximum(finite.sum(), 1)
    mean = jnp.where(finite, states, 0).sum(0) / count
    spread = jnp.sqrt(jnp.where(finite, jnp.square(states - mean[None]), 0).sum(0) / count)
    fallback = jnp.where(mean == 0, 1, jnp.abs(mean))
    return jnp.where(jnp.isfinite(spread) & (spread > 0), spread, fallback)


def _exchange(start: Vector, ends: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """Where each block is reached: the end of the block before it. The one place where blocks learn of each other."""
    return jnp.concatenate([start[None], ends[:-1]])


def _record(
    it: _Iterate, defect_sizes: Float[Array, " C"], met: Bool[Array, " C"], exact: Bool[Array, " C"]
) -> _Iterate:
    k = it.num_iters
    # Blocks that start exactly where the one before ended, from the first on: the chain's own, whatever the scale.
    front = jnp.where(exact.all(), exact.shape[0], jnp.argmin(exact))
    row = jnp.minimum(k, NUM_FRONTS - 1)
    kept = jnp.where(k < NUM_FRONTS, defect_sizes, entry(it.block_defects, row))
    histories = (it.defect_history, it.front_history, it.unmet_history)
    # Slices, not `.at[]`: a scatter would keep XLA from compiling the whole loop into one function on CPUs.
    defect_history, front_history, unmet_history = write(histories, (defect_sizes.max(), front, (~met).sum()), k)
    return it._replace(
        num_iters=k + 1,
        front=front,
        defect_sizes=defect_sizes,
        defect_history=defect_history,
        front_history=front_history,
        unmet_history=unmet_history,
        block_defects=write(it.block_defects, kept, row),
    )


def _verdict(
    it: _Iterate, ends: Array, met: Array, method: DEER, sweep: Sweep, everywhere: Callable[[Array], Array]
) -> Array:
    """A Status if this was the last sweep, else -1."""
    num_tangents = sweep.seeds.shape[0]
    stall_after = _stall_after(method, sweep.grid, num_tangents)
    # Coalescing blocks soon show how many of them meet; Newton's method may gather speed late.
    patience = max(4, stall_after // 4) if isinstance(method.linearization, Zero) else max(8, stall_after // 2)
    # An exact block that ends in NaN will not be mended by further sweeps.
    hopeless = ~jnp.isfinite(entry(ends, jnp.maximum(it.front - 1, 0))).all()
    stalled = (it.num_iters >= patience) & (
        it.num_iters + _sweeps_left(it, method.tolerance(it.scale).atol) > stall_after
    )
    stalled |= (it.num_iters >= stall_after) | hopeless
    verdict = jnp.where(stalled, int(Status.STALLED), -1)
    if method.max_iters is not None:
        verdict = jnp.where(it.num_iters >= method.max_iters, int(Status.MAX_ITERS), verdict)
    # Chains in lockstep stop when all have converged, or when one cannot.
    converged = everywhere(met.all())
    verdict = -everywhere(-verdict)
    return jnp.where(converged, int(Status.CONVERGED), verdict)


def _sweeps_left(it: _Iterate, atol: Array) -> Float[Array, ""]:
    """How many more sweeps the path needs, on the most hopeful of three trends since half the sweeps ago.

    The front moves on linearly; the number of blocks that have not met, or the largest defect, falls geometrically.
    """
    num_blocks = it.starts.shape[0]
    now, then = it.num_iters - 1, jnp.maximum(it.num_iters // 2 - 1, 0)
    lag = jnp.maximum(now - then, 1).astype(it.scale.dtype)

    def until_one(new: Array, old: Array) -> Array:
        new, old = new.astype(lag.dtype), old.astype(lag.dtype)
        return jnp.where(new < old, lag * jnp.log(jnp.maximum(new, 1)) / jnp.log(old / new), jnp.inf)

    by_front = (num_blocks - it.front) * lag / jnp.maximum(it.front_history[now] - it.front_history[then], 1)
    by_count = until_one(it.unmet_history[now], it.unmet_history[then])
    by_defect = until_one(it.defect_history[now] / atol, it.defect_history[then] / atol)
    return jnp.minimum(by_front, jnp.fmin(by_count, by_defect))


def _correct(
    it: _Iterate, defects: Array, arrivals: Array, sweep: Sweep, method: DEER, tolerance: Tolerance
) -> Float[Array, "C D"]:
    """The next block starts: x_c + delta_c, written as e_{c-1} + A delta_{c-1} so that an exact front stays exact."""
    if isinstance(method.linearization, Zero):
        starts = arrivals
    else:
        matrices = jax.vmap(method.linearization.matrix, in_axes=(None, 0))(sweep.seeds, it.lanes.images)
        if method.clip is not None:
            matrices = method.clip * bounded(matrices / method.clip)
        deltas = affine.solve(matrices, defects)
        starts = arrivals + (deltas - defects)
        if method.max_step is not None:
            size = tolerance.size(deltas)[:, None]
            limited = it.starts + deltas * (method.max_step / jnp.maximum(size, method.max_step))
            starts = jnp.where(size > method.max_step, limited, starts)
        # The exact front is not a guess: the block it reaches starts where it ends.
        starts = jnp.where((jnp.arange(len(starts)) <= it.front)[:, None], arrivals, starts)
    # A guess must be finite to lead anywhere: else take the arrival, else stay.
    starts = jnp.where(jnp.isfinite(starts).all(-1, keepdims=True), starts, arrivals)
    return jnp.where(jnp.isfinite(starts).all(-1, keepdims=True), starts, it.starts)


def _conclude(sweep: Sweep, it: _Iterate, everywhere: Callable[[Array], Array]) -> Solution:
    """Finish sequentially where sweeps did not, and draw up the certificate."""
    grid, transition, lanes = sweep.grid, sweep.transition, it.lanes
    stalled = it.stopped == int(Status.STALLED)
    front = jnp.where(stalled, everywhere(it.front), grid.num_blocks)

    def advance(loop: tuple) -> tuple:
        t, carry, path, outputs = loop
        carry, output = transition.step(carry, sweep.inputs.at(t))
        path, outputs = write(
            (path, outputs), (transition.reduce(carry), output), t % grid.block_size, t // grid.block_size
        )
        return t + 1, carry, path, outputs

    begin = jnp.minimum(front * grid.block_size, grid.num_steps)
    _, final, path, outputs = jax.lax.while_loop(
        lambda loop: loop[0] < grid.num_steps,
        advance,
        (begin, entry(lanes.carries, jnp.maximum(front - 1, 0)), lanes.path, lanes.outputs),
    )
    states = grid.flatten(path)
    swept = jnp.arange(grid.num_blocks) < front
    defect, defect_at = _largest_defect(it, swept, grid)
    work = it.steps_run * grid.num_blocks * (1 + sweep.seeds.shape[0]) + (grid.num_steps - begin)
    return Solution(
        states=states,
        outputs=grid.flatten(outputs),
        final=final,
        status=jnp.where(jnp.isfinite(states).all(), it.stopped, int(Status.NON_FINITE)),
        defect=defect,
        defect_at=defect_at,
        num_iters=it.num_iters,
        evals_per_step=work.astype(defect.dtype) / grid.num_steps,
        defect_history=it.defect_history,
        exact_prefix=jnp.where(
            it.stopped == int(Status.CONVERGED), grid.num_steps, jnp.minimum(it.front * grid.block_size, grid.num_steps)
        ),
        block_defects=it.block_defects,
    )


def _largest_defect(it: _Iterate, swept: Bool[Array, " C"], grid: Grid) -> tuple[Array, Array]:
    """The largest jump between or inside the blocks that sweeps found, and the number of steps before it."""
    splice_sizes = jnp.max(jnp.abs(it.splice.difference) / it.scale[None], axis=-1)
    sizes = jnp.concatenate([jnp.where(swept, it.defect_sizes, 0), jnp.where(swept, splice_sizes, 0)])
    worst = jnp.argmax(sizes)
    block, inside = worst % grid.num_blocks, worst // grid.num_blocks
    at = block * grid.block_size + inside * it.splice.step
    return sizes[worst], jnp.where(sizes[worst] == 0, -1, at)
