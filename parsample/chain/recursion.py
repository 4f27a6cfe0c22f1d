"""Chains of a BlackJAX algorithm as plain recursions, and recursions as families of chains.

Functions of ``step(state, input)`` thereby apply to samplers, and `parsample.check` to any recursion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from parsample.chain.blackjax_chain import AlgorithmDynamics, begin
from parsample.chain.transition import Inputs, Transition, as_inputs, from_step, sequence_of
from parsample.internal.trees import take
from parsample.internal.validation import checked_count, checked_key, checked_position, checked_start

if TYPE_CHECKING:
    import blackjax.base


class Recursion(NamedTuple):
    """The recursion ``state = step(state, input)``, with its initial state and one input per step.

    Attributes
    ----------
    step
        ``step(state, input) -> state``.
    initial_state
        Pytree of floating-point arrays.
    inputs
        Pytree with leading axis T.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> recursion = parsample.Recursion(lambda s, u: 0.5 * s + u, jnp.zeros(()), jnp.ones(100))
    >>> recursion.num_steps
    100
    >>> float(parsample.rollout(*recursion)[-1])
    2.0
    """

    step: Callable
    initial_state: PyTree
    inputs: PyTree

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return as_inputs(self.inputs).num_steps


def as_recursion(
    rng_key: Array, inference_algorithm: "blackjax.base.SamplingAlgorithm", initial_position: PyTree, num_steps: int
) -> Recursion:
    """The chain of a BlackJAX algorithm as a recursion of its reduced state, for `parsample.deer` and its relatives.

    Parameters
    ----------
    rng_key
        Key of the chain, used exactly as ``blackjax.util.run_inference_algorithm`` uses it.
    inference_algorithm
        A BlackJAX sampling algorithm.
    initial_position
        Pytree of floating-point arrays.
    num_steps
        Number of steps T.

    Returns
    -------
    Recursion
        Its state is the flat position, shape (D,), with the momentum for kernels that keep it. Each step recomputes
        the log density and its gradient, which `parsample.run_inference_algorithm` avoids.

    Raises
    ------
    ValueError, TypeError
        If the position or its log density is unusable, or the kernel's state cannot be reduced.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> import blackjax
    >>> algorithm = blackjax.hmc(lambda x: -0.5 * jnp.sum(x**2), 0.9, jnp.ones(2), 3)
    >>> recursion = parsample.as_recursion(jax.random.key(0), algorithm, jnp.zeros(2), 200)
    >>> parsample.deer(*recursion, block_size=10).states.shape
    (200, 2)
    """
    checked_count("num_steps", num_steps)
    dynamics = AlgorithmDynamics(inference_algorithm, nothing)
    chain_key, state, start = begin(dynamics, checked_key(rng_key), checked_position(initial_position))
    checked_start(state)
    sequence = sequence_of(dynamics, num_steps, state, chain_key)
    return Recursion(dynamics.transition(state).reduced_step, start, sequence)


def nothing(_state: Any, _info: Any) -> None:
    """A transform without outputs."""


@dataclass(frozen=True)
class RecursionDynamics:
    """Chains over segments of a recursion's inputs; the key selects the start. `parameters` is (state, inputs)."""

    step: Callable

    def transition(self, state: PyTree) -> Transition:
        """One step of the recursion as a `Transition`."""
        return from_step(self.step, state)[0]

    def exchanged(self, state: PyTree) -> PyTree:
        """The whole state."""
        return state

    def __call__(self, parameters: Any, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The transition, and `num_steps` consecutive inputs, continued at the first after the last."""
        state, sequence = parameters
        transition = self.transition(state)
        total = Inputs(sequence).num_steps
        first = jax.random.randint(rng_key, (), 0, max(total - num_steps, 0) + 1)
        return transition, Inputs(take(sequence, (first + jnp.arange(num_steps)) % total))
