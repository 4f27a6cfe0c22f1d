"""Any BlackJAX algorithm as a state space model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from parsample.chain.transition import Inputs, Transition, Vector
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.threefry import unrolled
from parsample.internal.trees import on_device
from parsample.internal.validation import checked_function, shapes_of, short

if TYPE_CHECKING:
    import blackjax.base

# Roles of BlackJAX's state fields. Fields that the position determines are recomputed by `init`; other fields that the
# next step needs are exchanged between blocks; fields that advance independently of the position are precomputed.
DETERMINED_FIELDS = frozenset({"logdensity", "logdensity_grad", "U_x", "U_grad_x"})

# Largest difference of a recomputed field that counts as rounding, in roots of the unit of rounding.
FIELD_TOLERANCE = 30

EXCHANGED_FIELDS = frozenset({"position", "momentum", "slice"})

AUTONOMOUS_FIELDS = frozenset({"random_generator_arg"})


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
        If the state has a field of unknown role: such a state cannot be reduced to the fields that blocks exchange.
    """
    fields, exchanged = _known_fields(state), exchanged_fields(state)
    autonomous = {name: getattr(state, name) for name in fields if name in AUTONOMOUS_FIELDS}
    vector, unravel = ravel_pytree(exchanged)
    # `init` may need a key, or the first value of an autonomous field. The fields set from this argument are replaced
    # later, so that only its shape matters.
    known_argument = next(iter(autonomous.values()), None)

    def restore(reduced: Vector) -> Any:
        parts = unravel(reduced)
        init_argument = jax.random.key_data(jax.random.key(0)) if known_argument is None else known_argument
        return algorithm.init(parts["position"], init_argument)._replace(**parts, **autonomous)

    def reduce(carry: Any) -> Vector:
        return ravel_pytree({name: getattr(carry, name) for name in exchanged})[0]

    def step(carry: Any, driven: tuple) -> tuple[Any, Any]:
        key, arguments = driven
        new_state, info = _stepped(algorithm, key, carry._replace(**arguments))
        return new_state, _transformed(transform, new_state, info)

    return Transition(restore, step, reduce), vector


def _stepped(algorithm: "blackjax.base.SamplingAlgorithm", rng_key: Array, state: Any) -> tuple[Any, Any]:
    try:
        return algorithm.step(rng_key, state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"inference_algorithm cannot step from a position of {shapes_of(state.position)}: {error}"
        ) from error


def _transformed(transform: Callable, state: Any, info: Any) -> Any:
    try:
        return transform(state, info)
    except (TypeError, ValueError) as error:
        raise ValueError(f"transform(state, info) cannot be evaluated: {error}") from error


def checked_algorithm(algorithm: Any) -> "blackjax.base.SamplingAlgorithm":
    """The algorithm, if it has the two functions of a BlackJAX sampling algorithm."""
    if not all(callable(getattr(algorithm, name, None)) for name in ("init", "step")):
        raise TypeError(
            "inference_algorithm must be a BlackJAX sampling algorithm, as blackjax.hmc(logdensity_fn, ...) returns "
            f"it; got {short(algorithm)}."
        )
    return algorithm


def check_state(algorithm: "blackjax.base.SamplingAlgorithm", state: Any) -> None:
    """Raise unless `state` has the fields of the algorithm's states."""
    wanted = jax.eval_shape(algorithm.init, state.position, jax.random.key_data(jax.random.key(0)))
    if state._fields != wanted._fields:
        raise TypeError(
            f"initial_state has the fields {state._fields}; states of inference_algorithm have {wanted._fields}: make "
            "it by inference_algorithm.init."
        )


def exchanged_fields(state: PyTree) -> dict[str, PyTree]:
    """The fields of a BlackJAX state that blocks exchange."""
    return {name: getattr(state, name) for name in _known_fields(state) if name in EXCHANGED_FIELDS}


