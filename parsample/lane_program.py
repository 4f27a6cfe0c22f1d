"""The one program of `sample`: rows of all lanes over an old path, left early once every lane has met it.

A lane is a chain, or a block of one. Warm-up (lanes with keys of their own), check (lanes that repeat others from other
starts), blocks (lanes that repeat themselves from better starts) and the step-by-step evaluation (a lane per chain)
call it with other arguments; nothing is compiled again for another key, length or step size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from parsample.compilation import outermost_jit
from parsample.grid import SPLIT, SPLIT_SECOND, WHOLE, Team, round_up
from parsample.kernels.base import PERIOD, Kernel, LaneState, Statistics
from parsample.kernels.whitening import KernelParameters
from parsample.layout import Layout
from parsample.processes import agreed, whole
from parsample.transition import Vector, entry, write

# Rows of a lane that are kept: as many as fit into so many bytes of positions, within these bounds.
MAX_PATH_BYTES = 16 * 2**20
# Seconds for which one call of the program should run.
SECONDS_PER_CALL = 0.5

MIN_ROWS, MAX_ROWS = 4 * PERIOD, 64 * PERIOD


@dataclass(frozen=True)
class LaneDynamics:
    """What lanes evaluate; hashable, and holds no arrays but those that the log density closes over.

    Attributes
    ----------
    logdensity_fn
        The user's log density, of a position pytree.
    layout
        Of that pytree.
    kernel
        What steps.
    is_batched
        Whether the log density can be evaluated for all lanes at once; if not, it is evaluated for one after another.
    """

    logdensity_fn: Callable
    layout: Layout
    kernel: Kernel
    is_batched: bool = True

    def logdensity(self, position: Vector) -> Float[Array, ""]:
        """The log density of a flat position, -inf wherever the user's is NaN or infinite."""

        def evaluate(position: Vector) -> Float[Array, ""]:
            return jnp.asarray(self.logdensity_fn(self.layout.unravel(position)), position.dtype)

        value = evaluate(position) if self.is_batched else sequential_vmap(evaluate)(position)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)


class Rows(NamedTuple):
    """Which rows to evaluate, and how.

    Attributes
    ----------
    begin, end
        The first one (on each device, shape (N,), in the program), and the one after the last.
    is_restored
        Whether log densities of the states are to be evaluated first.
    may_leave
        Whether to stop after a row in which every lane has met the old path.
    atol
        Largest difference to the old path, in whitened coordinates, that counts as met; 0: equality.
    """

    begin: Int[Any, ""]
    end: Int[Any, ""]
    is_restored: Bool[Any, ""]
    may_leave: Bool[Any, ""]
    atol: Float[Any, ""]


class Lanes(NamedTuple):
    """What L lanes carry through the rows.

    Attributes
    ----------
    state
        State of each lane after the last row evaluated, leading axis L.
    path
        Whitened positions after each row, shape (R, L, D).
    statistics
        Statistics of each row, leading axes (R, L).
    """

    state: LaneState
    path: Float[Array, "R L D"]
    statistics: Statistics


# How they lie on a mesh.
_LAYOUT: Any = (SPLIT, SPLIT_SECOND, SPLIT_SECOND)


@outermost_jit(0, 1)
def advance_lanes(
    dynamics: LaneDynamics,
    mesh: Mesh | None,
    parameters: KernelParameters,
    keys: UInt32[Array, "L 2"],
    first_steps: Int[Array, " L"],
    rows: Rows,
    recorded: tuple[Float[Array, "R L D"], Statistics],
    state: LaneState,
) -> tuple[Lanes, Int[Array, " N"], Bool[Array, " N"], Float[Array, " L"]]:
    """Evaluate some rows of all lanes.

    Parameters
    ----------
    dynamics, mesh
        What lanes evaluate, and the devices that share them.
    parameters
        Coordinates, step size and schedule.
    keys
        Key data of the chain of each lane, shape (L, 2).
    first_steps
        Step of the chain at row 0 of each lane, multiples of `PERIOD`, shape (L,).
    rows
        Which rows.
    recorded
        Path and statistics so far.
    state
        State of each lane before the first of the rows.

    Returns
    -------
    lanes
        States and records.
    end
        The row after the last one evaluated, on each device.
    has_left
        Whether all lanes of each device had met the old path there.
    difference
        Largest coordinate of the difference to the old path in the last row, of each lane.
    """
    team = Team(mesh=mesh)

    def on_each_device(
        parameters: KernelParameters, rows: Rows, keys: Array, first_steps: Array, state: LaneState, recorded: tuple
    ) -> tuple[Lanes, Array, Array, Array]:
        old_path, old_lp = recorded[0], recorded[1].lp
        rows = rows._replace(begin=rows.begin[0])

        def one(key: Array, first_step: Array, state: LaneState, row: Array) -> tuple[LaneState, Statistics]:
            target = partial(_whitened_logdensity, dynamics, parameters)
            restores = rows.is_restored & (row == rows.begin)
            return dynamics.kernel.step(key, state, first_step + row, row % PERIOD, restores, target, parameters)

        def advance(carry: tuple) -> tuple:
            row, state, path, statistics, _, _ = carry
            state, found = jax.vmap(one, in_axes=(0, 0, 0, None))(keys, first_steps, state, row)
            # The old path is read from its own buffer: reading the one being written would copy it at every row.
            difference = jnp.max(jnp.abs(state.position - entry(old_path, row)), axis=-1)
            # Cached log densities must agree as well: they decide what comes next.
            same = (difference <= rows.atol) & ((rows.atol > 0) | (found.lp == entry(old_lp, row)))
            path, statistics = write((path, statistics), (state.position, found), row.astype(int))
            return row + 1, state, path, statistics, rows.may_leave & same.all(), difference

        def unfinished(carry: tuple) -> Array:
            return (carry[0] < rows.end) & ~carry[4]

        begin = (rows.begin, state, *recorded, jnp.asarray(False), jnp.zeros_like(state.logdensity))
        row, state, path, statistics, left, difference = jax.lax.while_loop(unfinished, advance, begin)
        return Lanes(state, path, statistics), row[None], left[None], difference

    row_specs = Rows(SPLIT, WHOLE, WHOLE, WHOLE, WHOLE)
    specs = (WHOLE, row_specs, SPLIT, SPLIT, SPLIT, SPLIT_SECOND)
    spread = team.spread(on_each_device, specs, (Lanes(*_LAYOUT), SPLIT, SPLIT, SPLIT))
    return spread(parameters, rows, keys, first_steps, state, recorded)


