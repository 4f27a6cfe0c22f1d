"""Random numbers from unrolled Threefry keys are JAX's own, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_steps import KEYS, NUM_LANES
from scipy import stats

from parsample.internal.threefry import MAX_WRITTEN_OUT, step_uniforms, unrolled

MAKERS = [jax.random.key, jax.random.PRNGKey]
SHAPES = [(), (1,), (MAX_WRITTEN_OUT,), (2, MAX_WRITTEN_OUT), (0,)]


def data(key: jax.Array) -> jax.Array:
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint16, jnp.uint32, jnp.uint64])
def test_bits(make, shape, dtype):
    key = make(7)
    np.testing.assert_array_equal(jax.random.bits(unrolled(key), shape, dtype), jax.random.bits(key, shape, dtype))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("number", [1, 2, 3, 100])
def test_split_keys(make, number):
    key = make(8)
    np.testing.assert_array_equal(data(jax.random.split(unrolled(key), number)), data(jax.random.split(key, number)))


@pytest.mark.parametrize("value", [0, 1, 2**31 + 5])
def test_folded_keys(value):
    key = jax.random.key(9)
    folded = jax.random.fold_in(unrolled(key), value)
    np.testing.assert_array_equal(data(folded), data(jax.random.fold_in(key, value)))


@pytest.mark.slow
def test_distributions_of_many_lanes():
    keys = jax.random.split(jax.random.key(10), 5)

    def draw(key: jax.Array) -> tuple:
        a, b, c = jax.random.split(key, 3)
        return jax.random.normal(a, (2,)), jax.random.uniform(b), jax.random.gamma(c, 2.0, (6,))

    for ours, theirs in zip(jax.vmap(draw)(unrolled(keys)), jax.vmap(draw)(keys), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_generators_are_left_alone(monkeypatch):
    key = jax.random.key(0, impl="rbg")
    assert unrolled(key) is key
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        assert unrolled(key) is key


def test_more_numbers_than_a_key_has_are_refused():
    with pytest.raises(ValueError, match="at most 2\\^32"):
        jax.jit(lambda key: jax.random.bits(unrolled(key), (2**16, 2**16))).lower(jax.random.key(0))


def test_a_seed_means_what_it_means_to_jax():
    impl = unrolled(jax.random.key(0)).dtype._impl
    np.testing.assert_array_equal(impl.seed(jnp.uint32(5)), data(jax.random.key(5)))


def test_uniform_numbers_are_functions_of_key_step_and_number():
    first = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(7), 0, 6, np.dtype(float))
    later = step_uniforms(jnp.asarray(KEYS[0]), jnp.int32(7), 2, 4, np.dtype(float))
    np.testing.assert_array_equal(first[2:], later)
    draws = jax.jit(jax.vmap(lambda key: step_uniforms(key, jnp.int32(7), 0, 3, np.dtype("float32"))))(KEYS)
    for column in np.asarray(draws, float).T:
        assert stats.kstest(column, stats.uniform.cdf).statistic < 0.0138
    correlations = np.corrcoef(np.asarray(draws, float).T) - np.eye(3)
    assert np.abs(correlations).max() < 4 / np.sqrt(NUM_LANES)
