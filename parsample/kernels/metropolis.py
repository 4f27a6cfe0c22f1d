"""Random-walk Metropolis, coordinate by coordinate, with multishift-coupled proposals: no gradients.

In whitened coordinates, the coordinates of two paths with common keys become equal one by one and remain equal: paths
meet exactly within a few sweeps. A step is a sweep over all D coordinates; it costs D evaluations of the log density.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from parsample.chain.multishift import accepted, lattice_point
from parsample.chain.transition import Vector
from parsample.internal.threefry import step_uniforms
from parsample.kernels.base import LaneState, LogDensity, Statistics
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD


@dataclass(frozen=True)
class Metropolis:
    """Coordinate-by-coordinate random-walk Metropolis in whitened coordinates."""

    name: str = "metropolis"
    statistics: tuple[str, ...] = ("lp", "acceptance_rate", "n_steps")
    target_acceptance_rate: float = 0.44  # the optimum in one dimension (Roberts and Rosenthal 2001)
    uses_gradient: bool = False

    def num_integration_steps(self, step_size: float) -> Int[np.ndarray, " P"]:
        """Zeros, which `step` does not read: there are no trajectories."""
        del step_size
        return np.zeros(PERIOD, np.int32)

    def step(
        self,
        key_data: Array,
        state: LaneState,
        t: Int[Array, ""],
        phase: Int[Array, ""],
        needs_evaluation: Bool[Array, ""],
        logdensity_fn: LogDensity,
        parameters: KernelParameters,
    ) -> tuple[LaneState, Statistics]:
        """One sweep over the coordinates; for a restored lane, the log density at its state is evaluated first."""
        del phase
        dimension = state.position.shape[0]
        uniforms = step_uniforms(key_data, t, 0, 4 * dimension, state.position.dtype).reshape(4, dimension)
        # No coordinate changes before its turn, so all proposals can be drawn at once.
        proposal = lattice_point(uniforms[:3], state.position, parameters.step_size)
        numbers = jnp.arange(dimension)

        def coordinate(i: Int[Array, ""] | int, carry: tuple[Vector, Array, Array]) -> tuple[Vector, Array, Array]:
            # Turn -1 evaluates the present state, at the same place of the program as the proposals.
            position, logdensity, total = carry
            moved = jnp.where(numbers == i, proposal, position)
            value = logdensity_fn(moved)
            accept, probability = accepted(uniforms[3, jnp.maximum(i, 0)], value - logdensity)
            accept |= i < 0
            total = total + jnp.where(i < 0, 0, probability)
            return jnp.where(accept, moved, position), jnp.where(accept, value, logdensity), total

        begin = (state.position, state.logdensity, jnp.zeros_like(state.logdensity))
        first = -jnp.asarray(needs_evaluation).astype(jnp.int32)
        position, logdensity, total = jax.lax.fori_loop(first, dimension, coordinate, begin)
        statistics = Statistics(
            lp=logdensity,
            acceptance_rate=total / dimension,
            diverging=jnp.asarray(False),
            n_steps=jnp.int32(dimension),
            energy=-logdensity,
            tree_depth=jnp.int32(0),
            move_acceptance=jnp.full_like(logdensity, -1),
        )
        return LaneState(position, logdensity, None), statistics
