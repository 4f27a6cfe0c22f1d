"""A run of the sampler, window by window: progress, interruption, and memory that is bounded but for the output."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from tqdm.auto import tqdm

from parsample.check import Report
from parsample.compilation import outermost_jit
from parsample.deer import in_order, solve_lanes
from parsample.finish import completed, finish
from parsample.grid import Grid, Room, Team, ceil_div, piece_length, round_up
from parsample.kernels import Draw, KernelDynamics, KernelParameters
from parsample.linearize import Zero
from parsample.plan import MIN_STEPS, Meetings, Plan
from parsample.processes import untied, whole
from parsample.solution import DEER, Sequential, Solution
from parsample.status import Status
from parsample.store import Store
from parsample.transition import rollout
from parsample.warmup import Adaptation

# A window holds at most this many bytes of draws: with the output in files, all the memory that they take.
MAX_WINDOW_BYTES = 64 * 2**20

# Blocks are cut into those of several windows where that leaves so many meeting times to each.
MIN_MEETINGS_PER_BLOCK = 10

# What a window should take: long enough to be efficient, short enough for progress and interruption.
WINDOW_SECONDS = 1.0


class WindowRecord(NamedTuple):
    """What happened in one window of a run; arrays have one entry per chain.

    Attributes
    ----------
    status, defect, num_iters, evals_per_step
        As in `parsample.Solution`.
    block_defects
        Defect of each block after each of the first sweeps, shape (chains, sweeps, blocks); None if sequential.
    block_size
        Steps per block; the whole window if sequential.
    seconds
        Wall time, compilation of the first window included.
    """

    status: np.ndarray
    defect: np.ndarray
    num_iters: np.ndarray
    evals_per_step: np.ndarray
    block_defects: np.ndarray | None
    block_size: int
    seconds: float


def run_windows(
    dynamics: KernelDynamics,
    adaptation: Adaptation,
    chain_keys: Array,
    plan: Plan,
    found: Report | None,
    store: Store,
    progress_bar: bool,
    mesh: Mesh | None = None,
) -> tuple[list[WindowRecord], bool]:
    """Run all windows, one after another, from the host."""
    windows: list[WindowRecord] = []
    interrupted = False
    with tqdm(total=plan.num_chains * plan.num_steps, unit="draw", unit_scale=True, disable=not progress_bar) as bar:
        try:
            for first, draws, record in _windows(dynamics, adaptation, chain_keys, plan, found, mesh):
                store.put(first, draws)
                windows.append(record)
                bar.set_postfix_str(_progress(record))
                bar.update(plan.num_chains * (min(first + draws.lp.shape[1], plan.num_steps) - first))
                del draws
        except KeyboardInterrupt:
            if not windows:
                raise
            interrupted = True
            store.truncate(min(plan.num_steps, sum(draws_of(record) for record in windows)))
    return windows, interrupted


def draws_of(record: WindowRecord) -> int:
    """Draws per chain in a window."""
    return record.block_size * (1 if record.block_defects is None else record.block_defects.shape[-1])


def _progress(record: WindowRecord) -> str:
    if record.block_defects is None:
        return "step by step"
    return f"{int(record.num_iters.max())} sweeps, defect {float(record.defect.max()):.1e}"


def _windows(
    dynamics: KernelDynamics,
    adaptation: Adaptation,
    chain_keys: Array,
    plan: Plan,
    found: Report | None,
    mesh: Mesh | None,
) -> Iterator[tuple[int, Draw, WindowRecord]]:
    """The chains, window by window: first step, draws of shape (chains, steps, ...), and what happened.

    A window that stalls is the last one tried in blocks.
    """
    states, method = adaptation.states, plan.method
    guesses = adaptation.draws
    first = 0
    num_devices = Team(mesh=mesh).num_devices
    window = _window_shape(plan, found, dynamics.period, states.shape[1] * states.dtype.itemsize, num_devices)
    while first < plan.num_steps:
        begin = time.perf_counter()
        if isinstance(method, DEER):
            room = Room.for_blocks(*window)
            settings = replace(method, block_size=room.block_size)
            solution = _solve_window(
                dynamics, settings, mesh, room, window, adaptation.parameters, chain_keys, states, guesses, first
            )
            solution = _in_order(*window, mesh, solution)
            solution = completed(
                solution, mesh, partial(_finish_window, dynamics, window, adaptation.parameters, chain_keys, first)
            )
            # The next window guesses from the block ends of this one.
            states, draws, guesses = untied(solution.final), solution.outputs, untied(solution.block_ends)
        else:
            rolled = roll_window(
                dynamics, mesh, window[0] * window[1], adaptation.parameters, chain_keys, states, first
            )
            states, draws = whole(mesh, rolled)
            solution = None
        draws = jax.device_get(draws)
        record = _record(solution, plan.num_chains, window, time.perf_counter() - begin, draws)
        yield first, draws, record
        del solution, draws  # before the next window takes as much memory
        first += window[0] * window[1]
        if (record.status == Status.STALLED).any():
            method = Sequential()


def _window_shape(
    plan: Plan, found: Report | None, period: int, bytes_per_draw: int, num_devices: int = 1
) -> tuple[int, int]:
    """Blocks per chain and steps per block of every window: equal windows, none much longer than the memory allows."""
    total = plan.num_chains * plan.num_steps * (bytes_per_draw + 64)
    pieces = max(1, ceil_div(total, MAX_WINDOW_BYTES))
    if not isinstance(plan.method, DEER):
        expected = plan.sequential_seconds
        if math.isnan(expected):
            pieces = max(pieces, min(50, plan.num_steps // MIN_STEPS))
        else:
            pieces = max(pieces, _windows_of(expected))
        return 1, piece_length(plan.num_steps, pieces, period)
    block_size, shorter = plan.method.block_size, 1
    if found is not None and isinstance(plan.method.linearization, Zero) and np.isfinite(found.coalescence).all():
        # Blocks may be cut as long as meeting takes a small part of each.
        meeting = Meetings.of(found.coalescence).slowest(plan.num_blocks * plan.num_chains)
        most = max(1, int(block_size // (MIN_MEETINGS_PER_BLOCK * meeting)))
        shorter = min(most, max(pieces, _windows_of(np.nan_to_num(plan.seconds))))
        block_size = piece_length(block_size, shorter, period)
    blocks = ceil_div(plan.num_blocks, ceil_div(pieces, shorter))
    return min(round_up(blocks, num_devices), plan.num_blocks), block_size


def _windows_of(seconds: float) -> int:
    """In how many windows to evaluate so much, a power of two: when a run is repeated, its programmes fit again."""
    return 2 ** int(math.log2(max(seconds / WINDOW_SECONDS, 1)))


@outermost_jit(0, 1, 2, 3)
def _solve_window(
    dynamics: KernelDynamics,
    method: DEER,
    mesh: Mesh | None,
    room: Room,
    window: tuple[Array, Array],
    parameters: KernelParameters,
    chain_keys: Array,
    states: Float[Array, "K D"],
    guesses: Float[Array, "K n D"],
    first: Array,
) -> Solution:
    """One window of all chains in blocks, whose starts are guessed from `guesses`, typical states of each chain.

    The programme serves all windows that there is `room` for; what it found is left for `_in_order`.
    """
    num_blocks, block_size = window
    rows = jnp.linspace(0, guesses.shape[1] - 1, room.num_blocks).astype(int)
    team = Team("chains", mesh)
    grid = Grid(num_blocks * block_size, block_size, team.num_devices, room)

    def one(chain_key: Array, state: Array, block_starts: Array) -> Solution:
        transition, inputs = dynamics(parameters, chain_key, room.num_blocks * room.block_size, first)
        scale = jnp.ones_like(state)
        solution = solve_lanes(transition, state, inputs, method, grid, team, block_starts=block_starts, scale=scale)
        return solution._replace(states=None, final=transition.reduce(solution.final))

    return jax.vmap(one, axis_name="chains")(chain_keys, states, guesses[:, rows])


@outermost_jit(0, 1, 2)
def _in_order(num_blocks: int, block_size: int, mesh: Mesh | None, solution: Solution) -> Solution:
    """A window of all chains, step after step."""
    return jax.vmap(partial(in_order, num_blocks * block_size, block_size, mesh))(solution)


@outermost_jit(0, 1, donated=(5,))
def _finish_window(
    dynamics: KernelDynamics,
    window: tuple[int, int],
    parameters: KernelParameters,
    chain_keys: Array,
    first: Array,
    solution: Solution,
) -> Solution:
    """A window that stalled, for all chains at once, evaluated step by step from the exact prefix that they share."""

    def one(chain_key: Array, solution: Solution) -> Solution:
        transition, inputs = dynamics(parameters, chain_key, window[0] * window[1], first)
        solution = solution._replace(final=transition.restore(solution.final))
        solution = finish(transition, inputs, solution, window[1])
        return solution._replace(final=transition.reduce(solution.final))

    # What all share has no axis of chains: a loop of that length needs no masks.
    shared = {"status": solution.status[0], "exact_prefix": solution.exact_prefix[0]}
    axes: Any = Solution(**{name: None if name in shared else 0 for name in Solution._fields})  # type: ignore[arg-type]
    finished = jax.vmap(one, in_axes=(0, axes))(chain_keys, solution._replace(**shared))
    return finished._replace(exact_prefix=solution.exact_prefix)


@outermost_jit(0, 1, 2)
def roll_window(
    dynamics: KernelDynamics,
    mesh: Mesh | None,
    num_steps: int,
    parameters: KernelParameters,
    chain_keys: Array,
    states: Float[Array, "K D"],
    first: Array,
) -> tuple[Float[Array, "K D"], Draw]:
    """One window of all chains, step by step."""

    def one(chain_key: Array, state: Array) -> tuple[Array, Draw]:
        transition, inputs = dynamics(parameters, chain_key, num_steps, first)
        final, _, draws = rollout(transition, state, inputs)
        return transition.reduce(final), draws

    return Team(mesh=mesh).each_chain(one, states.shape[0])(chain_keys, states)


def _record(
    solution: Solution | None, num_chains: int, window: tuple[int, int], seconds: float, draws: Draw
) -> WindowRecord:
    if solution is not None:
        kept = jax.device_get(solution._replace(outputs=None, final=None))
        return WindowRecord(
            kept.status, kept.defect, kept.num_iters, kept.evals_per_step, kept.block_defects, window[1], seconds
        )
    finite = np.isfinite(draws.position).all((1, 2))
    status = np.where(finite, Status.SEQUENTIAL, Status.NON_FINITE)
    ones = np.ones(num_chains)
    return WindowRecord(status, 0 * ones, ones.astype(int), ones, None, window[0] * window[1], seconds)
