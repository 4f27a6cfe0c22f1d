"""Checks of users' arguments: one clear error naming argument, value and remedy, before anything long runs."""

import math
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, PyTree

from parsample.internal.random_keys import is_key
from parsample.internal.trees import on_device

# JAX's default kind of keys, and the same numbers as `internal/threefry` computes them.
DEFAULT_KINDS = ("threefry2x32", "fry")


def checked_count(name: str, value: Any, minimum: int = 1) -> int:
    """A whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}; got {value!r}.")
    return int(value)


def checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return value


def as_number(value: Any) -> float:
    """A real number as a float; NaN for anything else."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return math.nan
    try:
        return math.nan if np.ndim(value) > 0 else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def checked_number(name: str, value: Any, minimum: float = 0) -> float:
    """A real number of at least `minimum`, infinity included."""
    if not (number := as_number(value)) >= minimum:
        raise ValueError(f"{name} must be a number of at least {minimum}; got {value!r}.")
    return number


def checked_rate(name: str, value: float | None, default: float) -> float:
    """A number strictly between 0 and 1; `default` if `value` is None."""
    if not 0 < (rate := as_number(default if value is None else value)) < 1:
        raise ValueError(f"{name} must lie between 0 and 1; got {value!r}.")
    return rate


def checked_path(name: str, value: Any) -> Path:
    """The path of a file or directory."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, as str or pathlib.Path; got {value!r}.")
    return Path(value)


def checked_function(name: str, value: Any) -> Callable:
    """A function."""
    if not callable(value):
        raise TypeError(f"{name} must be callable; got {value!r}.")
    return value


def checked_instance(name: str, value: Any, kind: type, remedy: str) -> Any:
    """An instance of `kind`, which `remedy` says how to get."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {remedy}; got {short(value)}.")
    return value


def checked_key(rng_key: Any, name: str = "rng_key") -> Array:
    """A key of JAX's default kind, whose random numbers do not depend on how many lanes draw in parallel."""
    is_array = isinstance(rng_key, jax.Array | np.ndarray)
    is_typed = is_array and jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if not is_array or not (is_typed or rng_key.dtype == np.uint32):
        raise TypeError(f"{name} must be a key, such as jax.random.key(0); got {rng_key!r}.")
    _check_kind(name, jax.random.key_impl(rng_key) if is_typed else jax.config.jax_default_prng_impl)
    if rng_key.shape != (() if is_typed else (2,)):
        raise ValueError(f"{name} must be one key, such as jax.random.key(0); got an array of shape {rng_key.shape}.")
    return on_device(rng_key)


def _check_kind(name: str, kind: Any) -> None:
    if str(kind) not in DEFAULT_KINDS:
        raise ValueError(
            f"{name}: keys of kind {str(kind)!r} give numbers that depend on how many are drawn in parallel, so that "
            "the parallel and the sequential chain would differ. Use jax.random.key(seed, impl='threefry2x32')."
        )


def dtype_of(leaf: Any) -> Any:
    """The dtype that JAX gives a number or an array; None for anything else."""
    try:
        return jnp.result_type(leaf if hasattr(leaf, "dtype") else np.asarray(leaf))
    except TypeError:
        return None


