"""The program of a log density, apart from the arrays in it.

Arrays in closures and globals become arguments of the compiled program, as the data of a model are. So a log density
that is defined anew, alike but with other arrays, compiles nothing, and compiled programs hold no data except what
callbacks and rules for derivatives close over.
"""

import hashlib
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.internal.processes import uncommitted
from parsample.internal.trees import on_device
from parsample.internal.validation import checked_program
from parsample.models.model import Model

# Addresses of functions, which differ from process to process and from trace to trace.
ADDRESS = re.compile(r"0x[0-9a-f]+")

# Primitives that call functions with rules for derivatives of their own. The program of the gradient contains these.
WITH_RULES = ("custom_jvp_call", "custom_vjp_call")


@dataclass(frozen=True, eq=False)
class TracedDensity:
    """A log density as it was when it was traced, equal to others with the same program, whatever the arrays in it.

    Attributes
    ----------
    program
        The program; its first arguments are the arrays of the log density.
    identity
        Hash of the program.
    contains_rules
        Whether the identity contains all rules for derivatives. If not, only the same function is equal.
    functions
        Functions that the program calls but does not contain, such as callbacks to Python; these must be equal too.
    source
        Returns the user's function, or None if that no longer exists.
    """

    program: Any
    identity: str
    contains_rules: bool
    functions: tuple[Any, ...]
    source: Callable[[], Callable | None]

    @classmethod
    def of(cls, function: Callable, position: PyTree, *data: PyTree) -> tuple["TracedDensity", list[Array]]:
        """The log density as it is now, and the arrays in it.

        Raises
        ------
        ValueError, TypeError
            As `checked_program`.
        """
        program, arrays = _separated(checked_program(function, position, *data))
        density = cls(program, hashed(program), not _with_rules(program), _functions(program), _reference(function))
        return density if density.contains_rules else density._with_gradient(position, (arrays, data)), arrays

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
        # A rule may call its own function again, which is then in both programs.
        contains_rules = _with_rules(gradient) <= _with_rules(self.program)
        functions = (*self.functions, *_functions(gradient))
        identity = self.identity + hashed(gradient)
        return replace(self, identity=identity, contains_rules=contains_rules, functions=functions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TracedDensity) or self.identity != other.identity:
            return False
        source = self.source()
        is_same = self.contains_rules or (source is not None and source == other.source())
        return is_same and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.identity)


def as_traced(model: Model) -> Model:
    """The log density of the model as it is now, for the program of the lanes; its data are the arrays in it as well.

    Other functions of the model do not take such data.
    """
    density, arrays = TracedDensity.of(model.logdensity, model.initial_position, *model.data_arguments)
    return model.replace(logdensity=density, data=uncommitted((arrays, model.data_arguments)))


def _reference(function: Callable) -> Callable[[], Callable | None]:
    """A weak reference: programs stay in memory for longer than their functions."""
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
            with equation.ctx.manager:
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
    """Hash of a program, and of the arrays and exported programs in it."""
    digest = hashlib.sha256(ADDRESS.sub("", str(traced)).encode())
    add_arrays(digest, [array for program in _programs(traced) for array in program.consts])
    for parameter in _parameters(traced):
        if isinstance(parameter, jax.export.Exported):
            digest.update(parameter.mlir_module_serialized)
    return digest.hexdigest()


def _with_rules(traced: Any) -> set[str]:
    """Calls of functions with rules for derivatives of their own, by name and program."""
    calls = [each for each in _equations(traced) if each.primitive.name.startswith(WITH_RULES)]
    return {" ".join([each.primitive.name, *map(str, _inner(each))]) for each in calls}


def _functions(traced: Any) -> tuple[Any, ...]:
    """Functions that a program calls but does not contain, except rules for derivatives."""
    others = [each for each in _equations(traced) if not each.primitive.name.startswith(WITH_RULES)]
    return tuple(
        leaf
        for leaf in jax.tree.leaves([each.params for each in others])
        if callable(leaf) and not isinstance(leaf, type)
    )


def _equations(traced: Any) -> list[Any]:
    return [equation for program in _programs(traced) for equation in program.eqns]


def _parameters(traced: Any) -> list[Any]:
    return jax.tree.leaves([equation.params for equation in _equations(traced)])


def add_arrays(digest: Any, arrays: list[Any]) -> None:
    """Add dtypes, shapes and values of arrays to a digest."""
    for array in arrays:
        is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        values = jax.device_get(jax.random.key_data(array) if is_key else array)
        digest.update(f"{array.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _programs(traced: Any) -> list[Any]:
    """A program and all programs that it calls."""
    return [traced, *(each for equation in traced.eqns for inner in _inner(equation) for each in _programs(inner))]


def _inner(equation: Any) -> list[Any]:
    """The programs that an equation calls."""
    leaves = jax.tree.leaves(equation.params)
    return [leaf for leaf in leaves if isinstance(leaf, jax.extend.core.Jaxpr)]
