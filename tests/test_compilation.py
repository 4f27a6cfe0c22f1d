"""Programmes of ours run by themselves and inside those of others."""

import jax
import jax.numpy as jnp
import numpy as np

from parsample.compilation import is_being_compiled, outermost_jit


@outermost_jit(1)
def power(x: jax.Array, exponent: int) -> jax.Array:
    """A power."""
    assert is_being_compiled()
    return x**exponent


def test_a_programme_runs_alone_and_inside_another():
    assert not is_being_compiled()
    assert float(power(jnp.asarray(3.0), 2)) == 9.0
    assert float(jax.jit(lambda x: 1 + power(x, 2))(3.0)) == 10.0
    np.testing.assert_array_equal(jax.vmap(lambda x: power(x, 2))(jnp.arange(3.0)), [0, 1, 4])
    assert power.__doc__ == "A power."


def test_it_is_compiled_once():
    traces = []

    @outermost_jit()
    def traced(x: jax.Array) -> jax.Array:
        traces.append(x)
        return x

    traced(jnp.ones(2))
    traced(jnp.zeros(2))
    assert len(traces) == 1
