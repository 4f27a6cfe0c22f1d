"""The compiled program: it evaluates rows of all lanes over an old path, and stops once every lane has met that path.

A lane is a chain or a block of a chain; a row is one step of all lanes. The warm-up (lanes with independent keys), the
check (lanes that repeat others from different starts), the blocks (lanes that repeat themselves from better starts) and
the step-by-step evaluation (one lane per chain) call it with different arguments. A different key, number of rows,
trajectory length or step size needs no new compilation.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Vector
from parsample.internal.arithmetic import round_up
from parsample.internal.compilation import BoundedCache, jit_with_xla_options, num_cores
from parsample.internal.devices import SPLIT, SPLIT_SECOND, WHOLE, Collectives
from parsample.internal.processes import broadcast_from_first, replicated
from parsample.internal.trees import entry, write
from parsample.lanes.dynamics import LaneDynamics

# Name of the vmapped axis of lanes.
LANES = "lanes"

# Steps after which trajectory lengths and moves repeat. Blocks start at multiples of it.
PERIOD = 16

# Default numbers of lanes: enough for the vector units of a CPU, and to keep an accelerator busy.
NUM_LANES, NUM_LANES_ACCELERATOR = 64, 512

# Rows are kept for all lanes, as many as fit into `MAX_RECORD_BYTES`, within the bounds below.
MAX_RECORD_BYTES = 128 * 2**20
MIN_ROWS, MAX_ROWS = 4 * PERIOD, 128 * PERIOD

# Minimum number of lanes per CPU thread: fewer would not fill its vector units.
MIN_LANES_PER_THREAD = 16

# Seconds of the first calls of the last programs in this process, by dynamics, devices and number of lanes.
_first_calls: BoundedCache[float] = BoundedCache()

# Target duration of one call of the program, in seconds.
SECONDS_PER_CALL = 0.5


def default_num_lanes() -> int:
    """Default number of lanes for JAX's default device."""
    return NUM_LANES if jax.default_backend() == "cpu" else NUM_LANES_ACCELERATOR