def _whitened_logdensity(dynamics: LaneDynamics, parameters: KernelParameters, u: Vector) -> Float[Array, ""]:
    return dynamics.logdensity(parameters.position(u))


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
    difference
        Largest coordinate of the difference to the old path in that row, shape (L,).
    """

    state: LaneState
    ends: Int[np.ndarray, " L"]
    has_left: Bool[np.ndarray, " L"]
    difference: Float[np.ndarray, " L"]


class LaneProgram:
    """The program for a number of lanes, with its records and its clock.

    Parameters
    ----------
    dynamics
        What lanes evaluate.
    num_lanes
        L. Where devices do not divide it, idle copies of the last lane fill up.
    mesh
        Devices that share the lanes; None: one.
    """

    def __init__(self, dynamics: LaneDynamics, num_lanes: int, mesh: Mesh | None) -> None:
        self.dynamics, self.num_lanes, self.mesh = dynamics, num_lanes, mesh
        self.num_devices = Team(mesh=mesh).num_devices
        self._padded = round_up(num_lanes, self.num_devices)
        dimension, dtype = dynamics.layout.dimension, np.dtype(dynamics.layout.dtype)
        fitting = MAX_PATH_BYTES // (self._padded * dimension * dtype.itemsize)
        self.num_rows = int(np.clip(fitting // PERIOD * PERIOD, MIN_ROWS, MAX_ROWS))
        self._recorded = self._blank(dimension, dtype)
        self.seconds_per_row = np.nan

    def _blank(self, dimension: int, dtype: np.dtype) -> tuple[Any, Statistics]:
        shape = (self.num_rows, self._padded)
        kinds = Statistics(dtype, dtype, bool, np.int32, dtype, np.int32, dtype)
        blank = (np.zeros((*shape, dimension), dtype), Statistics(*(np.zeros(shape, kind) for kind in kinds)))
        # Placed as the program leaves it: another placement would be another program.
        sharding = None if self.mesh is None else jax.NamedSharding(self.mesh, SPLIT_SECOND)
        return jax.device_put(blank, sharding)

    @property
    def rows_per_call(self) -> int:
        """Rows that one call should evaluate, so that progress shows and interrupts are heeded."""
        if not np.isfinite(self.seconds_per_row):
            return PERIOD
        return max(PERIOD, int(min(SECONDS_PER_CALL / self.seconds_per_row, self.num_rows)) // PERIOD * PERIOD)

    def advance(
        self,
        parameters: KernelParameters,
        keys: UInt32[np.ndarray, "L 2"],
        first_steps: Int[np.ndarray, " L"],
        state: LaneState,
        rows: Rows,
    ) -> Advanced:
        """Evaluate some rows of all lanes; `rows.begin` may differ from lane to lane as far as devices differ."""
        dtype = np.dtype(self.dynamics.layout.dtype)
        lanes_per_device = self._padded // self.num_devices
        begins = self._filled(np.broadcast_to(np.asarray(rows.begin, np.int32), (self.num_lanes,)))
        begins = begins[::lanes_per_device]
        asked = Rows(
            begins, np.int32(rows.end), np.bool_(rows.is_restored), np.bool_(rows.may_leave), dtype.type(rows.atol)
        )
        started = time.perf_counter()
        lanes, ends, has_left, difference = advance_lanes(
            self.dynamics,
            self.mesh,
            parameters,
            *map(self._filled, (keys, first_steps.astype(np.int32))),
            asked,
            self._recorded,
            jax.tree.map(lambda leaf: self._filled(np.asarray(leaf, dtype)), state),
        )
        self._recorded = (lanes.path, lanes.statistics)
        state, ends, has_left, difference = jax.device_get(whole(self.mesh, (lanes.state, ends, has_left, difference)))
        if (num_rows := int((ends - begins).max())) >= PERIOD:
            seconds = np.float64((time.perf_counter() - started) / num_rows)
            self.seconds_per_row = float(agreed(self.mesh, seconds))
        advanced = Advanced(state, np.repeat(ends, lanes_per_device), np.repeat(has_left, lanes_per_device), difference)
        return jax.tree.map(lambda leaf: np.array(leaf[: self.num_lanes]), advanced)

    def recorded(self, begin: int, end: int) -> tuple[Float[np.ndarray, "n L D"], Statistics]:
        """Path and statistics of some rows, on the host."""
        values = jax.device_get(whole(self.mesh, self._recorded))
        return jax.tree.map(lambda leaf: leaf[begin:end, : self.num_lanes], values)

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Entries of all lanes and of the idle ones."""
        idle = self._padded - self.num_lanes
        return np.concatenate([values, np.repeat(values[-1:], idle, axis=0)]) if idle else values
