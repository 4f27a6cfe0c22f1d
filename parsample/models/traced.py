"""The program of a log density, apart from the arrays in it.

Arrays in closures and globals become arguments of the compiled program, as the data of a model are. So a log density
that is defined anew, alike but with other arrays, compiles nothing, and compiled programs hold no data.
"""

import hashlib
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.internal.trees import on_device
from parsample.internal.validation import checked_program
from parsample.models.model import Model

# Addresses of functions, which differ from process to process and from trace to trace.
ADDRESS = re.compile(r"0x[0-9a-f]+")

# Parts of names of primitives that stand for code outside of a program: rules for derivatives, and callbacks to Python.
OUTSIDE = ("custom", "callback")


@dataclass(frozen=True, eq=False)
class TracedDensity:
    """A log density as it was when it was traced, equal to others with the same program, whatever the arrays in it.

    Attributes
    ----------
    program
        The program; its first arguments are the arrays of the log density.
    identity
        Hash of the program.
    is_whole
        Whether the program contains all code. If not, only the same function is equal.
    function
        Returns the user's function, or None if that no longer exists.
    """

    program: Any
    identity: str
    is_whole: bool
    function: Callable[[], Callable | None]

    @classmethod
    def of(cls, function: Callable, position: PyTree, *data: PyTree) -> tuple["TracedDensity", list[Array]]:
        """The log density as it is now, and the arrays in it.

        Raises
        ------
        ValueError, TypeError
            As `checked_program`.
        """
        program, arrays = _separated(checked_program(function, position, *data))
        density = cls(program, hashed(program), not outside(program), _reference(function))
        return density if density.is_whole else density._with_gradient(position, (arrays, data)), arrays

    def __call__(self, position: PyTree, values: tuple[list[Array], tuple[PyTree, ...]]) -> Float[Array, ""]:
        """The log density of the position; `values` are the arrays in it, and the data."""
        arrays, data = values
        (value,) = jax.core.eval_jaxpr(self.program, arrays, *jax.tree.leaves((position, data)))
        return value

    def _with_gradient(self, position: PyTree, values: tuple) -> "TracedDensity":
        """The same, compared by the program of the gradient too, where rules for derivatives are written out."""
        try:
            gradient = jax.make_jaxpr(jax.grad(self))(position, values)
        except Exception:  # of whatever kind JAX raises for a program without gradient
            return self
        # A rule may call its function again, which is then in both programs.
        without_callbacks = not any("callback" in call for call in outside(self.program))
        is_whole = without_callbacks and outside(gradient) <= outside(self.program)
        return replace(self, identity=self.identity + hashed(gradient), is_whole=is_whole)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TracedDensity) or self.identity != other.identity:
            return False
        function = self.function()
        return self.is_whole or (function is not None and function == other.function())

    def __hash__(self) -> int:
        return hash(self.identity)


def as_traced(model: Model) -> Model:
    """The log density of the model as it is now, for the program of the lanes; its data are the arrays in it as well.

    Other functions of the model do not take such data.
    """
    density, arrays = TracedDensity.of(model.logdensity, model.initial_position, *model.data_arguments)
    return model.replace(logdensity=density, data=(arrays, model.data_arguments))


def _reference(function: Callable) -> Callable[[], Callable | None]:
    """A weak reference, so that compiled programs keep nothing alive that a user has dropped."""
    try:
        return weakref.WeakMethod(function) if isinstance(function, MethodType) else weakref.ref(function)
    except TypeError:  # an object without weak references
        return lambda: function


def _separated(traced: Any) -> tuple[Any, list[Array]]:
    """A program whose first arguments are the arrays of `traced`, and these arrays."""
    found = {id(array): _as_array(array) for array in _arrays(traced)}
    arrays = [found[id(array)] for array in _arrays(traced)]
    if len(arrays) > len(traced.consts):  # in programs inside it as well
        given = [jax.ShapeDtypeStruct(each.shape, each.dtype, weak_type=each.weak_type) for each in traced.in_avals]

        def evaluate(arrays: list[Array], given: list[Array]) -> list[Array]:
            return _evaluated(traced, iter(arrays), given)

        traced = jax.make_jaxpr(evaluate)(arrays, given)
        arrays = [*map(_as_array, traced.consts), *arrays]
    return jax.extend.core.ClosedJaxpr(traced, []), arrays


def _as_array(array: Any) -> Array:
    return array if isinstance(array, jax.Array) else on_device(array)


def _arrays(program: Any) -> list[Any]:
    """The arrays of a program and of the compiled functions that it calls; those of loops are the program's own."""
    inner = [array for equation in program.eqns if _is_call(equation) for array in _arrays(_called(equation))]
    return [*program.consts, *inner]


def _evaluated(program: Any, arrays: Iterator[Array], given: list[Array]) -> list[Array]:
    """Evaluate a program with other arrays, in the order of `_arrays`."""
    values = dict(zip(program.constvars, arrays, strict=False))
    values |= dict(zip(program.invars, given, strict=True))
    read = lambda atom: atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]  # noqa: E731
    for equation in program.eqns:
        arguments = [read(each) for each in equation.invars]
        if _is_call(equation) and _arrays(_called(equation)):
            results = _evaluated(_called(equation), arrays, arguments)
        else:
            results = equation.primitive.bind(*arguments, **equation.primitive.get_bind_params(equation.params))
        values |= dict(
            zip(equation.outvars, results if equation.primitive.multiple_results else [results], strict=True)
        )
    return [read(each) for each in program.outvars]


def _is_call(equation: Any) -> bool:
    return equation.primitive.name == "jit"


def _called(equation: Any) -> Any:
    return equation.params["jaxpr"]


def hashed(traced: Any) -> str:
    """Hash of a program and the arrays in it."""
    digest = hashlib.sha256(ADDRESS.sub("", str(traced)).encode())
    add_arrays(digest, [array for program in _programs(traced) for array in program.consts])
    return digest.hexdigest()


def outside(traced: Any) -> set[str]:
    """Calls of code that is not part of a program: functions with rules for derivatives, and callbacks to Python."""
    equations = [equation for program in _programs(traced) for equation in program.eqns]
    calls = [each for each in equations if any(part in each.primitive.name for part in OUTSIDE)]
    return {" ".join([each.primitive.name, *map(str, _inner(each))]) for each in calls}


def add_arrays(digest: Any, arrays: list[Any]) -> None:
    """Add dtypes, shapes and values of arrays to a digest."""
    for array in arrays:
        is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        values = jax.device_get(jax.random.key_data(array) if is_key else array)
        digest.update(f"{array.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)


def _programs(traced: Any) -> list[Any]:
    """A program and all programs that it calls."""
    return [traced, *(each for equation in traced.eqns for inner in _inner(equation) for each in _programs(inner))]


def _inner(equation: Any) -> list[Any]:
    """The programs that an equation calls."""
    leaves = jax.tree.leaves(equation.params)
    return [leaf for leaf in leaves if isinstance(leaf, jax.extend.core.Jaxpr)]
