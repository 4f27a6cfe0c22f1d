"""Block DEER: the whole path of a chain by Newton's method on its block starts.

T steps are cut into C blocks of b steps with starts x_c. One iteration runs all blocks (`sweep`), compares each
block's end e_{c-1} with the next one's start (*defect* d_c = e_{c-1} - x_c), and corrects the starts by
``delta_c = A_{c-1} delta_{c-1} + d_c`` (`corrections`). After k iterations the first k blocks are exact for any A.
Inside a block the path follows the chain's recursion, so the largest defect certifies the whole path. See Lim et al.,
arXiv 2309.12252, Gonzalez et al., arXiv 2407.19115 and Zoltowski et al., arXiv 2508.18413 for b = 1; with b > 1 and
A = 0 it is multiple shooting (Bellen & Zennaro 1989).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Inputs, Transition, Vector
from parsample.internal.devices import SPLIT, SPLIT_SECOND, WHOLE, Collectives
from parsample.internal.trees import entry, write
from parsample.solver.grid import Grid
from parsample.solver.method import DEER
from parsample.solver.operators import Operator
from parsample.solver.progress import DeviceSummary, Progress, advance, max_sweeps, no_progress, verdict
from parsample.solver.solution import Solution
from parsample.solver.status import Status
from parsample.solver.sweep import Join, Lanes, Sweep
from parsample.solver.tolerance import Tolerance, largest_coordinate

# Number of sweeps whose defects are kept for every block, to plot how the exact prefix advances.
NUM_RECORDED_SWEEPS = 8

# After this many sweeps whose Jacobians had to be bounded, Jacobians are bounded in every sweep: for a chain that
# rejects, unbounded corrections mislead even within its range. Smooth recursions have converged by then.
MAX_BOUNDED_SWEEPS = 16

# Sharding of a solution on a mesh: fields with an axis of steps or blocks are split, the rest is replicated.
_SPLIT_FIELDS = {"states": SPLIT_SECOND, "outputs": SPLIT_SECOND, "block_ends": SPLIT, "block_defects": SPLIT_SECOND}
_LAYOUT = Solution(**{name: _SPLIT_FIELDS.get(name, WHOLE) for name in Solution._fields})  # type: ignore[arg-type]


class _Iterate(NamedTuple):
    """State of Newton's method on one device; the last four fields are the same on all devices."""

    starts: Float[Array, "C D"]
    lanes: Lanes
    join: Join
    defect_sizes: Float[Array, " C"]
    block_defects: Float[Array, "F C"]
    evals_per_lane: Float[Array, ""]
    scale: Vector
    progress: Progress
    num_bounded: Int[Array, ""]  # sweeps whose Jacobians had to be bounded
    stopped: Int[Array, ""]  # a Status, or -1 while running


def solve(  # noqa: PLR0913
    transition: Transition,
    start: Vector,
    inputs: Inputs,
    method: DEER,
    *,
    block_starts: Float[Array, "C D"] | None = None,
    scale: Vector | None = None,
    probe_key: Array | None = None,
    mesh: Mesh | None = None,
    num_required_steps: Int[Array, ""] | int | None = None,
) -> Solution:
    """The path of `transition` from `start`, by block DEER; `finish` completes a path that stalled.

    Parameters
    ----------
    transition, start, inputs
        The chain, its reduced initial state, shape (D,), and its inputs for T steps.
    method
        The settings.
    block_starts
        Guesses of the states at the block starts, shape (C, D). None: `start` everywhere.
    scale
        Standard deviation of the chain, shape (D,), the unit of defects. None: estimated from the path in each sweep.
    probe_key
        Key of Hutchinson's probes; the path does not depend on it.
    mesh
        Devices over which to spread the blocks; None: one device.
    num_required_steps
        Number of leading steps that must converge; ``exact_prefix`` may reach beyond them. None: all.
    """
    collectives = Collectives(mesh)
    grid = Grid(inputs.num_steps, method.block_size, collectives.num_devices)
    key = jax.random.key(0) if probe_key is None else probe_key
    tangent_seeds = method.linearization.tangent_seeds(key, start.shape[0], start.dtype)

    def on_each_device(starts: Float[Array, "C D"], sequence: PyTree) -> Solution:
        own = inputs._replace(sequence=sequence)
        sweep = Sweep(transition, method.linearization, own, grid, collectives, tangent_seeds)
        first = _begin(sweep, starts, scale, method)
        last = jax.lax.while_loop(
            lambda it: it.stopped < 0, partial(_iterate, sweep, method, start, scale, num_required_steps), first
        )
        return _conclude(sweep, last)

    spread = collectives.spread(on_each_device, (SPLIT, SPLIT_SECOND), _LAYOUT)
    solution = spread(_first_starts(grid, start, block_starts), grid.arrange(inputs.sequence))
    path = collectives.spread(grid.flatten, (SPLIT_SECOND,), SPLIT)((solution.states, solution.outputs))
    states, outputs = jax.tree.map(lambda leaf: leaf[: grid.num_steps], path)
    ends, defects = solution.block_ends[: grid.num_blocks], solution.block_defects[:, : grid.num_blocks]
    return _undifferentiated(solution._replace(states=states, outputs=outputs, block_ends=ends, block_defects=defects))


