"""The identity of a log density: equal for equal programs, constants and data, and different otherwise.

Within a process it decides whether a compiled program may be used again; in a store, whether a run may go on.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend
import numpy as np
from jaxtyping import PyTree

from parsample.internal.trees import on_device
from parsample.internal.validation import checked_program
from parsample.models.model import Model

# Addresses of functions, which differ from process to process and from trace to trace.
ADDRESS = re.compile(r"0x[0-9a-f]+")

# Parts of names of primitives that stand for code outside of a program: rules for derivatives, and callbacks to Python.
OUTSIDE = ("custom", "callback")


@dataclass(frozen=True, eq=False)
class TracedDensity:
    """A log density as it was when it was traced, equal to others with the same program and constants.

    So a function that was defined anew, as by running a cell of a notebook again, compiles nothing; and one whose
    attributes, captured arrays or globals have changed is compiled anew.

    Attributes
    ----------
    function
        The user's function.
    program
        Hash of its program and of the arrays in it.
    is_whole
        Whether the program contains all code. If not, only the same function is equal.
    """

    function: Callable
    program: str
    is_whole: bool

    @classmethod
    def of(cls, function: Callable, position: PyTree, *data: PyTree) -> "TracedDensity":
        """The log density as it is now.

        Raises
        ------
        ValueError, TypeError
            As `checked_program`.
        """
        traced = checked_program(function, position, *data)
        return cls(function, *_hashed(traced))

    def __call__(self, *arguments: Any) -> Any:
        """The log density of the position and the data."""
        return self.function(*arguments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TracedDensity) or self.program != other.program:
            return False
        return self.is_whole or self.function == other.function

    def __hash__(self) -> int:
        return hash(self.program)


def as_traced(model: Model) -> Model:
    """The model with its log density as it is now, for the program of the lanes."""
    return model.replace(logdensity=TracedDensity.of(model.logdensity, model.initial_position, *model.data_arguments))


def fingerprint(model: Model, position: PyTree) -> str:
    """A hash of the program of the log density, of the arrays that it contains, and of the data.

    Code behind callbacks to Python is not part of that program.
    """
    data = on_device(model.data_arguments)  # as the program gets them, in the default precision
    program, _ = _hashed(checked_program(model.logdensity, position, *data))
    digest = hashlib.sha256(program.encode())
    _add_arrays(digest, jax.tree.leaves(data))
    return digest.hexdigest()


def _hashed(traced: Any) -> tuple[str, bool]:
    """Hash of a program and its constants, and whether the program contains all code."""
    digest, programs = hashlib.sha256(ADDRESS.sub("", str(traced)).encode()), [traced, *_inner(traced.jaxpr)]
    _add_arrays(digest, [array for program in programs for array in getattr(program, "consts", ())])
    names = [equation.primitive.name for program in programs for equation in _equations(program)]
    return digest.hexdigest(), not any(part in name for name in names for part in OUTSIDE)


def _add_arrays(digest: Any, arrays: list[Any]) -> None:
    for array in arrays:
        values = jax.device_get(array)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)


def _equations(program: Any) -> list[Any]:
    return program.jaxpr.eqns if isinstance(program, jax.extend.core.ClosedJaxpr) else program.eqns


def _inner(jaxpr: Any) -> list[Any]:
    """All programs that a program calls, with and without constants."""
    found = []
    for parameter in jax.tree.leaves([equation.params for equation in jaxpr.eqns]):
        if isinstance(parameter, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
            inner = parameter.jaxpr if isinstance(parameter, jax.extend.core.ClosedJaxpr) else parameter
            found += [parameter, *_inner(inner)]
    return found