def default_num_threads(num_lanes: int) -> int:
    """Threads that share the lanes of one device: on a CPU one per core, with `MIN_LANES_PER_THREAD` lanes or more."""
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:
        return 1
    return max(1, min(num_cores(), num_lanes // MIN_LANES_PER_THREAD))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores())


class Rows(NamedTuple):
    """Which rows to evaluate, and how.

    Attributes
    ----------
    begin, end
        The first row, and the row after the last.
    needs_evaluation
        Whether to evaluate the cached fields of the states first.
    may_stop_early
        Whether to stop after a row in which every lane has met the old path.
    atol
        Largest difference from the old path that counts as met, in standard deviations; 0: equality.
    """

    begin: int
    end: int
    needs_evaluation: bool
    may_stop_early: bool
    atol: float


class Request(NamedTuple):
    """`Rows` as an argument of the program, where each device has a first row of its own.

    Attributes
    ----------
    begins
        The first row on each device, shape (N,); the row `end` if it evaluates none.
    end, needs_evaluation, may_stop_early, atol
        As in `Rows`.
    """

    begins: Int[Any, " N"]
    end: Int[Any, ""]
    needs_evaluation: Bool[Any, ""]
    may_stop_early: Bool[Any, ""]
    atol: Float[Any, ""]


@jit_with_xla_options(2, donated=(5,))
def advance_lanes(
    dynamics: LaneDynamics,
    mesh: Mesh | None,
    parameters: Any,
    inputs: PyTree,
    request: Request,
    recorded: tuple[Float[Array, "R L D"], PyTree],
    state: PyTree,
) -> tuple[PyTree, tuple, Int[Array, " N"], Bool[Array, " N"], Float[Array, " L"]]:
    """Evaluate some rows of all lanes.

    Parameters
    ----------
    dynamics, mesh
        Dynamics of the lanes, and the devices that share the lanes.
    parameters
        Common to all lanes.
    inputs
        Inputs of each lane, leading axis L.
    request
        Rows to evaluate.
    recorded
        Positions and outputs recorded so far, leading axes (R, L).
    state
        State of each lane before the first row, leading axis L.

    Returns
    -------
    state, recorded
        State and records after the last row evaluated.
    end
        Row after the last one evaluated on each device, shape (N,).
    stopped_early
        Whether each device stopped because all its lanes had met the old path, shape (N,).
    distance
        Distance of each lane from the old path in the last row, shape (L,).
    """
    # NumPy arrays if JAX does not compile this (`jax.disable_jit`); a traced row could not index them.
    parameters = jax.tree.map(jnp.asarray, parameters)

    def on_each_device(parameters: Any, request: Request, inputs: PyTree, state: PyTree, old: tuple) -> tuple:
        begin = request.begins[0]

        def one(inputs: PyTree, state: PyTree, row: Array) -> tuple[PyTree, Vector, PyTree]:
            return dynamics.step(parameters, inputs, state, row, request.needs_evaluation & (row == begin))

        lanes = _one_lane(one) if old[0].shape[1] == 1 else jax.vmap(one, (0, 0, None), axis_name=LANES)

        def advance(carry: tuple) -> tuple:
            row, state, recorded, _, _ = carry
            state, *new_row = lanes(inputs, state, row)
            # The old row is read before it is overwritten: otherwise the whole path would be copied at every row.
            old_row, recorded = jax.lax.optimization_barrier((entry(recorded, row), recorded))
            distance, met = dynamics.met(parameters, request.atol, tuple(new_row), old_row)
            recorded = write(recorded, tuple(new_row), row.astype(int))
            return row + 1, state, recorded, request.may_stop_early & met.all(), distance

        def unfinished(carry: tuple) -> Array:
            return (carry[0] < request.end) & ~carry[3]

        first = (begin, state, old, jnp.asarray(False), jnp.zeros_like(old[0][0, :, 0]))
        row, state, recorded, left, distance = jax.lax.while_loop(unfinished, advance, first)
        return state, recorded, row[None], left[None], distance

    specs = (WHOLE, Request(SPLIT, WHOLE, WHOLE, WHOLE, WHOLE), SPLIT, SPLIT, SPLIT_SECOND)
    spread = Collectives(mesh).spread(on_each_device, specs, (SPLIT, SPLIT_SECOND, SPLIT, SPLIT, SPLIT))
    return spread(parameters, request, inputs, state, recorded)


def _one_lane(step: Any) -> Any:
    """A single lane without ``jax.vmap``, which would evaluate both branches of every conditional."""

    def lanes(inputs: PyTree, state: PyTree, row: Array) -> tuple:
        inputs, state = jax.tree.map(lambda leaf: leaf[0], (inputs, state))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], step(inputs, state, row))

    return lanes


