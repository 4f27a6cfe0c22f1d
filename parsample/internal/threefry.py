"""JAX's default random numbers, bit for bit, in a form that compilers fuse with the surrounding arithmetic.

JAX evaluates Threefry-2x32 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011) in a rolled loop on
CPUs and in a kernel of its own on GPUs. Small models spend most of a step in it. Written out as plain arithmetic, it
takes a third of the time on a CPU and no kernel launch on a GPU.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Float, UInt32

Word = UInt32[Array, "..."]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
KEY_PARITY = np.uint32(0x1BD11BDA)

# Up to this many numbers from one key are computed one by one.
MAX_WRITTEN_OUT = 4


def threefry_2x32(key: UInt32[Array, "2"], high: Word, low: Word) -> tuple[Word, Word]:
    """Twenty rounds of Threefry on counters (high, low)."""
    words = (key[0], key[1], key[0] ^ key[1] ^ KEY_PARITY)
    x, y = high + words[0], low + words[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + np.uint32(group + 1)
    # Without the barrier, compilers would compute these words again for each use.
    return jax.lax.optimization_barrier((x, y))


def _numbered(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> tuple[Word, Word]:
    """Two random words per array entry; the counter is its flat index (as in ``jax_threefry_partitionable``)."""
    if (size := math.prod(shape)) >= 2**32:
        raise ValueError(f"shape {shape}: at most 2^32 - 1 random numbers can be drawn from one key.")
    if size <= MAX_WRITTEN_OUT:
        # One by one, so that under vmap every operation is vectorized over the lanes.
        words = [threefry_2x32(key, jnp.zeros((), np.uint32), jnp.uint32(number)) for number in range(size)]
        high, low = jnp.asarray(words, np.uint32).reshape(size, 2).T
        return high.reshape(shape), low.reshape(shape)
    number = jax.lax.iota(np.uint32, size).reshape(shape)
    return threefry_2x32(key, jnp.zeros_like(number), number)


def step_uniforms(key_data: UInt32[Array, "2"], t: Array, first: int, count: int, dtype: Any) -> Float[Array, " n"]:
    """Uniforms on [0, 1) for step `t`, numbered from `first`; each depends only on key, step and its number.

    One evaluation of Threefry gives all of them; a program that splits keys instead compiles and runs a dozen.
    """
    high, low = threefry_2x32(key_data, jnp.uint32(t), jnp.arange(first, first + count).astype(np.uint32))
    if dtype == jnp.float64:
        bits = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
        return (bits >> np.uint64(11)).astype(dtype) * 2.0**-53
    return ((high ^ low) >> np.uint32(8)).astype(dtype) * dtype.type(2.0**-24)


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "... 2"]:
    return jnp.stack(_numbered(key, shape), axis=-1)


def _random_bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    first, second = _numbered(key, shape)
    if bit_width == 64:
        return (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)
    bits = first ^ second
    return bits if bit_width == 32 else bits.astype(f"uint{bit_width}")


def _fold_in(key: UInt32[Array, "2"], data: Any) -> UInt32[Array, "2"]:
    # The key of seed `data`, a 32-bit number, is (0, data).
    return jnp.stack(threefry_2x32(key, jnp.zeros_like(data), data))


def _seed(seed: Array) -> UInt32[Array, "2"]:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


_UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fry",
)


def unrolled(rng_key: Array) -> Array:
    """Keys that yield the same numbers at less cost; keys of other than JAX's default kind are returned unchanged."""
    if not jax.config.jax_threefry_partitionable or str(jax.random.key_impl(rng_key)) != "threefry2x32":
        return rng_key
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jax.random.key_data(rng_key) if is_typed else rng_key, impl=_UNROLLED)
