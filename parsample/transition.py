"""The chain as a nonlinear state space model, and its sequential evaluation.

With its randomness fixed, a Markov chain is a recursion ``s_t = f_t(s_{t-1})``. Blocks of it exchange the *reduced*
state, a flat vector that determines the future of the chain; inside a block the kernel's full state, the *carry*
(with cached log density and gradient), is passed on as the kernel itself would do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample.threefry import unrolled

if TYPE_CHECKING:
    import blackjax.base

Vector = Float[Array, " D"]

# What BlackJAX's state fields are to a chain. Fields that the position determines are recomputed by `init`;
# fields that the kernel hands on are exchanged between blocks; fields that advance by themselves are precomputed.
DETERMINED_FIELDS = frozenset({"logdensity", "logdensity_grad", "U_x", "U_grad_x"})
EXCHANGED_FIELDS = frozenset({"position", "momentum", "slice"})
AUTONOMOUS_FIELDS = frozenset({"random_generator_arg"})


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
    """What drives the chain.

    Attributes
    ----------
    sequence
        Pytree with leading axis T: the input of step t is entry t.
    """

    sequence: PyTree

    @property
    def num_steps(self) -> int:
        """T."""
        return jax.tree.leaves(self.sequence)[0].shape[0]

    def at(self, t: Array) -> PyTree:
        """The input of step `t`."""
        return entry(self.sequence, t)


def take(tree: PyTree, indices: Any) -> PyTree:
    """Entries `indices` along the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[indices], tree)


def entry(tree: PyTree, index: Array | int) -> PyTree:
    """Entry `index` along the leading axis of every leaf, as a slice, which is cheaper than a gather."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def write(tree: PyTree, values: PyTree, *index: Array | int) -> PyTree:
    """The tree with entry `index` of every leaf replaced; in a loop the compiler does this in place."""

    def one(leaf: Array, value: Any) -> Array:
        block = jnp.reshape(jnp.asarray(value, leaf.dtype), (*[1] * len(index), *leaf.shape[len(index) :]))
        return jax.lax.dynamic_update_slice(leaf, block, (*index, *[0] * (leaf.ndim - len(index))))

    return jax.tree.map(one, tree, values)


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """One of two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def from_step(step: Callable, initial_state: PyTree) -> tuple[Transition, Vector]:
    """A plain recursion ``step(state, input) -> state`` as a Transition, and its reduced initial state."""
    vector, unravel = ravel_pytree(initial_state)

    def advance(state: PyTree, driven: PyTree) -> tuple[PyTree, None]:
        return step(state, driven), None

    return Transition(unravel, advance, lambda state: ravel_pytree(state)[0]), vector


def from_algorithm(
    algorithm: "blackjax.base.SamplingAlgorithm", state: PyTree, transform: Callable
) -> tuple[Transition, Vector]:
    """A BlackJAX algorithm as a Transition, and its reduced initial state.

    Parameters
    ----------
    algorithm
        Any BlackJAX sampling algorithm whose state consists of known fields.
    state
        The initial state of the chain, as ``algorithm.init`` gives it.
    transform
        ``transform(state, info)`` is the output of each step.

    Raises
    ------
    TypeError
        If the state has a field of unknown meaning: such a kernel cannot be reduced to what blocks exchange.
    """
    fields, exchanged = _known_fields(state), exchanged_fields(state)
    autonomous = {name: getattr(state, name) for name in fields if name in AUTONOMOUS_FIELDS}
    vector, unravel = ravel_pytree(exchanged)
    # Only shapes matter here: `init` may want a key, or the first value of what advances by itself; both are replaced.
    init_argument = next(iter(autonomous.values()), None)
    if init_argument is None:
        init_argument = jax.random.key_data(jax.random.key(0))

    def restore(reduced: Vector) -> Any:
        parts = unravel(reduced)
        return algorithm.init(parts["position"], init_argument)._replace(**parts, **autonomous)

    def reduce(carry: Any) -> Vector:
        return ravel_pytree({name: getattr(carry, name) for name in exchanged})[0]

    def step(carry: Any, driven: tuple) -> tuple[Any, Any]:
        key, arguments = driven
        new_state, info = algorithm.step(key, carry._replace(**arguments))
        return new_state, transform(new_state, info)

    return Transition(restore, step, reduce), vector


def exchanged_fields(state: PyTree) -> dict[str, PyTree]:
    """The fields of a BlackJAX state that blocks exchange."""
    return {name: getattr(state, name) for name in _known_fields(state) if name in EXCHANGED_FIELDS}


