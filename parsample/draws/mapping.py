"""Functions of single draws, applied to all draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.store import allocate, release
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.validation import shapes_of

# Bytes of results that are computed at once, so that little memory is needed beyond the results; and at most this many
# draws per chain.
PIECE_BYTES = 32 * 2**20
MAX_PIECE = 16_384


class DrawFunction:
    """A function of single draws, compiled once and applied to arrays of draws.

    Parameters
    ----------
    function
        ``function(position, *data) -> dict of arrays``, or ``function(rng_key, position, *data)`` if there is a key.
    one_draw
        A position, or the shapes of one.
    data
        Further arguments.
    rng_key
        Key from which every draw gets its own: results depend neither on the order of evaluation nor on the pieces.
    name
        Name of the function in errors.

    Attributes
    ----------
    example
        Shapes and dtypes of the results of one draw, by name.

    Raises
    ------
    ValueError, TypeError
        If the function cannot be evaluated, or does not return a dict of arrays.
    """

    def __init__(
        self,
        function: Callable,
        one_draw: PyTree,
        *,
        data: tuple[Any, ...] = (),
        rng_key: Array | None = None,
        name: str = "constrain",
    ) -> None:
        def one(position: PyTree, number: Array, data: tuple[Any, ...]) -> Any:
            keys = () if rng_key is None else (jax.random.fold_in(rng_key, number),)
            return function(*keys, position, *data)

        self._data = data
        # As it will be applied, over chains and draws, so that a function that cannot be batched fails here.
        batched = jax.vmap(jax.vmap(one, (0, 0, None)), (0, 0, None))
        two_draws = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, 2, *leaf.shape), leaf.dtype), one_draw)
        try:
            found = jax.eval_shape(batched, two_draws, jax.ShapeDtypeStruct((1, 2), np.uint32), data)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be evaluated at a position ({shapes_of(one_draw)}): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, dict):
            raise TypeError(f"{name} must return a dict of arrays by name; it returned {type(found).__name__}.")
        for key, leaf in found.items():
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"{name} must return a dict of arrays by name; it returned {type(leaf).__name__} as {key!r}: give "
                    "each array in it a name of its own."
                )
        self.example = {key: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype) for key, leaf in found.items()}
        self._apply = jit_with_xla_options()(batched)

    def __call__(self, positions: PyTree, *, scratch_dir: Path | None = None) -> dict[str, np.ndarray]:
        """Results as arrays by name with leading axes (chain, draw).

        Parameters
        ----------
        positions
            Draws, every leaf with leading axes (chain, draw).
        scratch_dir
            Directory of the files that hold large results; None: in memory.
        """
        leaves = jax.tree.leaves(positions)
        num_chains, num_draws = leaves[0].shape[:2]
        results = allocate(self.example, (num_chains, num_draws), scratch_dir)
        num_bytes = num_chains * sum(leaf.size * leaf.dtype.itemsize for leaf in self.example.values())
        length = int(np.clip(PIECE_BYTES // max(num_bytes, 1), 1, MAX_PIECE))
        numbers = np.arange(num_chains * num_draws, dtype=np.uint32).reshape(num_chains, num_draws)
        for begin in range(0, num_draws, length):
            piece = slice(begin, begin + length)
            draws = jax.tree.map(lambda leaf, at=piece: leaf[:, at], positions)
            for key, values in self._apply(draws, numbers[:, piece], self._data).items():
                results[key][:, piece] = jax.device_get(values)
            release(*leaves, *results.values())
        return results


def map_draws(
    function: Callable,
    positions: PyTree,
    *,
    data: tuple[Any, ...] = (),
    rng_key: Array | None = None,
    scratch_dir: Path | None = None,
    name: str = "constrain",
) -> dict[str, np.ndarray]:
    """Results of a function of single draws for all draws; arguments as for `DrawFunction` and its call."""
    one_draw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), positions)
    return DrawFunction(function, one_draw, data=data, rng_key=rng_key, name=name)(positions, scratch_dir=scratch_dir)
