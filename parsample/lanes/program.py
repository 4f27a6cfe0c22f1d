"""The one program: rows of all lanes over an old path, left early once every lane has met it.

A lane is a chain, or a block of one. Warm-up (lanes with keys of their own), check (lanes that repeat others from other
starts), blocks (lanes that repeat themselves from better starts) and the step-by-step evaluation (a lane per chain)
call it with other arguments; nothing is compiled again for another key, length or step size.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Vector
from parsample.internal.arithmetic import round_up
from parsample.internal.compilation import jit_with_xla_options, num_cores
from parsample.internal.devices import SPLIT, SPLIT_SECOND, WHOLE, Collectives
from parsample.internal.processes import broadcast_from_first, replicated
from parsample.internal.trees import entry, write

# Name of the axis along which lanes lie side by side.
LANES = "lanes"

# Steps after which trajectory lengths and moves repeat. Blocks start at multiples of it.
PERIOD = 16

# Lanes where the user names no number: enough for the vector units of a CPU, or to keep an accelerator busy.
NUM_LANES, NUM_LANES_ELSEWHERE = 64, 512

# Rows of a lane that are kept: as many as fit into so many bytes, within these bounds.
MAX_RECORD_BYTES = 128 * 2**20
MIN_ROWS, MAX_ROWS = 4 * PERIOD, 128 * PERIOD

# Lanes of a CPU thread, at least: fewer would not fill its vector units.
LANES_OF_THREAD = 16

# Seconds of the first call of programs in this process, by dynamics, devices and number of lanes.
_first_calls: dict[tuple, float] = {}

# Seconds for which one call of the program should run.
SECONDS_PER_CALL = 0.5


def default_num_lanes() -> int:
    """Lanes for JAX's default device."""
    return NUM_LANES if jax.default_backend() == "cpu" else NUM_LANES_ELSEWHERE


