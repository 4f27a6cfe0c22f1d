"""Programmes of ours run by themselves and inside those of others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.compilation import compiling, in_one_kernel, is_being_compiled, outermost_jit


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


def test_what_was_prepared_beside_other_work_is_not_compiled_again():
    traces = []

    @outermost_jit(0)
    def traced(exponent: int, x: jax.Array) -> jax.Array:
        traces.append(exponent)
        return x**exponent

    shape = jax.ShapeDtypeStruct((2,), jnp.result_type(float))
    assert traced.eval_shape(2, shape).shape == (2,)
    with compiling(lambda: traced.prepare(2, shape), lambda: traced.prepare(3, shape)):
        pass
    assert traced(2, jnp.arange(2.0)).tolist() == [0.0, 1.0]
    assert traced(3, 2 * jnp.arange(2.0)).tolist() == [0.0, 8.0]
    assert sorted(traces) == [2, 3]


def test_a_failure_beside_other_work_is_left_to_the_call():
    @outermost_jit()
    def broken(x: jax.Array) -> jax.Array:
        raise ValueError("broken")

    with compiling(lambda: broken.prepare(1.0)):
        done = 1
    assert done == 1
    with pytest.raises(ValueError, match="broken"):
        broken(1.0)


def repeated(step, x):
    """Ten rounds of a step."""
    return jax.lax.fori_loop(0, 10, lambda _, y: step(y), x)


LOOPS = {
    "elementary": (lambda x: jnp.sin(x) + 0.1 * jnp.where(x > 0, x, jnp.exp(x)), 64, True),
    "with a small product": (lambda x: 0.1 * (x.reshape(8, 8) @ x.reshape(8, 8)).reshape(64), 64, True),
    "with a large product": (lambda x: 0.01 * (x.reshape(64, 64) @ x.reshape(64, 64)).reshape(4096), 4096, False),
    "large": (jnp.sin, 2**15, False),
    "with a factorisation": (
        lambda x: jnp.linalg.cholesky(jnp.eye(8) + jnp.outer(x[:8], x[:8]))[0, 0] * x / (1 + jnp.abs(x)),
        64,
        False,
    ),
    "that sorts": (lambda x: 0.5 * jnp.sort(x)[::-1], 64, False),
    "that scatters": (lambda x: x.at[jnp.argsort(x)].add(0.1), 64, False),
}


@pytest.mark.parametrize(("step", "size", "is_one"), LOOPS.values(), ids=LOOPS)
def test_small_elementary_loops_become_one_kernel_and_compute_the_same(step, size, is_one):
    x = jax.random.normal(jax.random.key(0), (size,))

    def whole(x: jax.Array) -> jax.Array:
        return in_one_kernel(lambda y, z: (repeated(step, y), z), x, {"a": x})[0]

    ours = outermost_jit()(whole)
    expected = jax.jit(lambda x: repeated(step, x))(x)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-9, atol=1e-9)
    assert ("xla_cpu_small_call" in ours.lower(x).as_text()) == is_one
    # A programme of somebody else has other options, which such kernels do not bear.
    np.testing.assert_allclose(jax.jit(whole)(x), expected, rtol=1e-9, atol=1e-9)
    assert "xla_cpu_small_call" not in jax.jit(ours).lower(x).as_text()


def test_kernels_may_be_mapped():
    xs = jax.random.normal(jax.random.key(0), (3, 4))
    together = outermost_jit()(jax.vmap(lambda x: in_one_kernel(partial(repeated, jnp.sin), x)))
    np.testing.assert_allclose(together(xs), jnp.stack([repeated(jnp.sin, x) for x in xs]), rtol=1e-12)
    assert "xla_cpu_small_call" in together.lower(xs).as_text()