def algorithm_inputs(algorithm: "blackjax.base.SamplingAlgorithm", state: PyTree, rng_keys: Array) -> Inputs:
    """The inputs of a BlackJAX chain: its keys, and the fields that advance independently of the position.

    dhmc's ``random_generator_arg`` is such a field. The step traced here returns only such fields, so that the
    compiler drops everything else.
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


@dataclass(frozen=True)
class AlgorithmDynamics:
    """Chains of a BlackJAX algorithm, keyed as ``blackjax.util.run_inference_algorithm`` keys them.

    `parameters` is the initial state; only its structure and its autonomous fields are used.
    """

    algorithm: "blackjax.base.SamplingAlgorithm"
    transform: Callable

    def __post_init__(self) -> None:
        checked_algorithm(self.algorithm)
        checked_function("transform", self.transform)

    def transition(self, state: PyTree) -> Transition:
        """One step of the algorithm as a `Transition`."""
        return from_algorithm(self.algorithm, state, self.transform)[0]

    def exchanged(self, state: PyTree) -> PyTree:
        """The fields of the state that blocks exchange, by name."""
        return exchanged_fields(state)

    def __call__(self, parameters: Any, rng_key: Array, num_steps: int) -> tuple[Transition, Inputs]:
        """The transition, and the inputs of `num_steps` steps with keys split from `rng_key`."""
        transition = self.transition(parameters)
        return transition, algorithm_inputs(self.algorithm, parameters, jax.random.split(unrolled(rng_key), num_steps))


@jit_with_xla_options(1)
def begin(dynamics: AlgorithmDynamics, rng_key: Array, position: PyTree) -> tuple[Array, PyTree, Vector]:
    """Key of the chain, initial state and reduced initial state, with the key split as BlackJAX splits it."""
    chain_key, init_key = jax.random.split(rng_key, 2)
    try:
        state = dynamics.algorithm.init(position, init_key)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"inference_algorithm cannot start at initial_position ({shapes_of(position)}): {error}"
        ) from error
    _, start = from_algorithm(dynamics.algorithm, state, dynamics.transform)
    return chain_key, state, start


@jit_with_xla_options(1)
def _restored(dynamics: AlgorithmDynamics, state: PyTree) -> PyTree:
    transition, vector = from_algorithm(dynamics.algorithm, state, dynamics.transform)
    return transition.restore(vector)


def check_determined_fields(dynamics: AlgorithmDynamics, state: PyTree, where: str) -> None:
    """Raise unless the fields that blocks recompute from a state's position are as the algorithm's ``init`` gives them.

    Raises
    ------
    ValueError
        If they differ by more than rounding: the state belongs to another target, or the kernel carries something that
        its position does not determine, such as an estimate of a log density.
    """
    names = [name for name in getattr(state, "_fields", ()) if name in DETERMINED_FIELDS]
    restored = _restored(dynamics, on_device(state)) if names else None
    for name in names:
        pairs = zip(*(jax.tree.leaves(getattr(each, name)) for each in (state, restored)), strict=True)
        for carried, again in map(jax.device_get, pairs):
            limit = FIELD_TOLERANCE * np.sqrt(np.finfo(again.dtype).eps) * (1 + np.abs(again).max(initial=0))
            if (np.abs(carried - again) > limit).any():
                raise ValueError(
                    f"{where}: its {name} is {_short(carried)}, but the algorithm's init gives {_short(again)} at the "
                    "same position. Blocks take it from init: use a state of the same target, and run a kernel whose "
                    f"{name} is an estimate by blackjax.util.run_inference_algorithm."
                )


def _short(values: np.ndarray) -> str:
    return f"{values:.6g}" if values.ndim == 0 else np.array2string(values, precision=4, threshold=6)


def _known_fields(state: PyTree) -> tuple[str, ...]:
    fields = getattr(state, "_fields", ())
    known = DETERMINED_FIELDS | EXCHANGED_FIELDS | AUTONOMOUS_FIELDS
    unknown = [name for name in fields if name not in known]
    if "position" not in fields or unknown:
        what = f"fields {unknown}, which might not follow from the position" if unknown else "no field 'position'"
        raise TypeError(
            f"inference_algorithm: a state of type {type(state).__name__} has {what}; this kernel cannot be "
            "run in parallel. Use blackjax.util.run_inference_algorithm, or write the chain as "
            "step(state, input) for parsample.deer."
        )
    return cast(tuple[str, ...], fields)