def where_lanes(flags: Bool[np.ndarray, " L"], yes: PyTree, no: PyTree) -> PyTree:
    """The entries of `yes` for lanes with the flag, and of `no` for the others."""
    return jax.tree.map(lambda a, b: np.where(flags.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)


class AdvanceResult(NamedTuple):
    """Result of advancing all lanes by some rows, on the host.

    Attributes
    ----------
    state
        State of each lane after its last row.
    ends
        Row after the last one evaluated for each lane, shape (L,).
    stopped_early
        Whether the lane stopped because all lanes of its device or thread had met the old path, shape (L,).
    distance
        Distance of each lane from the old path in its last row, shape (L,).
    """

    state: Any
    ends: Int[np.ndarray, " L"]
    stopped_early: Bool[np.ndarray, " L"]
    distance: Float[np.ndarray, " L"]


def num_rows_kept(records: tuple[Any, PyTree], num_lanes: int, max_rows: int = MAX_ROWS) -> int:
    """Number of rows of all lanes that a program keeps."""
    row_bytes = num_lanes * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(records))
    return int(np.clip(MAX_RECORD_BYTES // row_bytes // PERIOD * PERIOD, MIN_ROWS, max_rows))


class LaneProgram[Dynamics: LaneDynamics]:
    """The program for a fixed number of lanes, with its records and its time per row.

    Parameters
    ----------
    dynamics
        Dynamics of the lanes.
    num_lanes
        L. If the number of devices or threads does not divide it, idle copies of the last lane are added.
    mesh
        Devices that share the lanes; None: one device. If that is a CPU, its cores share the lanes as devices would.
    records
        Shapes of the position and the output of one row of one lane.
    max_rows
        Maximum number of rows kept.
    num_threads
        Threads that share the lanes; None: one per core of a CPU.

    Attributes
    ----------
    num_rows
        Number of rows kept.
    seconds_per_row
        Seconds per row in one of the longest calls, the first call excepted; NaN before such a call.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        num_lanes: int,
        mesh: Mesh | None,
        records: tuple[Any, PyTree],
        max_rows: int = MAX_ROWS,
        num_threads: int | None = None,
    ) -> None:
        self.dynamics, self.num_lanes, self.mesh, self.records = dynamics, num_lanes, mesh, records
        self.dtype = np.dtype(records[0].dtype)
        self._key = (dynamics, mesh, num_lanes)
        self._share(num_threads or (default_num_threads(num_lanes) if mesh is None else 1))
        self.num_rows = num_rows_kept(records, self._padded, max_rows)
        self._recorded = [self._empty_records() for _ in range(self.num_threads)]
        self._executable: Any = None
        self.seconds_per_row, self._most_timed, self._is_new = np.nan, 0, True

    def _share(self, num_threads: int) -> None:
        self.num_threads = num_threads
        num_parts = num_threads * Collectives(self.mesh).num_devices
        self._padded = round_up(self.num_lanes, num_parts)
        self._lanes_of_part = self._padded // num_parts

    def _empty_records(self) -> tuple[Any, PyTree]:
        shape = (self.num_rows, self._padded // self.num_threads)
        position, output = jax.tree.map(lambda leaf: np.zeros((*shape, *leaf.shape), leaf.dtype), self.records)
        # Placed like the output of the program: a different sharding would compile a second program.
        sharding = None if self.mesh is None else jax.NamedSharding(self.mesh, SPLIT_SECOND)
        return jax.device_put((position, output), sharding)

    @property
    def seconds_to_compile(self) -> float:
        """Seconds of the first call of an equal program in this process; NaN before that call."""
        return _first_calls.get(self._key, np.nan) if self._is_new else self._seconds_to_compile

    @property
    def rows_per_call(self) -> int:
        """Number of rows per call, small enough to show progress and to react to interrupts."""
        if not np.isfinite(self.seconds_per_row):
            return PERIOD
        return max(PERIOD, int(min(SECONDS_PER_CALL / self.seconds_per_row, self.num_rows)) // PERIOD * PERIOD)

    def advance(
        self,
        parameters: Any,
        inputs: PyTree,
        state: PyTree,
        rows: Rows,
        running: Bool[np.ndarray, " L"] | bool = True,
    ) -> AdvanceResult:
        """Evaluate some rows of the lanes that are `running`, which all lanes of a device or thread are, or none."""
        started = time.perf_counter()
        if self.num_threads > 1 and self._executable is None:
            self._prepare(parameters, inputs, state, self._request(rows, running))
        request = self._request(rows, running)
        inputs, state = jax.tree.map(self._with_idle_lanes, (inputs, state))
        evaluate = self._on_devices if self.num_threads == 1 else self._in_threads
        state, ends, stopped_early, distance = evaluate(parameters, inputs, request, state)
        seconds, num_rows = np.float64(time.perf_counter() - started), int((ends - request.begins).max())
        if self._is_new:
            self._is_new = False
            of_first = float(broadcast_from_first(self.mesh, seconds))
            self._seconds_to_compile = _first_calls.get_or_make(self._key, lambda: of_first)
        elif num_rows >= max(PERIOD, self._most_timed // 2):
            # In short calls, the fixed cost of a call dominates.
            self._most_timed = max(num_rows, self._most_timed)
            self.seconds_per_row = float(broadcast_from_first(self.mesh, seconds / num_rows))
        ends, stopped_early = (np.repeat(values, self._lanes_of_part) for values in (ends, stopped_early))
        return jax.tree.map(
            lambda leaf: np.array(leaf[: self.num_lanes]), AdvanceResult(state, ends, stopped_early, distance)
        )

    def _prepare(self, parameters: Any, inputs: PyTree, state: PyTree, request: Request) -> None:
        """Compile the program of a thread; or switch to one thread if it calls back to Python.

        Python code may not be thread-safe.
        """
        *arguments, lane_state = self._part(0, parameters, inputs, request, state)
        traced = advance_lanes.traced(self.dynamics, None, *arguments, self._recorded[0], lane_state)
        if "callback" in str(traced.jaxpr):
            self._share(1)
            self._recorded = [self._empty_records()]
        else:
            self._executable = traced.lower().compile()

    def _request(self, rows: Rows, running: Bool[np.ndarray, " L"] | bool) -> Request:
        """The rows as an argument of the program, with one first row per device or thread."""
        begins = np.broadcast_to(np.where(running, rows.begin, rows.end).astype(np.int32), (self.num_lanes,))
        return Request(
            self._with_idle_lanes(begins)[:: self._lanes_of_part],
            np.int32(rows.end),
            np.bool_(rows.needs_evaluation),
            np.bool_(rows.may_stop_early),
            self.dtype.type(rows.atol),
        )

    def _on_devices(self, parameters: Any, inputs: PyTree, request: Request, state: PyTree) -> Any:
        (recorded,) = self._recorded
        state, recorded, *outcome = advance_lanes(
            self.dynamics, self.mesh, parameters, inputs, request, recorded, state
        )
        self._recorded = [recorded]
        return jax.device_get(replicated(self.mesh, (state, *outcome)))

    def _in_threads(self, parameters: Any, inputs: PyTree, request: Request, state: PyTree) -> Any:
        is_double = jax.config.jax_enable_x64  # may be set in the caller's thread only

        def evaluate_part(number: int) -> Any:
            with jax.enable_x64(is_double):
                *arguments, lane_state = self._part(number, parameters, inputs, request, state)
                lane_state, recorded, *outcome = self._executable(*arguments, self._recorded[number], lane_state)
                return recorded, jax.device_get((lane_state, *outcome))

        recorded, results = zip(*_pool().map(evaluate_part, range(self.num_threads)), strict=True)
        self._recorded = list(recorded)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)

    def _part(self, number: int, parameters: Any, inputs: PyTree, request: Request, state: PyTree) -> tuple[Any, ...]:
        """Arguments of the program in one thread, except the records."""
        lanes = slice(number * self._lanes_of_part, (number + 1) * self._lanes_of_part)
        inputs, state = jax.tree.map(lambda leaf: leaf[lanes], (inputs, state))
        return parameters, inputs, request._replace(begins=request.begins[number : number + 1]), state

    def recorded(self, begin: int, end: int) -> tuple[Float[np.ndarray, "n L D"], Any]:
        """Positions and outputs of some rows, on the host."""
        return self._on_host(lambda recorded: recorded, begin, end)

    def path(self, begin: int, end: int) -> Float[np.ndarray, "n L D"]:
        """Positions of some rows, on the host."""
        return self._on_host(lambda recorded: recorded[0], begin, end)

    def _on_host(self, which: Callable[[Any], Any], begin: int, end: int) -> Any:
        # Copied: the next call cannot overwrite a buffer while the host holds a view of it, and would copy all of it.
        parts = [jax.device_get(replicated(self.mesh, which(recorded))) for recorded in self._recorded]
        return jax.tree.map(
            lambda *leaves: np.concatenate([leaf[begin:end] for leaf in leaves], axis=1)[:, : self.num_lanes], *parts
        )

    def _with_idle_lanes(self, values: np.ndarray) -> np.ndarray:
        """The values of all lanes, followed by those of the idle lanes."""
        idle = self._padded - self.num_lanes
        return np.concatenate([values, np.repeat(values[-1:], idle, axis=0)]) if idle else values
