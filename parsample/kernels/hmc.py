"""Hamiltonian Monte Carlo with trajectory lengths that vary in a fixed cycle; with one leapfrog step, MALA.

A trajectory equals that of ``blackjax.hmc`` with a unit metric. Its loop contains one evaluation of the log density;
all lanes share the number of leapfrog steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from parsample.chain.multishift import accepted, normal
from parsample.chain.transition import Vector
from parsample.internal.threefry import step_uniforms
from parsample.internal.trees import select
from parsample.kernels.base import DIVERGENCE_THRESHOLD, LaneState, LogDensity, Statistics, with_move
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

# One cycle of trajectory lengths, as fractions of pi: the first points of the base-2 Halton sequence.
_NUM_BITS = PERIOD.bit_length()
_BITS = (np.arange(1, PERIOD + 1)[:, None] >> np.arange(_NUM_BITS)) & 1
HALTON = (_BITS * 0.5 ** np.arange(1, _NUM_BITS + 1)).sum(1)

MAX_INTEGRATION_STEPS = 1023


@dataclass(frozen=True)
class HMC:
    """HMC in whitened coordinates, with path lengths spread evenly over (0, pi].

    Pi is half a period of the slowest oscillation. Lengths depend on t, never on the state, so each step leaves the
    posterior invariant; they vary because with a fixed length, equal to a period of the posterior, a chain might never
    forget its start.
    """

    name: str = "hmc"
    statistics: tuple[str, ...] = ("lp", "acceptance_rate", "diverging", "n_steps", "energy")
    target_acceptance_rate: float = 0.8  # Stan's
    uses_gradient: bool = True

    def num_integration_steps(self, step_size: float) -> Int[np.ndarray, " P"]:
        """Number of leapfrog steps in each step of a period.

        ``max(1, round(h_k pi / step_size))`` for the Halton points h_k, and at most `MAX_INTEGRATION_STEPS`.
        """
        return np.clip(np.round(HALTON * np.pi / step_size), 1, MAX_INTEGRATION_STEPS).astype(np.int32)

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
        """A multishift move (at `MOVE_STEPS` of a period), then a trajectory."""
        value_and_grad = jax.value_and_grad(logdensity_fn)
        scale = parameters.move_scales[phase]
        state, move_acceptance = with_move(key_data, t, state, scale, needs_evaluation, value_and_grad)
        uniforms = step_uniforms(key_data, t, 0, state.position.shape[0] + 1, state.position.dtype)
        num_steps = parameters.num_integration_steps[phase]
        state, statistics = trajectory(uniforms, state, value_and_grad, parameters.step_size, num_steps)
        return state, statistics._replace(move_acceptance=move_acceptance)


@dataclass(frozen=True)
class MALA(HMC):
    """Metropolis-adjusted Langevin: HMC with one leapfrog step (Neal 2011, section 5.2)."""

    name: str = "mala"
    target_acceptance_rate: float = 0.574  # the optimum of Roberts and Rosenthal (1998)

    def num_integration_steps(self, step_size: float) -> Int[np.ndarray, " P"]:
        """Number of leapfrog steps in each step of a period: one."""
        del step_size
        return np.ones(PERIOD, np.int32)


def trajectory(
    uniforms: Float[Array, " N"],
    state: LaneState,
    value_and_grad: Callable[[Vector], tuple[Float[Array, ""], Vector]],
    step_size: Float[Array, ""],
    num_steps: Int[Array, ""],
) -> tuple[LaneState, Statistics]:
    """Leapfrog steps with a fresh momentum, accepted or rejected as a whole."""
    start = normal(uniforms[:-1])

    def leapfrog(_: Any, point: tuple[LaneState, Vector]) -> tuple[LaneState, Vector]:
        here, momentum = point
        momentum = momentum + 0.5 * step_size * here.logdensity_grad
        position = here.position + step_size * momentum
        there = LaneState(position, *value_and_grad(position))
        return there, momentum + 0.5 * step_size * there.logdensity_grad

    end, momentum = jax.lax.fori_loop(0, num_steps, leapfrog, (state, start))
    before = 0.5 * jnp.sum(start * start) - state.logdensity
    after = 0.5 * jnp.sum(momentum * momentum) - end.logdensity
    gain = before - after
    accept, probability = accepted(uniforms[-1], gain)
    state = select(accept, end, state)
    statistics = Statistics(
        lp=state.logdensity,
        acceptance_rate=probability,
        diverging=~(-gain <= DIVERGENCE_THRESHOLD),  # negated, so that NaN counts as divergent
        n_steps=jnp.asarray(num_steps, jnp.int32),
        energy=jnp.where(accept, after, before),
        tree_depth=jnp.int32(0),
        move_acceptance=jnp.full_like(gain, -1),
    )
    return state, statistics
