"""The chain as a nonlinear state space model, and its sequential evaluation.

With its randomness fixed, a Markov chain is a recursion ``s_t = f_t(s_{t-1})``. Its blocks exchange the *reduced*
state, a flat vector that determines the future of the chain; inside a block the kernel's full state, the *carry*
(with cached log density and gradient), passes from step to step as in the kernel itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.random_keys import is_key
from parsample.internal.trees import entry, on_device

Vector = Float[Array, " D"]


@dataclass(frozen=True)
class Transition:
    """One step of a chain, in the three parts that block-parallel evaluation needs.

    Attributes
    ----------
    restore
        Maps the reduced state, shape (D,), to the carry.
    step
        Maps (carry, input of this step) to (next carry, output of this step).
    reduce
        Maps the carry to the reduced state, shape (D,).
    """

    restore: Callable[[Vector], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    reduce: Callable[[Any], Vector]

    def reduced_step(self, state: Vector, driven: Any) -> Vector:
        """One step from reduced state to reduced state."""
        return self.reduce(self.step(self.restore(state), driven)[0])


class Inputs(NamedTuple):
    """The inputs of a chain, one per step.

    Attributes
    ----------
    sequence
        Pytree with leading axis T: the input of step t is entry t.
    """

    sequence: PyTree

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return jax.tree.leaves(self.sequence)[0].shape[0]

    def at(self, t: Array) -> PyTree:
        """The input of step `t`."""
        # Repeated sweeps take the same steps, so they use keys again on purpose, and say so (`jax.debug_key_reuse`).
        return jax.tree.map(lambda leaf: jax.random.clone(leaf) if is_key(leaf) else leaf, entry(self.sequence, t))


def from_step(step: Callable, initial_state: PyTree) -> tuple[Transition, Vector]:
    """A plain recursion ``step(state, input) -> state`` as a Transition, and its reduced initial state."""
    vector, unravel = ravel_pytree(initial_state)

    def advance(state: PyTree, driven: PyTree) -> tuple[PyTree, None]:
        return step(state, driven), None

    return Transition(unravel, advance, lambda state: ravel_pytree(state)[0]), vector


def as_inputs(inputs: PyTree) -> Inputs:
    """A user's inputs, checked to have one entry per step.

    Raises
    ------
    ValueError
        If there are no arrays, or their leading axes are empty or differ.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"inputs: every array needs the same leading axis of T >= 1 steps; got shapes {shapes}. "
            "A recursion without inputs takes jnp.arange(T)."
        )
    return Inputs(on_device(inputs))


@runtime_checkable
class Dynamics(Protocol):
    """A family of chains: one chain for every key and length.

    Instances are hashable and hold functions only; all arrays are passed as `parameters`, so that one compiled program
    serves every value of them.
    """

    def transition(self, state: PyTree) -> Transition:
        """One step of the chain; uses only the parts of `state` that are the same at every step."""
        ...

    def exchanged(self, state: PyTree) -> PyTree:
        """The part of a state that blocks exchange; flattened, it is the reduced state."""
        ...

    def __call__(self, parameters: Any, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The transition of the chain of `rng_key`, and the inputs of `num_steps` steps."""
        ...


@jit_with_xla_options(2)
def sequence_of(dynamics: Dynamics, num_steps: int, parameters: Any, rng_key: Array) -> PyTree:
    """The inputs of the first `num_steps` steps of the chain of `rng_key`, compiled."""
    return dynamics(parameters, rng_key, num_steps)[1].sequence


def rollout(transition: Transition, start: Vector, inputs: Inputs) -> tuple[Any, Array, PyTree]:
    """Evaluate a chain sequentially, which defines the correct result of every parallel evaluation.

    Returns
    -------
    carry
        The carry after the last step.
    path
        The reduced state after each step, shape (T, D).
    outputs
        The outputs of the steps, with leading axis T.
    """

    def advance(carry: Any, t: Array) -> tuple[Any, tuple]:
        carry, output = transition.step(carry, inputs.at(t))
        return carry, (transition.reduce(carry), output)

    carry, (path, outputs) = jax.lax.scan(advance, transition.restore(start), jnp.arange(inputs.num_steps))
    return carry, path, outputs
