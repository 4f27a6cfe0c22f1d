"""The layout of a position pytree in a flat vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from parsample.internal.trees import leaf_names


@dataclass(frozen=True)
class Layout:
    """The layout of a position pytree in a flat vector; hashable, so that compiled code can be reused.

    Attributes
    ----------
    treedef, shapes, dtype
        Structure of the pytree, shapes of its leaves, and their common dtype.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any

    @classmethod
    def of(cls, position: PyTree) -> "Layout":
        """The layout of `position`."""
        leaves, treedef = jax.tree.flatten(position)
        return cls(treedef, tuple(leaf.shape for leaf in leaves), jnp.result_type(*leaves))

    @property
    def dimension(self) -> int:
        """Length D of the flat vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def unravel(self, vector: Float[Any, "*batch D"]) -> PyTree:
        """Flat vectors, with any leading axes, as pytrees with the same leading axes; NumPy gives NumPy."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        leaves = [
            vector[..., end - int(np.prod(shape)) : end].reshape((*vector.shape[:-1], *shape))
            for end, shape in zip(ends, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def ravel(self, position: PyTree) -> Float[np.ndarray, "*batch D"]:
        """A position as a flat vector on the host."""
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(position)])

    def coordinate_names(self, names: Sequence[str] | None = None) -> list[str]:
        """Names of the entries of the flat vector, such as beta[2]; `names` are those of the leaves, if given."""
        tree = jax.tree.unflatten(self.treedef, range(len(self.shapes)))
        leaves = zip(names or leaf_names(tree), self.shapes, strict=True)
        return [name + (str(list(index)) if index else "") for name, shape in leaves for index in np.ndindex(shape)]