def algorithm_inputs(algorithm: "blackjax.base.SamplingAlgorithm", state: PyTree, rng_keys: Array) -> Inputs:
    """The inputs of a BlackJAX chain: its keys, and the fields that advance without looking at the position.

    dhmc's ``random_generator_arg`` is such a field. Only its own update is kept of the step traced here, so
    that the compiler drops everything else.
    """
    names = [name for name in _known_fields(state) if name in AUTONOMOUS_FIELDS]
    if not names:
        return Inputs((rng_keys, {}))

    def advance(arguments: dict, key: Array) -> tuple[dict, dict]:
        new_state, _ = algorithm.step(key, state._replace(**arguments))
        return {name: getattr(new_state, name) for name in names}, arguments

    start = {name: getattr(state, name) for name in names}
    _, arguments = jax.lax.scan(advance, start, rng_keys)
    return Inputs((rng_keys, arguments))


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
    return Inputs(jax.tree.map(jnp.asarray, inputs))


@runtime_checkable
class Dynamics(Protocol):
    """A family of chains: one chain for every key and length.

    Instances are hashable and hold functions only; whatever is an array comes as `parameters`, so that one compiled
    programme serves all of them.
    """

    def transition(self, state: PyTree) -> Transition:
        """A step of the chain; of `state`, only what does not change from step to step matters."""
        ...

    def exchanged(self, state: PyTree) -> PyTree:
        """The part of a state that blocks exchange, whose flat vector is the reduced state."""
        ...

    def __call__(self, parameters: Any, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The chain of `rng_key`, and what drives it for `num_steps` steps."""
        ...


@dataclass(frozen=True)
class AlgorithmDynamics:
    """Chains of a BlackJAX algorithm, keyed as ``blackjax.util.run_inference_algorithm`` keys them.

    The parameters are the initial state, of which only what advances by itself matters here.
    """

    algorithm: "blackjax.base.SamplingAlgorithm"
    transform: Callable

    def transition(self, state: PyTree) -> Transition:
        """A step of the algorithm."""
        return from_algorithm(self.algorithm, state, self.transform)[0]

    def exchanged(self, state: PyTree) -> PyTree:
        """The position, and whatever else the kernel hands on."""
        return exchanged_fields(state)

    def __call__(self, parameters: Any, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The chain of `rng_key`, and what drives it for `num_steps` steps."""
        transition = self.transition(parameters)
        return transition, algorithm_inputs(self.algorithm, parameters, jax.random.split(unrolled(rng_key), num_steps))


@partial(jax.jit, static_argnums=0)
def begin(dynamics: AlgorithmDynamics, rng_key: Array, position: PyTree) -> tuple[Array, PyTree, Vector]:
    """Key of the chain, initial state and reduced initial state, with the key split as BlackJAX splits it."""
    chain_key, init_key = jax.random.split(rng_key, 2)
    state = dynamics.algorithm.init(position, init_key)
    _, start = from_algorithm(dynamics.algorithm, state, dynamics.transform)
    return chain_key, state, start


def _known_fields(state: PyTree) -> tuple[str, ...]:
    fields = getattr(state, "_fields", ())
    known = DETERMINED_FIELDS | EXCHANGED_FIELDS | AUTONOMOUS_FIELDS
    unknown = [name for name in fields if name not in known]
    if "position" not in fields or unknown:
        what = f"fields {unknown}" if unknown else "no field 'position'"
        raise TypeError(
            f"inference_algorithm: a state of type {type(state).__name__} has {what}, of which parsample does not "
            "know whether they follow from the position; this kernel cannot be run in parallel. Use "
            "blackjax.util.run_inference_algorithm, or write the chain as step(state, input) for parsample.deer."
        )
    return cast(tuple[str, ...], fields)


def rollout(transition: Transition, start: Vector, inputs: Inputs) -> tuple[Any, Array, PyTree]:
    """The sequential evaluation of a chain: the specification of every parallel one.

    Returns
    -------
    carry
        The carry after the last step.
    path
        Reduced states after each step, shape (T, D).
    outputs
        Outputs of each step, leading axis T.
    """

    def advance(carry: Any, t: Array) -> tuple[Any, tuple]:
        carry, output = transition.step(carry, inputs.at(t))
        return carry, (transition.reduce(carry), output)

    carry, (path, outputs) = jax.lax.scan(advance, transition.restore(start), jnp.arange(inputs.num_steps))
    return carry, path, outputs


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to be written, which may be one of keys."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    return jnp.zeros(shape, dtype)
