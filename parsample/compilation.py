"""How the programmes that this library starts are compiled."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.backend import clear_backends

# XLA uses half the width of the vector units of recent CPUs unless asked for all of it; narrower CPUs are not affected.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def outermost_jit(*static_argnums: int) -> Callable[[Callable], Callable]:
    """``jax.jit`` with options for this device; inside another ``jax.jit``, which permits none, a part of that."""

    def decorate(function: Callable) -> Callable:
        @cache
        def compiled(backend: str) -> Callable:
            options = CPU_OPTIONS if backend == "cpu" else None
            return jax.jit(function, static_argnums=static_argnums, compiler_options=options)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            run = function if is_being_compiled() else compiled(jax.default_backend())
            return run(*arguments)

        return call

    return decorate


def use_cores(number: int) -> None:
    """Make so many CPU cores JAX devices, in a process that holds no arrays yet."""
    clear_backends()  # importing BlackJAX has started JAX, with one
    jax.config.update("jax_num_cpu_devices", number)


def is_being_compiled() -> bool:
    """Whether a ``jax.jit`` around the caller is tracing it."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)