def num_threads(num_lanes: int) -> int:
    """Threads that share the lanes of one device: on a CPU as many as cores, if each has enough to do."""
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:
        return 1
    return max(1, min(num_cores(), num_lanes // LANES_OF_THREAD))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores())


@runtime_checkable
class LaneDynamics(Protocol):
    """What lanes evaluate; hashable, and holds no arrays but those that the user's functions close over."""

    def step(
        self, parameters: Any, inputs: PyTree, state: PyTree, row: Int[Array, ""], is_restored: Bool[Array, ""]
    ) -> tuple[PyTree, Vector, PyTree]:
        """One row of one lane: its next state, the position there, and what is recorded beside it."""
        ...

    def met(self, parameters: Any, atol: Any, new: tuple[Any, PyTree], old: tuple[Any, PyTree]) -> tuple[Any, Any]:
        """Distance of new records (position, output) from old ones, in standard deviations; and which have met."""
        ...

    def joined(
        self, parameters: Any, atol: float, one: PyTree, other: PyTree
    ) -> tuple[Float[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """The same of states on the host: which blocks start where the ones before them ended."""
        ...

    def rescaled(self, parameters: Any, path: Any) -> Any:
        """The parameters, with the unit of distances taken from what ``path()`` returns, if it is not known."""
        ...


class Rows(NamedTuple):
    """Which rows to evaluate, and how.

    Attributes
    ----------
    begin, end
        The first one (on each device, shape (N,), in the program), and the one after the last.
    is_restored
        Whether cached values of the states are to be evaluated first.
    may_leave
        Whether to stop after a row in which every lane has met the old path.
    atol
        Largest difference to the old path, in standard deviations, that counts as met; 0: equality.
    """

    begin: Int[Any, ""]
    end: Int[Any, ""]
    is_restored: Bool[Any, ""]
    may_leave: Bool[Any, ""]
    atol: Float[Any, ""]


@jit_with_xla_options(0, 1, donated=(5,))
def advance_lanes(
    dynamics: LaneDynamics,
    mesh: Mesh | None,
    parameters: Any,
    inputs: PyTree,
    rows: Rows,
    recorded: tuple[Float[Array, "R L D"], PyTree],
    state: PyTree,
) -> tuple[PyTree, tuple, Int[Array, " N"], Bool[Array, " N"], Float[Array, " L"]]:
    """Evaluate some rows of all lanes.

    Parameters
    ----------
    dynamics, mesh
        What lanes evaluate, and the devices that share them.
    parameters
        Common to all lanes.
    inputs
        What drives each lane, leading axis L.
    rows
        Which rows.
    recorded
        Positions and outputs so far, leading axes (R, L).
    state
        State of each lane before the first of the rows, leading axis L.

    Returns
    -------
    state, recorded
        After the last row evaluated.
    end
        The row after the last one evaluated, on each device.
    has_left
        Whether all lanes of each device had met the old path there.
    distance
        From the old path in the last row, of each lane.
    """

    def on_each_device(parameters: Any, rows: Rows, inputs: PyTree, state: PyTree, old: tuple) -> tuple:
        rows = rows._replace(begin=rows.begin[0])

        def one(inputs: PyTree, state: PyTree, row: Array) -> tuple[PyTree, Vector, PyTree]:
            return dynamics.step(parameters, inputs, state, row, rows.is_restored & (row == rows.begin))

        lanes = _one_lane(one) if old[0].shape[1] == 1 else jax.vmap(one, (0, 0, None), axis_name=LANES)

        def advance(carry: tuple) -> tuple:
            row, state, recorded, _, _ = carry
            state, *found = lanes(inputs, state, row)
            # What the row held is read before it is written: otherwise the whole path would be copied at every row.
            old_row, recorded = jax.lax.optimization_barrier((entry(recorded, row), recorded))
            distance, met = dynamics.met(parameters, rows.atol, tuple(found), old_row)
            recorded = write(recorded, tuple(found), row.astype(int))
            return row + 1, state, recorded, rows.may_leave & met.all(), distance

        def unfinished(carry: tuple) -> Array:
            return (carry[0] < rows.end) & ~carry[3]

        begin = (rows.begin, state, old, jnp.asarray(False), jnp.zeros_like(old[0][0, :, 0]))
        row, state, recorded, left, distance = jax.lax.while_loop(unfinished, advance, begin)
        return state, recorded, row[None], left[None], distance

    specs = (WHOLE, Rows(SPLIT, WHOLE, WHOLE, WHOLE, WHOLE), SPLIT, SPLIT, SPLIT_SECOND)
    spread = Collectives(mesh).spread(on_each_device, specs, (SPLIT, SPLIT_SECOND, SPLIT, SPLIT, SPLIT))
    return spread(parameters, rows, inputs, state, recorded)


def _one_lane(step: Any) -> Any:
    """A single lane without ``jax.vmap``, under which every branch would be evaluated."""

    def lanes(inputs: PyTree, state: PyTree, row: Array) -> tuple:
        inputs, state = jax.tree.map(lambda leaf: leaf[0], (inputs, state))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], step(inputs, state, row))

    return lanes


def of_lanes(flags: Bool[np.ndarray, " L"], yes: PyTree, no: PyTree) -> PyTree:
    """The entries of one pytree for some lanes, and of the other for the rest."""
    return jax.tree.map(lambda a, b: np.where(flags.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)


class Advanced(NamedTuple):
    """What one call of the program did, on the host.

    Attributes
    ----------
    state
        State of each lane after its last row.
    ends
        The row after the last one evaluated, of each lane, shape (L,).
    has_left
        Whether it left there, with all lanes of its device, because they had met the old path, shape (L,).
    distance
        From the old path in that row, shape (L,).
    """

    state: Any
    ends: Int[np.ndarray, " L"]
    has_left: Bool[np.ndarray, " L"]
    distance: Float[np.ndarray, " L"]


class LaneProgram[Dynamics: LaneDynamics]:
    """The program for a number of lanes, with its records and its clock.

    Parameters
    ----------
    dynamics
        What lanes evaluate.
    num_lanes
        L. Where devices, or threads, do not divide it, idle copies of the last lane fill up.
    mesh
        Devices that share the lanes; None: one. On a CPU its cores then share them, each as a device would.
    records
        Shapes of the position and the output of one row of one lane.
    max_rows
        Most rows that are kept.

    Attributes
    ----------
    num_rows
        Rows that are kept.
    seconds_per_row
        Of a row in one of the longest calls but the first; NaN before there was one.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        num_lanes: int,
        mesh: Mesh | None,
        records: tuple[Any, PyTree],
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.dynamics, self.num_lanes, self.mesh, self.records = dynamics, num_lanes, mesh, records
        self.dtype = np.dtype(records[0].dtype)
        self._share(num_threads(num_lanes) if mesh is None else 1)
        row_bytes = self._padded * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(records))
        self.num_rows = int(np.clip(MAX_RECORD_BYTES // row_bytes // PERIOD * PERIOD, MIN_ROWS, max_rows))
        self._recorded = [self._blank() for _ in range(self._num_threads)]
        self._executable: Any = None
        self.seconds_per_row, self._most_timed, self._is_new = np.nan, 0, True

    def _share(self, num_threads: int) -> None:
        self._num_threads = num_threads
        num_parts = num_threads * Collectives(self.mesh).num_devices
        self._padded = round_up(self.num_lanes, num_parts)
        self._lanes_of_part = self._padded // num_parts

    def _blank(self) -> tuple[Any, PyTree]:
        shape = (self.num_rows, self._padded // self._num_threads)
        position, output = jax.tree.map(lambda leaf: np.zeros((*shape, *leaf.shape), leaf.dtype), self.records)
        # Placed as the program leaves it: another placement would be another program.
        sharding = None if self.mesh is None else jax.NamedSharding(self.mesh, SPLIT_SECOND)
        return jax.device_put((position, output), sharding)

    @property
    def seconds_to_compile(self) -> float:
        """Seconds of the first call with such lanes in this process; NaN before there was one."""
        return _first_calls.get((self.dynamics, self.mesh, self.num_lanes), np.nan)

    @property
    def rows_per_call(self) -> int:
        """Rows that one call should evaluate, so that progress shows and interrupts are heeded."""
        if not np.isfinite(self.seconds_per_row):
            return PERIOD
        return max(PERIOD, int(min(SECONDS_PER_CALL / self.seconds_per_row, self.num_rows)) // PERIOD * PERIOD)

    def advance(self, parameters: Any, inputs: PyTree, state: PyTree, rows: Rows) -> Advanced:
        """Evaluate some rows of all lanes; `rows.begin` may differ from lane to lane as far as devices differ."""
        begins = self._filled(np.broadcast_to(np.asarray(rows.begin, np.int32), (self.num_lanes,)))
        begins = begins[:: self._lanes_of_part]
        asked = Rows(
            begins, np.int32(rows.end), np.bool_(rows.is_restored), np.bool_(rows.may_leave), self.dtype.type(rows.atol)
        )
        started = time.perf_counter()
        inputs, state = jax.tree.map(self._filled, (inputs, state))
        if self._num_threads > 1 and self._executable is None and not self._compile(parameters, inputs, asked, state):
            return self.advance(parameters, inputs, state, rows)
        run = self._on_devices if self._num_threads == 1 else self._in_threads
        state, ends, has_left, distance = run(parameters, inputs, asked, state)
        seconds, num_rows = np.float64(time.perf_counter() - started), int((ends - begins).max())
        if self._is_new:
            self._is_new = False
            _first_calls.setdefault(
                (self.dynamics, self.mesh, self.num_lanes), float(broadcast_from_first(self.mesh, seconds))
            )
        elif num_rows >= max(PERIOD, self._most_timed // 2):
            # Short calls spend their time on what every call does.
            self._most_timed = max(num_rows, self._most_timed)
            self.seconds_per_row = float(broadcast_from_first(self.mesh, seconds / num_rows))
        ends, has_left = (np.repeat(values, self._lanes_of_part) for values in (ends, has_left))
        return jax.tree.map(lambda leaf: np.array(leaf[: self.num_lanes]), Advanced(state, ends, has_left, distance))

    def _on_devices(self, parameters: Any, inputs: PyTree, asked: Rows, state: PyTree) -> Any:
        (recorded,) = self._recorded
        state, recorded, *outcome = advance_lanes(self.dynamics, self.mesh, parameters, inputs, asked, recorded, state)
        self._recorded = [recorded]
        return jax.device_get(replicated(self.mesh, (state, *outcome)))

    def _in_threads(self, parameters: Any, inputs: PyTree, asked: Rows, state: PyTree) -> Any:
        is_double = jax.config.jax_enable_x64  # which may be so in the caller's thread only

        def run(number: int) -> Any:
            with jax.enable_x64(is_double):
                *before, own = self._part(number, parameters, inputs, asked, state)
                own, recorded, *outcome = self._executable(*before, self._recorded[number], own)
                return recorded, jax.device_get((own, *outcome))

        recorded, found = zip(*_pool().map(run, range(self._num_threads)), strict=True)
        self._recorded = list(recorded)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def _part(self, number: int, parameters: Any, inputs: PyTree, asked: Rows, state: PyTree) -> tuple[Any, ...]:
        """What one of the threads is given, beside what is recorded."""
        lanes = slice(number * self._lanes_of_part, (number + 1) * self._lanes_of_part)
        inputs, state = jax.tree.map(lambda leaf: leaf[lanes], (inputs, state))
        return parameters, inputs, asked._replace(begin=asked.begin[number : number + 1]), state

    def _compile(self, parameters: Any, inputs: PyTree, asked: Rows, state: PyTree) -> bool:
        """Compile what threads run; False, and one thread, if that calls back to Python, which may not expect it."""
        *before, own = self._part(0, parameters, inputs, asked, state)
        traced = advance_lanes.traced(self.dynamics, None, *before, self._recorded[0], own)
        if "callback" in str(traced.jaxpr):
            self._share(1)
            self._recorded = [self._blank()]
            return False
        self._executable = traced.lower().compile()
        return True

    def recorded(self, begin: int, end: int) -> tuple[Float[np.ndarray, "n L D"], Any]:
        """Positions and outputs of some rows, on the host."""
        return self._on_host(lambda recorded: recorded, begin, end)

    def path(self, begin: int, end: int) -> Float[np.ndarray, "n L D"]:
        """Positions of some rows, on the host."""
        return self._on_host(lambda recorded: recorded[0], begin, end)

    def _on_host(self, which: Callable[[Any], Any], begin: int, end: int) -> Any:
        # Copied: what was only seen here could not be written over by the next call, which would copy all of it.
        parts = [jax.device_get(replicated(self.mesh, which(recorded))) for recorded in self._recorded]
        return jax.tree.map(
            lambda *leaves: np.concatenate([leaf[begin:end] for leaf in leaves], axis=1)[:, : self.num_lanes], *parts
        )

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Entries of all lanes and of the idle ones."""
        idle = self._padded - self.num_lanes
        return np.concatenate([values, np.repeat(values[-1:], idle, axis=0)]) if idle else values
