"""Functions of single draws, applied to all draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.store import allocate, release

# Bytes of results that are computed at once, so that little memory is needed beyond the results; and at most this many
# draws per chain.
PIECE_BYTES = 32 * 2**20
MAX_PIECE = 16_384


def map_draws(
    function: Callable,
    positions: PyTree,
    *,
    data: tuple[Any, ...] = (),
    rng_key: Array | None = None,
    scratch_dir: Path | None = None,
    name: str = "constrain",
) -> dict[str, np.ndarray]:
    """Results of a function of single draws, as arrays by name with leading axes (chain, draw).

    Parameters
    ----------
    function
        ``function(position, *data) -> dict of arrays``, or ``function(rng_key, position, *data)`` if there is a key.
    positions
        Draws, every leaf with leading axes (chain, draw).
    data
        Further arguments.
    rng_key
        Key from which every draw gets its own: results depend neither on the order of evaluation nor on the pieces.
    scratch_dir
        Directory of the files that hold large results; None: in memory.
    name
        Name of the function in errors.

    Raises
    ------
    TypeError
        If the function does not return a dict.
    """
    leaves = jax.tree.leaves(positions)
    num_chains, num_draws = leaves[0].shape[:2]

    def one(position: PyTree, number: Array, data: tuple[Any, ...]) -> Any:
        keys = () if rng_key is None else (jax.random.fold_in(rng_key, number),)
        return function(*keys, position, *data)

    first = jax.tree.map(lambda leaf: leaf[0, 0], positions)
    example = jax.eval_shape(one, first, np.uint32(0), data)
    if not isinstance(example, dict):
        raise TypeError(f"{name} must return a dict of arrays by name; it returned {type(example).__name__}.")
    apply = jax.jit(jax.vmap(jax.vmap(one, (0, 0, None)), (0, 0, None)))
    results = allocate(example, (num_chains, num_draws), scratch_dir)
    num_bytes = num_chains * sum(leaf.size * leaf.dtype.itemsize for leaf in example.values())
    length = int(np.clip(PIECE_BYTES // max(num_bytes, 1), 1, MAX_PIECE))
    numbers = np.arange(num_chains * num_draws, dtype=np.uint32).reshape(num_chains, num_draws)
    for begin in range(0, num_draws, length):
        piece = slice(begin, begin + length)
        draws = jax.tree.map(lambda leaf, at=piece: leaf[:, at], positions)
        for key, values in apply(draws, numbers[:, piece], data).items():
            results[key][:, piece] = values
        release(*leaves, *results.values())
    return results
