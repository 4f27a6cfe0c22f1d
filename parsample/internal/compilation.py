"""Compilation of this library's programs: XLA options, and the cache on disk."""

import os
from collections.abc import Callable
from functools import cache, update_wrapper
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


class CompiledFunction:
    """A function under ``jax.jit`` with options for this device.

    Inside another ``jax.jit``, which permits no options, the function is traced as a part of the outer program.
    """

    def __init__(self, function: Callable, static_argnums: tuple[int, ...], donated: tuple[int, ...]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._static_argnums, self._donated = static_argnums, donated
        self._compiled: dict[str, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, through ``jax.jit`` unless an outer one is tracing it."""
        if is_being_compiled():
            return self._function(*arguments)
        # Arguments on the host are meant to be transferred. `jax.device_put` would say so too, but takes 300 times as
        # long as the transfer by the compiled program.
        with jax.transfer_guard("allow"):
            return self._jit(*arguments)

    def traced(self, *arguments: Any) -> Any:
        """The program as `jax.stages.Traced`; compiled from that, it can run in threads with other JAX settings."""
        return self._jit.trace(*arguments)

    @property
    def _jit(self) -> Any:
        backend = jax.default_backend()
        if backend not in self._compiled:
            options = _cpu_options() if backend == "cpu" else None
            self._compiled[backend] = jax.jit(
                self._function,
                static_argnums=self._static_argnums,
                donate_argnums=self._donated,
                compiler_options=options,
            )
        return self._compiled[backend]


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


def jit_with_xla_options(*static_argnums: int, donated: tuple[int, ...] = ()) -> Callable[[Callable], CompiledFunction]:
    """Decorator that makes a `CompiledFunction`, which may write its result over the `donated` arguments."""
    return lambda function: CompiledFunction(function, static_argnums, donated)


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
