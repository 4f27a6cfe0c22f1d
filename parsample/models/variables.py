"""The variables that are kept of each draw, tried on two invented draws before anything long runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from parsample.draws.mapping import DrawFunction
from parsample.draws.names import check_elements, check_names, check_variables
from parsample.internal.trees import leaf_names
from parsample.models.model import Model

# Names of variables, or a function of the variables of one draw.
Keep = Sequence[str] | Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Variables:
    """The variables that are kept of each draw.

    Attributes
    ----------
    function
        Maps positions with leading axes (chain, draw) to variables by name.
    dims, coords
        Names of the dimensions of each variable, and labels along them, as in ArviZ.
    """

    function: DrawFunction
    dims: dict[str, list[str]]
    coords: dict[str, Any]

    @classmethod
    def of(cls, model: Model, position: PyTree, keep: Keep | None = None) -> "Variables":
        """The variables of a model at positions like this one; with `keep`, those that it names or computes.

        Raises
        ------
        ValueError
            If `keep` names an unknown variable, or if ArviZ or files could not hold the names, dims or coords.
        TypeError
            If `keep` or the model's `constrain` does not return a dict.
        """
        one_draw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), position)
        if model.constrain is None:
            check_names(list(model.names or leaf_names(position)))
        everything = _all_variables(model)
        function = DrawFunction(everything, one_draw, data=model.data_arguments)
        others = {**model.observed_data, **model.constant_data}
        without_draws = {name: np.shape(values) for name, values in others.items()}
        if keep is None:
            check_elements(_shapes(function))
        check_variables(_shapes(function), model.dims, model.coords, without_draws)
        if keep is None:
            return cls(function, {name: list(labels) for name, labels in model.dims.items()}, dict(model.coords))
        chosen = keep if callable(keep) else _selection(keep, function.example)
        function = DrawFunction(_composed(everything, chosen), one_draw, data=model.data_arguments, name="keep")
        known = {*function.example, *others}
        dims = {name: list(labels) for name, labels in model.dims.items() if name in known}
        check_elements(_shapes(function))
        check_variables(_shapes(function), dims, model.coords, without_draws)
        return cls(function, dims, dict(model.coords))

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each variable of one draw."""
        return self.function.example

    @property
    def bytes_per_draw(self) -> int:
        """Bytes of all variables of one draw."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in self.example.values())


def _shapes(function: DrawFunction) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in function.example.items()}


def _all_variables(model: Model) -> Callable[..., dict[str, Any]]:
    """The variables of one position by name: what `constrain` returns, or the leaves."""
    if model.constrain is not None:
        return model.constrain

    def leaves(position: PyTree, *_: Any) -> dict[str, Any]:
        return dict(zip(model.names or leaf_names(position), jax.tree.leaves(position), strict=True))

    return leaves


def _selection(keep: Sequence[str], example: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if not isinstance(keep, Sequence):
        raise TypeError(f"keep must be names of variables, or a function of a dict of variables; got {keep!r}.")
    names = [keep] if isinstance(keep, str) else list(keep)
    unknown = [name for name in names if name not in example]
    if unknown:
        raise ValueError(f"keep names {unknown}, which are not variables of the model; these are: {list(example)}.")
    return lambda variables: {name: variables[name] for name in names}


def _composed(function: Callable, keep: Callable) -> Callable:
    return lambda *arguments: keep(function(*arguments))
