"""Compiled functions, called alone and inside jit and vmap, and the cache of compiled programs."""

import gc
import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.internal.compilation import (
    MAX_ENTRIES,
    BoundedCache,
    clear_caches,
    is_being_compiled,
    is_transformed,
    jit_with_xla_options,
    keep_compiled_programs,
    refuse_transformations,
)


@jit_with_xla_options(1)
def power(exponent: int, x: jax.Array) -> jax.Array:
    """A power."""
    assert is_being_compiled()
    return x**exponent


def test_a_program_runs_alone_and_inside_another():
    assert not is_being_compiled()
    assert float(power(2, jnp.asarray(3.0))) == 9.0
    assert float(jax.jit(lambda x: 1 + power(2, x))(3.0)) == 10.0
    np.testing.assert_array_equal(jax.vmap(lambda x: power(2, x))(jnp.arange(3.0)), [0, 1, 4])
    assert power.__doc__ == "A power."


@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, jax.jacfwd])
def test_transformations_are_noticed_and_refused(transformation):
    found = []

    def function(x: jax.Array) -> jax.Array:
        found.append(is_transformed())
        with pytest.raises(TypeError, match=r"^it decides .*: call it outside; this is how\.$"):
            refuse_transformations("it", "this is how")
        return x

    transformation(function)(jnp.ones(2))
    assert found == [True]
    assert not is_transformed()
    refuse_transformations("it", "this is how")


def test_it_is_compiled_once():
    traces = []

    @jit_with_xla_options()
    def traced(x: jax.Array) -> jax.Array:
        traces.append(x)
        return x

    traced(jnp.ones(2))
    traced(jnp.zeros(2))
    assert len(traces) == 1


def test_only_the_last_programs_are_kept():
    traces = []

    @jit_with_xla_options(1)
    def applied(function: Callable, x: jax.Array) -> jax.Array:
        traces.append(function)
        return function(x)

    def adding(values: jax.Array) -> Callable:
        return lambda x: x + values

    values = jnp.arange(1000.0)
    first = adding(values)
    released = weakref.ref(first)
    applied(first, values)
    applied(first, values)
    assert len(traces) == 1
    traces.clear()
    del first, values
    gc.collect()
    assert released() is not None
    for number in range(MAX_ENTRIES):
        applied(adding(jnp.full(1000, number)), jnp.zeros(1000))
    traces.clear()
    gc.collect()
    assert released() is None


def test_a_cache_keeps_what_was_used_last():
    cache: BoundedCache[int] = BoundedCache()
    assert [cache.get_or_make("a", lambda: 3), cache.get_or_make("a", lambda: 9), cache.get("a", 5)] == [3, 3, 3]
    for number in range(MAX_ENTRIES - 1):
        cache.get_or_make(number, lambda: 1)
    cache.get_or_make("a", lambda: 9)
    cache.get_or_make("another", lambda: 1)
    assert [cache.get("a", 5), cache.get(0, 5)] == [3, 5]
    clear_caches()
    assert cache.get("a", 5) == 5


def test_what_is_donated_is_written_over():
    @jit_with_xla_options(donated=(0,))
    def moved(path: jax.Array, shift: jax.Array) -> jax.Array:
        return path + shift

    path, shift = jnp.arange(3.0), jnp.asarray(1.0)
    assert moved(path, shift).tolist() == [1.0, 2.0, 3.0]
    assert path.is_deleted()
    assert not shift.is_deleted()


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    options = {
        "jax_compilation_cache_dir": str(tmp_path / "cache" / "parsample" / "programs"),
        # Many small programs take longer to compile than a few large ones.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        directory = keep_compiled_programs()
        after = {name: getattr(jax.config, name) for name in options}
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert str(directory) == options["jax_compilation_cache_dir"]
    assert after == options != before
    assert directory.parent.is_dir()
