"""Lanes that evaluate blocks of a user's own chain: a BlackJAX algorithm, or any recursion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Dynamics, Vector
from parsample.internal.random_keys import Kinds, as_keys, as_words, kinds_of
from parsample.internal.trees import entry
from parsample.solver.tolerance import ROUNDINGS, Tolerance

# Maximum number of states from which the scale of a chain is estimated.
MAX_SCALE_STATES = 4096

# Half the distance between these quantiles is the standard deviation of a normal law; outliers do not affect it.
SCALE_QUANTILES = (0.1587, 0.8413)


@dataclass(frozen=True)
class ChainLanes:
    """A user's chain, as `LaneDynamics`; the parameters are its scale, the unit of distances, shape (D,).

    The inputs of a lane are, for each row, the inputs of the chain and a flag: whether the lane moves in that row.

    Attributes
    ----------
    dynamics
        The chain.
    state_kinds, input_kinds, output_kinds
        Kinds of the random keys in states, inputs and outputs; keys pass through NumPy as words.
    """

    dynamics: Dynamics
    state_kinds: Kinds
    input_kinds: Kinds
    output_kinds: Kinds

    @classmethod
    def of(
        cls, dynamics: Dynamics, state: PyTree, sequence: PyTree, num_axes: int = 1
    ) -> tuple["ChainLanes", tuple[Any, PyTree]]:
        """The lanes of a chain with states and inputs like these, and the shapes of the records of one row.

        The first `num_axes` axes of `sequence` run over steps, or over lanes and steps.
        """
        output_kinds: list[Kinds] = []

        def one_step(state: PyTree, driven: PyTree) -> tuple[Vector, PyTree]:
            transition = dynamics.transition(state)
            carry, output = transition.step(state, driven)
            output_kinds.append(kinds_of(output))
            return transition.reduce(carry), as_words(output)

        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[num_axes:], leaf.dtype), sequence)
        records = jax.eval_shape(one_step, state, one)
        return cls(dynamics, kinds_of(state), kinds_of(sequence), output_kinds[-1]), records

    def step(
        self, parameters: Vector, inputs: PyTree, state: PyTree, row: Int[Array, ""], needs_evaluation: Bool[Array, ""]
    ) -> tuple[PyTree, Vector, PyTree]:
        """One step of the chain; a lane that does not move keeps its state."""
        del parameters, needs_evaluation
        words, moves = entry(inputs, row)
        state = as_keys(state, self.state_kinds)
        transition = self.dynamics.transition(state)
        carry, output = transition.step(state, as_keys(words, self.input_kinds))
        kept = jax.tree.map(lambda new, old: jnp.where(moves, new, old), as_words(carry), as_words(state))
        return kept, transition.reduce(as_keys(kept, self.state_kinds)), as_words(output)

    def met(self, parameters: Any, atol: Any, new: tuple[Any, PyTree], old: tuple[Any, PyTree]) -> tuple[Any, Any]:
        """Largest coordinate of each difference, in standard deviations, and whether it is within the tolerance."""
        tolerance = Tolerance(parameters, atol, ROUNDINGS * float(np.finfo(new[0].dtype).eps))
        difference = new[0] - old[0]
        return tolerance.size(difference), tolerance.accepts(difference, new[0])

    def joined(
        self, parameters: Any, atol: float, one: PyTree, other: PyTree
    ) -> tuple[Float[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """The same for states on the host, with a leading axis L."""
        distance, met = self.met(parameters, atol, (self.positions(one), None), (self.positions(other), None))
        return np.where(np.isnan(distance), np.inf, distance), met

    def with_estimated_scale(self, parameters: Any, path: Callable[[], np.ndarray]) -> Float[np.ndarray, " D"]:
        """The spread of the path in each coordinate; where the spread is 0, the size of its median, or else 1."""
        states = path().reshape(-1, len(parameters))
        states = states[:: max(1, len(states) // MAX_SCALE_STATES)]
        states = states[np.isfinite(states).all(-1)]
        if not len(states):
            return parameters
        low, middle, high = np.quantile(states, (SCALE_QUANTILES[0], 0.5, SCALE_QUANTILES[1]), axis=0)
        size = np.where(middle == 0, 1, np.abs(middle))
        return np.where(high > low, (high - low) / 2, size).astype(states.dtype)

    def positions(self, states: PyTree) -> Float[np.ndarray, "L D"]:
        """Exchanged fields of states on the host, as vectors; the states have a leading axis L."""
        leaves = jax.tree.leaves(self.dynamics.exchanged(states))
        return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=-1)