def short(value: Any) -> str:
    """A value in at most 80 characters."""
    return textwrap.shorten(repr(value), 80, placeholder=" ...")


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
        dtype = dtype_of(leaf)
        if dtype is None:
            raise TypeError(f"{where} is {short(leaf)}; positions must be floating-point numbers or arrays of them.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{where} has dtype {dtype}; positions must be floating point: convert parameters, such as 0 to 0.0, "
                "and let the log density close over counts and other constants."
            )
        if isinstance(leaf, jax.Array) and dtype != default:
            raise TypeError(
                f"{where} has dtype {dtype}, but the default floating-point type is {default}: convert it with "
                f".astype({default}), or change jax_enable_x64."
            )
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{where} is not finite: {np.asarray(leaf)}. Start where the log density is finite.")
    if not any(np.size(leaf) for _, leaf in leaves):
        raise ValueError(f"{name} has no elements ({shapes_of(position)}): give it at least one coordinate.")
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
        If it cannot be evaluated, returns anything but one floating-point scalar, or does not depend on the whole
        position.
    """
    checked_function("logdensity_fn", logdensity_fn)

    def logdensity(*arguments: PyTree) -> Any:  # a new function: JAX would remember the program of one that it has seen
        return logdensity_fn(*arguments)

    try:
        program, value = jax.make_jaxpr(logdensity, return_shape=True)(position, *data)
    except Exception as error:
        raise ValueError(
            f"logdensity_fn cannot be evaluated at initial_position ({shapes_of(position)}): {error}"
        ) from error
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(f"logdensity_fn must return one floating-point scalar; it returns {value}. Sum its terms.")
    _check_precision(leaves[0].dtype)
    _check_dependence(program, position)
    return program


def _check_dependence(program: Any, position: PyTree) -> None:
    """Raise if a leaf of the position, the first arguments of a program, does not occur in its result."""
    _, is_used = dce_jaxpr(program.jaxpr, [True])
    for (path, leaf), occurs in zip(jax.tree_util.tree_leaves_with_path(position), is_used, strict=False):
        if np.size(leaf) and not occurs:
            raise ValueError(
                f"logdensity_fn does not depend on initial_position{jax.tree_util.keystr(path)}, which no density of "
                "finite mass allows: leave it out of the position, or add a prior of it."
            )


def _check_precision(dtype: Any) -> None:
    if jnp.finfo(dtype).bits < 32:
        raise ValueError(
            f"logdensity_fn returns {dtype}, which is too coarse to decide acceptances: convert what it computes with "
            f"to {jnp.result_type(float)}."
        )


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


# What to do about a callback to Python that cannot be evaluated for several lanes at once.
BATCHING_REMEDY = "jax.pure_callback(..., vmap_method='expand_dims') and a function that takes leading axes"


@contextmanager
def batching_needed(what: str) -> Iterator[None]:
    """Explain the error of a callback to Python without a batching rule, which `what` needs."""
    try:
        yield
    except NotImplementedError as error:
        raise NotImplementedError(
            f"{what} evaluates several steps at once, which a callback to Python without a batching rule does not "
            f"permit ({error}). Evaluate the chain step by step, or try: {BATCHING_REMEDY}."
        ) from error


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
    """Raise unless the log density in an algorithm's initial state is finite, and not of half precision."""
    value = getattr(state, "logdensity", 0.0)
    _check_precision(jnp.result_type(value))
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
        raise ValueError(
            f"the log density is {value} at initial_position (or in initial_state); start where it is finite."
        )


def shapes_of(position: PyTree) -> str:
    """Dtypes and shapes of all leaves, for messages."""
    return str(jax.tree.map(lambda leaf: f"{dtype_of(leaf)}{list(np.shape(leaf))}", position))


def checked_recursion(step: Callable, initial_state: PyTree, inputs: PyTree) -> None:
    """Raise unless `step` maps a state and one entry of the inputs to a state of the same structure and dtypes."""
    checked_function("step", step)
    leaves = jax.tree.leaves(initial_state)
    dtypes = [dtype_of(leaf) for leaf in leaves]
    if not leaves or not all(dtype is not None and jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise TypeError(f"initial_state must be a pytree of floating-point arrays; got {short(initial_state)}.")
    if not any(np.size(leaf) for leaf in leaves):
        raise ValueError(f"initial_state has no elements ({shapes_of(initial_state)}): give it at least one.")
    for leaf in leaves:
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"initial_state is not finite: {np.asarray(leaf)}.")
    for leaf in jax.tree.leaves(inputs):
        if is_key(leaf):
            _check_kind("inputs", jax.random.key_impl(leaf))
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    try:
        after = jax.eval_shape(step, initial_state, first)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"step cannot be evaluated at initial_state ({shapes_of(initial_state)}) and the first of the inputs "
            f"({shapes_of(first)}): {error}"
        ) from error
    if shapes_of(after) != shapes_of(initial_state):
        raise TypeError(
            f"step maps a state of {shapes_of(initial_state)} to {shapes_of(after)}; it must return a state of the "
            "same structure, shapes and dtypes."
        )


def checked_scale(scale: PyTree, state: PyTree, like: str = "initial_state") -> Array:
    """Positive, finite standard deviations, shaped like a state that is named `like`, as a vector of its dtype."""
    for leaf in jax.tree.leaves(scale):
        dtype = dtype_of(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.number):
            raise TypeError(f"scale must hold numbers; got {short(leaf)}. Leave it out to have it estimated.")
    shapes, wanted = jax.tree.map(jnp.shape, scale), jax.tree.map(jnp.shape, state)
    if shapes != wanted:
        raise ValueError(f"scale has shapes {shapes}; it must have those of {like}, {wanted}.")
    vector = ravel_pytree(jax.tree.map(lambda leaf, of: jnp.asarray(leaf, jnp.result_type(of)), scale, state))[0]
    if not isinstance(vector, jax.core.Tracer) and not (np.isfinite(vector) & (np.asarray(vector) > 0)).all():
        raise ValueError(f"scale must be positive and finite; got {scale}. Leave it out to have it estimated.")
    return vector