@jax.custom_jvp
def _undifferentiated(solution: Solution) -> Solution:
    """The solution; an error if it is differentiated, because derivatives of blocks need not have converged too."""
    return solution


@_undifferentiated.defjvp
def _refuse_derivatives(*_: Any) -> Any:
    raise TypeError(
        "Blocks have no derivatives: differentiate the chain step by step, by parsample.rollout or "
        "run_inference_algorithm(method='sequential')."
    )


def _first_starts(grid: Grid, start: Vector, guesses: Array | None) -> Float[Array, "L D"]:
    if guesses is None:
        return jnp.broadcast_to(start, (grid.num_lanes, *start.shape))
    idle = jnp.broadcast_to(start, (grid.num_lanes - len(guesses), *start.shape))
    return write(jnp.concatenate([guesses, idle]), start, 0)


def _begin(sweep: Sweep, starts: Float[Array, "C D"], scale: Vector | None, method: DEER) -> _Iterate:
    num_sweeps = max_sweeps(method, sweep.grid, sweep.tangent_seeds.shape[0])
    return _Iterate(
        starts=starts,
        lanes=sweep.blank(starts),
        join=Join.none(starts),
        defect_sizes=jnp.zeros_like(starts[:, 0]),
        block_defects=jnp.full((NUM_RECORDED_SWEEPS, starts.shape[0]), -1, starts.dtype),
        evals_per_lane=jnp.zeros((), starts.dtype),
        scale=jnp.ones_like(starts[0]) if scale is None else scale,
        progress=no_progress(num_sweeps, starts.dtype),
        num_bounded=jnp.asarray(0),
        stopped=jnp.asarray(-1),
    )


def _iterate(
    sweep: Sweep,
    method: DEER,
    start: Vector,
    scale: Vector | None,
    num_required_steps: Array | int | None,
    it: _Iterate,
) -> _Iterate:
    """One iteration: sweep, defects, verdict, corrected starts."""
    lanes, join, evals_per_lane = sweep(it.starts, it.lanes, method.tolerance(it.scale), it.join)
    incoming_states, found_scale = _exchange(sweep, start, lanes)
    tolerance = method.tolerance(found_scale if scale is None else scale)
    running = sweep.grid.running(sweep.first_lane, jnp.asarray(0))
    defects = jnp.where(running[:, None], incoming_states - it.starts, 0)
    sizes = tolerance.size(defects)
    exact = tolerance.accepts_capped(join.difference, join.state)
    met = exact & tolerance.accepts_capped(defects, it.starts)
    summaries = sweep.collectives.all_gather(
        _summary(exact & (defects == 0).all(-1), met | ~running, sizes, defects, incoming_states)
    )
    progress = advance(it.progress, summaries, sweep.grid)
    it = _Iterate(
        starts=it.starts,
        lanes=lanes,
        join=join,
        defect_sizes=sizes,
        block_defects=_keep_front(it, sizes),
        evals_per_lane=it.evals_per_lane + evals_per_lane,
        num_bounded=it.num_bounded,
        scale=tolerance.scale,
        progress=progress,
        stopped=verdict(progress, method, sweep.grid, sweep.tangent_seeds.shape[0], tolerance.atol, num_required_steps),
    )
    starts, num_bounded = _correct(it, defects, met, incoming_states, sweep, method, tolerance)
    # Idle lanes keep their starts, so that no sweep waits for them to meet.
    starts = jnp.where((it.stopped < 0) & running[:, None], starts, it.starts)
    return it._replace(starts=starts, num_bounded=num_bounded)


def _exchange(sweep: Sweep, start: Vector, lanes: Lanes) -> tuple[Float[Array, "C D"], Vector]:
    """For each block the end of the block before it, shape (C, D); and the standard deviation of the path, shape (D,).

    This is the only exchange of states between blocks.
    """
    ends = jax.vmap(sweep.transition.reduce)(lanes.carries)
    last_ends, moments = sweep.collectives.all_gather((ends[-1], _moments(sweep, lanes.path)))
    before = entry(last_ends, jnp.maximum(sweep.collectives.rank - 1, 0))
    first = jnp.where(sweep.collectives.rank == 0, start, before)
    return jnp.concatenate([first[None], ends[:-1]]), _spread(*moments)


