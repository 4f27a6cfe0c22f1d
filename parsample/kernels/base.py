"""The protocol of the kernels of `sample`: one step of a lane in whitened coordinates, with statistics of the draw."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from parsample.chain.multishift import accepted, lattice_point
from parsample.chain.transition import Vector
from parsample.internal.threefry import step_uniforms
from parsample.internal.trees import select
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import LANES

LogDensity = Callable[[Vector], Float[Array, ""]]

# A transition diverges if its energy error exceeds this; BlackJAX's default.
DIVERGENCE_THRESHOLD = 1000

# Steps of a period that begin with a multishift move. The first step is not among them: it evaluates the log density of
# restored lanes.
MOVE_STEPS = (3, 7, 11, 15)


class LaneState(NamedTuple):
    """State of a lane; on the host, states of all lanes in NumPy arrays with a leading axis.

    Attributes
    ----------
    position
        Whitened coordinates, shape (D,).
    logdensity
        Log density there.
    logdensity_grad
        Its gradient, shape (D,); None for kernels without gradients.
    """

    position: Float[Any, "*lanes D"]
    logdensity: Float[Any, "*lanes"]
    logdensity_grad: Any


class Statistics(NamedTuple):
    """Statistics of one draw, under ArviZ's names; on the host, of many draws, with leading axes.

    Attributes
    ----------
    lp
        Log density at the position.
    acceptance_rate
        Acceptance probability of the step; its mean over the trajectory (nuts) or the coordinates (metropolis).
    diverging
        Whether the energy error exceeded 1000 or was not a number.
    n_steps
        Number of evaluations of the log density: leapfrog steps, or coordinates (metropolis).
    energy
        Total energy of the draw; minus `lp` for metropolis.
    tree_depth
        Doublings of the NUTS trajectory; 0 for other kernels.
    move_acceptance
        Acceptance probability of the multishift move; -1 in steps without a move.
    """

    lp: Float[Any, "*draws"]
    acceptance_rate: Float[Any, "*draws"]
    diverging: Bool[Any, "*draws"]
    n_steps: Int[Any, "*draws"]
    energy: Float[Any, "*draws"]
    tree_depth: Int[Any, "*draws"]
    move_acceptance: Float[Any, "*draws"]


@runtime_checkable
class Kernel(Protocol):
    """A Markov kernel whose random numbers are a function of key and step, in whitened coordinates."""

    @property
    def name(self) -> str:
        """The name in ``sample(kernel=name)``."""
        ...

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields of `Statistics` that results show."""
        ...

    @property
    def target_acceptance_rate(self) -> float:
        """Acceptance rate to which the step size or proposal scale is tuned."""
        ...

    @property
    def uses_gradient(self) -> bool:
        """Whether the log density must be differentiable."""
        ...

    def num_integration_steps(self, step_size: float) -> Int[np.ndarray, " P"]:
        """Leapfrog steps that the program may take in each step of a period, shape (16,).

        For hmc and mala exactly as many; for nuts at most as many; metropolis has none, returns zeros, and ignores
        them. The first rounds of the warm-up lower these numbers.
        """
        ...

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
        """Step t of the chain with this key; with `needs_evaluation`, the log density of `state` is evaluated first.

        `phase`, t modulo the period, and `needs_evaluation` are common to all lanes; restored lanes are in phase 0.
        """
        ...


def any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether a flag is set in any lane along the axis `LANES`; without that axis, the flag itself.

    Under ``jax.vmap``, loops need no masks if their conditions are common to all lanes.
    """
    try:
        return jax.lax.pmax(flag.astype(jnp.int32), LANES) > 0
    except NameError:  # no such axis
        return flag


def with_move(
    key_data: Array,
    t: Int[Array, ""],
    state: LaneState,
    scale: Float[Array, ""],
    needs_evaluation: Bool[Array, ""],
    value_and_grad: Callable[[Vector], tuple[Float[Array, ""], Vector]],
) -> tuple[LaneState, Float[Array, ""]]:
    """Evaluate a restored state, or make a multishift move of this scale (0: none).

    Returns the state and the acceptance probability of the move. Both cases evaluate the log density in the same place
    of the program, so that they round alike.
    """
    moves = scale > 0

    def evaluated(state: LaneState) -> tuple[LaneState, Float[Array, ""]]:
        dimension, dtype = state.position.shape[0], state.position.dtype
        # hmc and mala use the first D + 1 uniforms of the step; nuts uses keys of its own.
        uniforms = step_uniforms(key_data, t, dimension + 1, 3 * dimension + 1, dtype)
        proposal = lattice_point(uniforms[:-1].reshape(3, -1), state.position, jnp.where(moves, scale, 1))
        position = jnp.where(moves, proposal, state.position)
        new = LaneState(position, *value_and_grad(position))
        accept, probability = accepted(uniforms[-1], new.logdensity - state.logdensity)
        return select(accept | ~moves, new, state), jnp.where(moves, probability, -1)

    def kept(state: LaneState) -> tuple[LaneState, Float[Array, ""]]:
        return state, jnp.full_like(state.logdensity, -1)

    return jax.lax.cond(moves | needs_evaluation, evaluated, kept, state)
