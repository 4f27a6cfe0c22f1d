"""Compilation of this library's programs: XLA options, and the cache on disk."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial, update_wrapper
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import platformdirs
from jax.extend.core import get_opaque_trace_state
from jaxtyping import PyTree

# XLA uses half the width of the vector units of recent CPUs unless asked for all of it; narrower CPUs are not affected.
# Its library of fused products (YNNPACK) is slower than Eigen's on matrices of this kind, and rounds more, so that
# float32 paths meet later.
CPU_OPTIONS: dict[str, Any] = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_experimental_ynn_fusion_type": ""}


# Entries that a `BoundedCache` keeps. An entry keeps functions alive, and what they close over.
MAX_ENTRIES = 8

_caches: weakref.WeakSet["BoundedCache"] = weakref.WeakSet()


class BoundedCache[Value]:
    """The values of the last `MAX_ENTRIES` keys, until `clear_caches`."""

    def __init__(self) -> None:
        self._values: OrderedDict[Any, Value] = OrderedDict()
        self._lock = threading.RLock()
        _caches.add(self)

    def get_or_make(self, key: Any, make: Callable[[], Value]) -> Value:
        """The value of this key, made anew if it is not among the last."""
        with self._lock:
            value = self._values[key] if key in self._values else make()
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > MAX_ENTRIES:
                self._values.popitem(last=False)
            return value

    def get(self, key: Any, default: Value) -> Value:
        """The value of this key, or `default`."""
        with self._lock:
            return self._values.get(key, default)

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._values.clear()


def clear_caches() -> None:
    """Drop the programs that this library has compiled in this process, and the functions and data in them.

    The last eight programs of each compiled function of this library are kept, so that a run with the same log density
    or algorithm compiles nothing. The arrays of log densities of `sample` are not in them; BlackJAX algorithms, steps
    of `deer` and callbacks keep what they close over. JAX's own caches are not affected; ``jax.clear_caches()`` clears
    those.

    Examples
    --------
    >>> import parsample
    >>> parsample.clear_caches()
    """
    for each in list(_caches):
        each.clear()


class CompiledFunction:
    """A function under ``jax.jit`` with options for this device, and a program for each of the last static arguments.

    Inside another ``jax.jit``, which permits no options, the function is traced as a part of the outer program.
    """

    def __init__(self, function: Callable, num_static: int, donated: tuple[int, ...]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._num_static, self._donated = num_static, tuple(number - num_static for number in donated)
        self._compiled: BoundedCache[Any] = BoundedCache()

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, through ``jax.jit`` unless an outer one is tracing it."""
        if is_being_compiled():
            return self._function(*arguments)
        # Arguments on the host are meant to be transferred. `jax.device_put` would say so too, but takes 300 times as
        # long as the transfer by the compiled program.
        with jax.transfer_guard("allow"):
            return self._jit(*arguments)(*arguments[self._num_static :])

    def traced(self, *arguments: Any) -> Any:
        """The program as `jax.stages.Traced`; compiled from that, it can run in threads with other JAX settings."""
        return self._jit(*arguments).trace(*arguments[self._num_static :])

    def _jit(self, *arguments: Any) -> Any:
        backend, static = jax.default_backend(), arguments[: self._num_static]

        def make() -> Any:
            # A function of its own: JAX drops its programs with it.
            options = _cpu_options() if backend == "cpu" else None
            bound: Any = partial(self._function, *static)
            bound.__name__ = bound.__qualname__ = self._function.__name__
            return jax.jit(bound, donate_argnums=self._donated, compiler_options=options)

        return self._compiled.get_or_make((backend, static), make)


@cache
def _cpu_options() -> dict[str, Any]:
    """The entries of `CPU_OPTIONS` that this version of XLA accepts."""
    if _are_known(CPU_OPTIONS):
        return CPU_OPTIONS
    return {name: value for name, value in CPU_OPTIONS.items() if _are_known({name: value})}


def _are_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit_with_xla_options(num_static: int = 0, donated: tuple[int, ...] = ()) -> Callable[[Callable], CompiledFunction]:
    """Decorator that makes a `CompiledFunction`.

    Its first `num_static` arguments are static; it may write its result over the `donated` ones.
    """
    return lambda function: CompiledFunction(function, num_static, donated)


def num_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_compiled_programs() -> Path:
    """Keep compiled programs in the user's cache directory, so that the next process need not compile them again."""
    directory = Path(platformdirs.user_cache_dir("parsample", ensure_exists=True)) / "programs"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return directory


def is_being_compiled() -> bool:
    """Whether a ``jax.jit`` around the caller is tracing it."""
    return isinstance(jnp.arange(1), jax.core.Tracer)


def is_transformed() -> bool:
    """Whether the caller runs inside ``jax.jit``, ``jax.vmap``, ``jax.grad`` or another transformation."""
    with jax.core.eval_context():
        outside = get_opaque_trace_state()
    return get_opaque_trace_state() != outside


def refuse_transformations(function: str, remedy: str) -> None:
    """Raise inside a transformation of JAX, where values that decide what to run are not known."""
    if is_transformed():
        raise TypeError(
            f"{function} decides by measured times and values, so it cannot run inside jax.jit, jax.vmap or jax.grad: "
            f"call it outside; {remedy}."
        )


def is_traced(tree: PyTree) -> bool:
    """Whether any leaf is a tracer of one of the caller's transformations, so that its values are unknown."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