def _moments(sweep: Sweep, path: Float[Array, "b C D"]) -> tuple[Array, Vector, Vector]:
    """Number, mean and summed squared deviations of a sample of the finite states of a path."""
    # A few thousand states give the scale to a few percent; reading all states would slow the sweep noticeably.
    num_rows, num_lanes, _ = path.shape
    stride = max(1, num_rows * num_lanes // 4096)
    states = path.reshape(-1, path.shape[-1])[::stride]
    at = jnp.arange(0, num_rows * num_lanes, stride)
    row, lane = at // num_lanes, sweep.first_lane + at % num_lanes
    counted = (row < sweep.grid.block_size) & (lane * sweep.grid.block_size + row < sweep.grid.num_steps)
    counted = (counted & jnp.isfinite(states).all(-1))[:, None]
    count = counted.sum(dtype=states.dtype)
    mean = jnp.where(counted, states, 0).sum(0) / jnp.maximum(count, 1)
    return count, mean, jnp.where(counted, jnp.square(states - mean[None]), 0).sum(0)


def _spread(count: Float[Array, " N"], mean: Float[Array, "N D"], squares: Float[Array, "N D"]) -> Vector:
    """Standard deviation from the moments of every device; if it is 0, the size of the state; if that is 0 too, 1."""
    share = (count / jnp.maximum(count.sum(), 1))[:, None]
    center = (share * mean).sum(0)
    variance = squares.sum(0) / jnp.maximum(count.sum(), 1) + (share * jnp.square(mean - center[None])).sum(0)
    spread = jnp.sqrt(variance)
    return jnp.where(jnp.isfinite(spread) & (spread > 0), spread, jnp.where(center == 0, 1, jnp.abs(center)))


def _summary(
    exact: Bool[Array, " C"],
    met: Bool[Array, " C"],
    sizes: Float[Array, " C"],
    defects: Float[Array, "C D"],
    incoming_states: Float[Array, "C D"],
) -> DeviceSummary:
    num_exact, num_met = (jnp.where(flags.all(), len(flags), jnp.argmin(flags)) for flags in (exact, met))
    lost = ~jnp.isfinite(entry(incoming_states, jnp.minimum(num_exact, len(exact) - 1))).all()
    return DeviceSummary(num_exact, lost, (~met).sum(), num_met, sizes.max(), jnp.square(defects).sum())


def _keep_front(it: _Iterate, sizes: Float[Array, " C"]) -> Float[Array, "F C"]:
    k = it.progress.num_iters
    row = jnp.minimum(k, NUM_RECORDED_SWEEPS - 1)
    return write(it.block_defects, jnp.where(k < NUM_RECORDED_SWEEPS, sizes, entry(it.block_defects, row)), row)


def _correct(
    it: _Iterate, defects: Array, met: Array, incoming_states: Array, sweep: Sweep, method: DEER, tolerance: Tolerance
) -> tuple[Float[Array, "C D"], Int[Array, ""]]:
    """The next block starts: x_c + delta_c, written as e_{c-1} + A delta_{c-1} so that an exact prefix stays exact.

    With A = 0, some blocks that have met keep their starts. Also returns the number of sweeps so far whose Jacobians
    had to be bounded.
    """
    lane = sweep.first_lane + jnp.arange(len(incoming_states))
    if method.is_fixed_point:
        # Beyond the first unmet block, met blocks keep their starts: rounding passed on from block to block would
        # sooner or later flip an acceptance. Before it, they take the incoming state, so that the exact prefix grows.
        # Blocks of one step always take the incoming state, as in Jacobi's iteration.
        stays = met & (lane > it.progress.met_prefixes[it.progress.num_iters - 1]) & (method.block_size > 1)
        starts, num_bounded = jnp.where(stays[:, None], it.starts, incoming_states), it.num_bounded
    else:
        deltas, num_bounded = _corrections(it, defects, sweep, method, tolerance)
        starts = incoming_states + (deltas - defects)
        if method.max_step is not None:
            size = tolerance.size(deltas)[:, None]
            limited = it.starts + deltas * (method.max_step / jnp.maximum(size, method.max_step))
            starts = jnp.where(size > method.max_step, limited, starts)
        # The end of the exact prefix is no guess: the block after it starts there, uncorrected.
        starts = jnp.where((lane <= it.progress.front)[:, None], incoming_states, starts)
    # A start must be finite: fall back to the incoming state, then to the old start.
    starts = jnp.where(jnp.isfinite(starts).all(-1, keepdims=True), starts, incoming_states)
    return jnp.where(jnp.isfinite(starts).all(-1, keepdims=True), starts, it.starts), num_bounded


def _corrections(
    it: _Iterate, defects: Float[Array, "C D"], sweep: Sweep, method: DEER, tolerance: Tolerance
) -> tuple[Float[Array, "C D"], Int[Array, ""]]:
    """Corrections delta_c of this device's block starts, and the number of sweeps so far with bounded Jacobians."""
    linearize = jax.vmap(method.linearization.operator, in_axes=(None, 0))
    operators = linearize(sweep.tangent_seeds, it.lanes.output_tangents)
    # Every device solves for all blocks, which costs less than a second exchange.
    from_all_devices = sweep.collectives.all_gather((operators, defects))
    operators, all_defects = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), from_all_devices)
    # A block whose end is not finite must not spoil the corrections of all later blocks.
    all_defects = jnp.where(jnp.isfinite(all_defects).all(-1, keepdims=True), all_defects, 0)

    def found(operators: Operator) -> Float[Array, "C D"]:
        return method.correction(operators, all_defects, tolerance.scale)

    deltas, num_bounded = found(operators.finite()), it.num_bounded
    if method.clip is not None:
        # A correction beyond `max_step` is an artefact of linearising across curvature and would spread to later ones.
        is_idle = jnp.arange(len(deltas)) >= sweep.grid.num_blocks
        is_small = jnp.asarray(False) if method.max_step is None else tolerance.size(deltas) <= method.max_step
        num_bounded += (~(is_small | is_idle).all()).astype(num_bounded.dtype)
        bounds = (num_bounded > it.num_bounded) | (num_bounded >= MAX_BOUNDED_SWEEPS)
        bound = method.clip
        deltas = jax.lax.cond(bounds, lambda: found(bound * (operators / bound).bounded()), lambda: deltas)
    return jax.lax.dynamic_slice_in_dim(deltas, sweep.first_lane, len(defects)), num_bounded


