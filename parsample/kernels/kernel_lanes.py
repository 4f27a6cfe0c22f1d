"""The lanes of `sample`: a kernel on a log density, in whitened coordinates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, UInt32

from parsample.chain.transition import Inputs, Transition, Vector
from parsample.draws.layout import Layout
from parsample.kernels.base import Kernel, LaneState, LogDensity, Statistics
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

# Key data of the chain of each lane, shape (L, 2), and its step at row 0: after the warm-up, a multiple of `PERIOD`.
KernelInputs = tuple[UInt32[Any, "*lanes two"], Int[Any, "*lanes"]]


@dataclass(frozen=True)
class KernelLanes:
    """A kernel of `sample` on a log density, as `LaneDynamics`.

    `__call__` makes it a `Dynamics` too, which only the Lyapunov exponent uses.

    Attributes
    ----------
    logdensity_fn
        The user's log density, of a position pytree and the data in `KernelParameters.data`.
    layout
        Layout of that pytree.
    kernel
        The kernel.
    is_batched
        Whether the log density can be evaluated for all lanes at once; if not, lanes are evaluated one after another.
    """

    logdensity_fn: Callable
    layout: Layout
    kernel: Kernel
    is_batched: bool = True

    @property
    def records(self) -> tuple[jax.ShapeDtypeStruct, Statistics]:
        """Shapes of a position and of its statistics."""
        dtype = np.dtype(self.layout.dtype)
        kinds = Statistics(dtype, dtype, np.dtype(bool), np.dtype(np.int32), dtype, np.dtype(np.int32), dtype)
        statistics = Statistics(*(jax.ShapeDtypeStruct((), kind) for kind in kinds))
        return jax.ShapeDtypeStruct((self.layout.dimension,), dtype), statistics

    def logdensity(self, position: Vector, data: tuple[Any, ...] = ()) -> Float[Array, ""]:
        """The log density of a flat position, -inf where the user's value is NaN or infinite."""

        def evaluate(position: Vector) -> Float[Array, ""]:
            return jnp.asarray(self.logdensity_fn(self.layout.unravel(position), *data), position.dtype)

        value = evaluate(position) if self.is_batched else _one_by_one(evaluate)(position)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def _whitened_logdensity(self, parameters: KernelParameters) -> LogDensity:
        """The log density as a function of whitened coordinates u."""
        return lambda u: self.logdensity(parameters.position(u), parameters.data)

    def step(
        self,
        parameters: KernelParameters,
        inputs: KernelInputs,
        state: LaneState,
        row: Int[Array, ""],
        needs_evaluation: Bool[Array, ""],
    ) -> tuple[LaneState, Vector, Statistics]:
        """One step of the kernel."""
        key, first_step = inputs
        target = self._whitened_logdensity(parameters)
        state, found = self.kernel.step(
            key, state, first_step + row, row % PERIOD, needs_evaluation, target, parameters
        )
        return state, state.position, found

    def __call__(self, parameters: KernelParameters, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The chain with this key as a state space model, for derivatives along the chain."""
        key, target = jax.random.key_data(rng_key), self._whitened_logdensity(parameters)

        def step(state: LaneState, t: Int[Array, ""]) -> tuple[LaneState, None]:
            return self.kernel.step(key, state, t, t % PERIOD, jnp.asarray(False), target, parameters)[0], None

        def restore(u: Vector) -> LaneState:
            return LaneState(u, *jax.value_and_grad(target)(u))

        return Transition(restore, step, lambda state: state.position), Inputs(jnp.arange(num_steps, dtype=jnp.int32))

    def met(
        self, parameters: KernelParameters, atol: Any, new: tuple[Any, Statistics], old: tuple[Any, Statistics]
    ) -> tuple[Any, Any]:
        """Largest difference of whitened coordinates, and whether it is within `atol`."""
        del parameters
        distance = abs(new[0] - old[0]).max(-1)
        # For equality, cached log densities must agree as well: they decide the next acceptance.
        return distance, (distance <= atol) & ((atol > 0) | (new[1].lp == old[1].lp))

    def joined(
        self, parameters: KernelParameters, atol: float, one: LaneState, other: LaneState
    ) -> tuple[Float[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Largest difference of whitened coordinates; with `atol` = 0, cached fields must be equal too."""
        del parameters
        distance = np.abs(one.position.astype(float) - other.position.astype(float)).max(-1)
        distance = np.where(np.isnan(distance), np.inf, distance)
        if atol > 0:
            return distance, distance <= atol
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        same = np.all([(a == b).reshape(len(a), -1).all(-1) for a, b in pairs], axis=0)
        return np.where(same, 0.0, np.where(distance == 0, np.inf, distance)), same

    def with_estimated_scale(self, parameters: KernelParameters, path: Callable[[], np.ndarray]) -> KernelParameters:
        """The parameters, unchanged: whitened coordinates are in standard deviations."""
        del path
        return parameters


def _one_by_one(function: LogDensity) -> LogDensity:
    """A function, and its gradient if it has one, that ``jax.vmap`` evaluates for one lane after another."""
    evaluate = jax.custom_vjp(sequential_vmap(function))

    def forward(position: Vector) -> tuple[Float[Array, ""], Vector]:
        return sequential_vmap(jax.value_and_grad(function))(position)

    evaluate.defvjp(forward, lambda gradient, cotangent: (cotangent * gradient,))
    return evaluate
