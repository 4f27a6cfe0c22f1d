"""The one program: rows of all lanes over an old path, left early once every lane has met it.

A lane is a chain, or a block of one. Warm-up (lanes with keys of their own), check (lanes that repeat others from other
starts), blocks (lanes that repeat themselves from better starts) and the step-by-step evaluation (a lane per chain)
call it with other arguments; nothing is compiled again for another key, length or step size.
"""

import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.compilation import outermost_jit
from parsample.grid import SPLIT, SPLIT_SECOND, WHOLE, Team, round_up
from parsample.kernels.base import LANES, PERIOD
from parsample.processes import agreed, whole
from parsample.transition import Vector, entry, write

# Lanes where the user names no number: enough for the vector units of a CPU, or to keep an accelerator busy.
NUM_LANES, NUM_LANES_ELSEWHERE = 64, 512

# Rows of a lane that are kept: as many as fit into so many bytes, within these bounds.
MAX_RECORD_BYTES = 32 * 2**20
MIN_ROWS, MAX_ROWS = 4 * PERIOD, 128 * PERIOD

# Seconds of the first call of programs in this process, by dynamics, devices and number of lanes.
_first_calls: dict[tuple, float] = {}

# Seconds for which one call of the program should run.
SECONDS_PER_CALL = 0.5


def default_num_lanes() -> int:
    """Lanes for JAX's default device."""
    return NUM_LANES if jax.default_backend() == "cpu" else NUM_LANES_ELSEWHERE


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


@outermost_jit(0, 1, donated=(5,))
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
    spread = Team(mesh).spread(on_each_device, specs, (SPLIT, SPLIT_SECOND, SPLIT, SPLIT, SPLIT))
    return spread(parameters, rows, inputs, state, recorded)


def _one_lane(step: Any) -> Any:
    """A single lane without ``jax.vmap``, under which every branch would be evaluated."""

    def lanes(inputs: PyTree, state: PyTree, row: Array) -> tuple:
        inputs, state = jax.tree.map(lambda leaf: leaf[0], (inputs, state))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], step(inputs, state, row))

    return lanes


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
        L. Where devices do not divide it, idle copies of the last lane fill up.
    mesh
        Devices that share the lanes; None: one.
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
        self.num_devices = Team(mesh).num_devices
        self._padded = round_up(num_lanes, self.num_devices)
        self.dtype = np.dtype(records[0].dtype)
        row_bytes = self._padded * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(records))
        self.num_rows = int(np.clip(MAX_RECORD_BYTES // row_bytes // PERIOD * PERIOD, MIN_ROWS, max_rows))
        self._recorded = self._blank()
        self.seconds_per_row, self._most_timed, self._is_new = np.nan, 0, True

    def _blank(self) -> tuple[Any, PyTree]:
        shape = (self.num_rows, self._padded)
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
        lanes_per_device = self._padded // self.num_devices
        begins = self._filled(np.broadcast_to(np.asarray(rows.begin, np.int32), (self.num_lanes,)))
        begins = begins[::lanes_per_device]
        asked = Rows(
            begins, np.int32(rows.end), np.bool_(rows.is_restored), np.bool_(rows.may_leave), self.dtype.type(rows.atol)
        )
        started = time.perf_counter()
        inputs, state = jax.tree.map(self._filled, (inputs, state))
        state, self._recorded, *outcome = advance_lanes(
            self.dynamics, self.mesh, parameters, inputs, asked, self._recorded, state
        )
        state, ends, has_left, distance = jax.device_get(whole(self.mesh, (state, *outcome)))
        seconds, num_rows = np.float64(time.perf_counter() - started), int((ends - begins).max())
        if self._is_new:
            self._is_new = False
            _first_calls.setdefault((self.dynamics, self.mesh, self.num_lanes), float(agreed(self.mesh, seconds)))
        elif num_rows >= max(PERIOD, self._most_timed // 2):
            # Short calls spend their time on what every call does.
            self._most_timed = max(num_rows, self._most_timed)
            self.seconds_per_row = float(agreed(self.mesh, seconds / num_rows))
        advanced = Advanced(state, np.repeat(ends, lanes_per_device), np.repeat(has_left, lanes_per_device), distance)
        return jax.tree.map(lambda leaf: np.array(leaf[: self.num_lanes]), advanced)

    def recorded(self, begin: int, end: int) -> tuple[Float[np.ndarray, "n L D"], Any]:
        """Positions and outputs of some rows, on the host."""
        return self._on_host(self._recorded, begin, end)

    def path(self, begin: int, end: int) -> Float[np.ndarray, "n L D"]:
        """Positions of some rows, on the host."""
        return self._on_host(self._recorded[0], begin, end)

    def _on_host(self, tree: PyTree, begin: int, end: int) -> Any:
        # Copied: what was only seen here could not be written over by the next call, which would copy all of it.
        values = jax.device_get(whole(self.mesh, tree))
        return jax.tree.map(lambda leaf: np.array(leaf[begin:end, : self.num_lanes]), values)

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Entries of all lanes and of the idle ones."""
        idle = self._padded - self.num_lanes
        return np.concatenate([values, np.repeat(values[-1:], idle, axis=0)]) if idle else values