def _conclude(sweep: Sweep, it: _Iterate) -> Solution:
    """The path and its certificate; if stalled, only the exact prefix is valid, and `final` is the carry at its end."""
    grid, collectives = sweep.grid, sweep.collectives
    stalled, converged = it.stopped == int(Status.STALLED), it.stopped == int(Status.CONVERGED)
    met_prefix = it.progress.met_prefixes[it.progress.num_iters - 1]
    # The first block starts at the chain's own start, so it is exact.
    done = jnp.where(stalled, jnp.maximum(it.progress.front, 1), grid.num_blocks)
    done = jnp.where(converged, jnp.minimum(met_prefix, done), done)
    last = jnp.clip(done - 1 - sweep.first_lane, 0, len(it.starts) - 1)
    finals = collectives.all_gather(entry(it.lanes.carries, last))
    work = it.evals_per_lane * grid.lanes_per_device * (1 + sweep.tangent_seeds.shape[0])
    # Blocks beyond the required ones (`num_required_steps`) have not converged and may hold any values.
    asked = sweep.first_lane + jnp.arange(len(it.starts)) < done
    finite = (jnp.isfinite(it.lanes.path).all((0, 2)) | ~asked).all()
    jumps, works, finites = collectives.all_gather((_largest_jump(it, sweep, done), work, finite))
    num_left = jnp.where(stalled, jnp.maximum(grid.num_steps - done * grid.block_size, 0), 0)
    work = works.sum() + num_left.astype(work.dtype)
    exact_prefix = jnp.where(stalled | converged, done, it.progress.front) * grid.block_size
    return Solution(
        states=it.lanes.path,
        outputs=it.lanes.outputs,
        final=entry(finals, (done - 1) // grid.lanes_per_device),
        block_ends=it.lanes.path[-1],
        status=jnp.where(finites.all() | stalled, it.stopped, int(Status.NON_FINITE)),
        defect=jumps.max(),
        num_iters=it.progress.num_iters,
        evals_per_step=work / grid.num_steps,
        defect_history=it.progress.defects,
        merit_history=it.progress.merits,
        prefix_history=jnp.minimum(it.progress.met_prefixes * grid.block_size, grid.num_steps),
        exact_prefix=jnp.minimum(exact_prefix, grid.num_steps),
        block_defects=it.block_defects,
    )


def _largest_jump(it: _Iterate, sweep: Sweep, done: Int[Array, ""]) -> Float[Array, ""]:
    """The largest jump between or inside this device's blocks, among the first `done` blocks of the chain."""
    swept = sweep.first_lane + jnp.arange(len(it.starts)) < done
    sizes = jnp.maximum(it.defect_sizes, largest_coordinate(it.join.difference, it.scale))
    return jnp.where(swept, sizes, 0).max()
