"""Checks of users' arguments: one clear error naming argument, value and remedy, before anything long runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from parsample.internal.trees import on_device


def checked_count(name: str, value: Any, minimum: int = 1) -> int:
    """A whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}; got {value!r}.")
    return int(value)


def checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return value


def checked_rate(name: str, value: float | None, default: float) -> float:
    """A number strictly between 0 and 1; `default` if `value` is None."""
    rate = default if value is None else value
    if isinstance(rate, str | bool) or not 0 < rate < 1:
        raise ValueError(f"{name} must lie between 0 and 1; got {value!r}.")
    return rate


def checked_key(rng_key: Any) -> Array:
    """A key of JAX's default kind, whose random numbers do not depend on how many lanes draw in parallel."""
    is_key = isinstance(rng_key, jax.Array | np.ndarray)
    is_typed = is_key and jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if not is_key or not (is_typed or rng_key.dtype == np.uint32):
        raise TypeError(f"rng_key must be a key, such as jax.random.key(0); got {rng_key!r}.")
    if (kind := str(jax.random.key_impl(rng_key))) != "threefry2x32":
        raise ValueError(
            f"rng_key is of kind {kind!r}, whose numbers depend on how many are drawn in parallel, so that the "
            "parallel and the sequential chain would differ. Use jax.random.key(seed, impl='threefry2x32')."
        )
    if rng_key.shape != (() if is_typed else (2,)):
        raise ValueError(f"rng_key must be one key; got an array of shape {rng_key.shape}.")
    return on_device(rng_key)


def checked_position(position: PyTree, name: str = "initial_position") -> PyTree:
    """A pytree of finite arrays in the default floating-point type.

    NumPy arrays and Python numbers are converted; JAX arrays of another type are refused, since BlackJAX's kernels
    would fail on them later (float32 under x64) or truncate them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(position)
    if not leaves:
        raise ValueError(f"{name} holds no arrays; got {position!r}.")
    default = jnp.result_type(float)
    for path, leaf in leaves:
        where = name + jax.tree_util.keystr(path)
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{where} has dtype {dtype}; positions must be floating point: convert it, e.g. to 0.0.")
        if isinstance(leaf, jax.Array) and dtype != default:
            raise TypeError(
                f"{where} has dtype {dtype}, but the default floating-point type is {default}: convert it with "
                f".astype({default}), or change jax_enable_x64."
            )
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{where} is not finite: {np.asarray(leaf)}. Start where the log density is finite.")
    return on_device(position, default)


def checked_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}.")
    return bool(value)


def checked_program(logdensity_fn: Callable, position: PyTree, *data: PyTree) -> Any:
    """The program of `logdensity_fn` as it is now, if it maps the position, with the data, to one scalar.

    Raises
    ------
    ValueError, TypeError
        If it cannot be evaluated, or returns anything but one floating-point scalar.
    """
    if not callable(logdensity_fn):
        raise TypeError(f"logdensity_fn must be callable; got {logdensity_fn!r}.")

    def logdensity(*arguments: PyTree) -> Any:  # a new function: JAX would remember the program of one that it has seen
        return logdensity_fn(*arguments)

    try:
        program, value = jax.make_jaxpr(logdensity, return_shape=True)(position, *data)
    except Exception as error:
        raise ValueError(
            f"logdensity_fn cannot be evaluated at initial_position ({_shapes(position)}): {error}"
        ) from error
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(f"logdensity_fn must return one floating-point scalar; it returns {value}. Sum its terms.")
    return program


def checked_logdensity_value(value: float, gradient: PyTree | None, start: str = "initial_position") -> None:
    """Raise unless the log density and its gradient, if given, are finite at the start, named `start`."""
    if not np.isfinite(value):
        raise ValueError(f"logdensity_fn is {value} at {start}; start where it is finite.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        if not np.isfinite(leaf).all():
            where = jax.tree_util.keystr(path) or "the position"
            raise ValueError(
                f"logdensity_fn has gradient {np.asarray(leaf)} with respect to {where} at {start}; start "
                "where it is finite, or guard branches with the double-where trick."
            )


def lacks_batching(logdensity_fn: Callable, position: PyTree, *data: PyTree) -> bool:
    """Whether the log density works for one position, but not for several at once."""
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), position)
    try:
        jax.eval_shape(jax.vmap(logdensity_fn, (0, *[None] * len(data))), several, *data)
    except NotImplementedError:
        return True
    return False


def gradient_failure(logdensity_fn: Callable, position: PyTree, error: Exception, *data: PyTree) -> Exception:
    """The error to raise when lanes cannot be evaluated: a missing gradient if that is the cause, else `error`."""
    try:
        jax.eval_shape(jax.grad(logdensity_fn), position, *data)
    except Exception as reason:
        return ValueError(
            f"logdensity_fn has no gradient at initial_position: {reason} kernel='metropolis' needs none."
        )
    return error


def checked_start(state: Any) -> None:
    """Raise unless the log density in an algorithm's initial state is finite."""
    value = getattr(state, "logdensity", 0.0)
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
        raise ValueError(
            f"the log density is {value} at initial_position (or in initial_state); start where it is finite."
        )


def _shapes(position: PyTree) -> str:
    return str(jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", position))


def checked_recursion(step: Callable, initial_state: PyTree, inputs: PyTree) -> None:
    """Raise unless `step` maps a state and one entry of the inputs to a state of the same structure and dtypes."""
    leaves = jax.tree.leaves(initial_state)
    if not leaves or not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise TypeError(f"initial_state must be a pytree of floating-point arrays; got {_shapes(initial_state)}.")
    for leaf in leaves:
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"initial_state is not finite: {np.asarray(leaf)}.")
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    after = jax.eval_shape(step, initial_state, first)
    if _shapes(after) != _shapes(initial_state):
        raise TypeError(
            f"step maps a state of {_shapes(initial_state)} to {_shapes(after)}; it must return a state of the same "
            "structure, shapes and dtypes."
        )
