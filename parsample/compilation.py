"""How the programmes that this library starts are compiled."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, update_wrapper, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import xla_metadata_call
from jax.extend.backend import clear_backends
from jax.extend.core import Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params

# XLA uses half the width of the vector units of recent CPUs unless asked for all of it; narrower CPUs are not affected.
# Its library of fused products (YNNPACK) is slower than Eigen's on matrices of this kind, and rounds more, so that
# float32 paths meet later; nor can it be part of one kernel.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_experimental_ynn_fusion_type": ""}

# What a loop may hold to be compiled into one kernel: no libraries, no scatters, no exchange between devices.
CONTROL_FLOW = frozenset(
    (
        "checkpoint",
        "closed_call",
        "cond",
        "custom_jvp_call",
        "custom_vjp_call",
        "jit",
        "pjit",
        "remat2",
        "scan",
        "while",
    )
)
IN_PLACE = frozenset(("dynamic_update_slice",))
ELEMENTARY = IN_PLACE.union(
    "abs acos acosh add add_any and argmax argmin asin asinh atan atan2 atanh bitcast_convert_type".split(),  # noqa: SIM905
    "broadcast_in_dim cbrt ceil clamp clz concatenate convert_element_type copy copy_p cos cosh div".split(),  # noqa: SIM905
    "dot_general dynamic_slice eq erf erf_inv erfc exp exp2 expm1 floor gather ge gt integer_pow iota".split(),  # noqa: SIM905
    "is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not optimization_barrier or".split(),  # noqa: SIM905
    "pad pmin population_count pow random_bits random_fold_in random_split random_unwrap random_wrap".split(),  # noqa: SIM905
    "reduce_and reduce_max reduce_min reduce_or reduce_precision reduce_prod reduce_sum rem reshape rev".split(),  # noqa: SIM905
    "round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh slice split".split(),  # noqa: SIM905
    "sqrt square squeeze stack stop_gradient sub tan tanh transpose unstack xor".split(),  # noqa: SIM905
)

# Elements of an array beyond which XLA's own kernels are the better ones. One kernel forms products of matrices in the
# plainest way: there the limit is on multiplications times the length of each sum.
MAX_ELEMENTS, MAX_PRODUCTS = 2**14, 2**17


class Programme:
    """A function under ``jax.jit`` with options for this device.

    Called inside another ``jax.jit``, which permits no options, it is a part of that.
    """

    def __init__(self, function: Callable, static_argnums: tuple[int, ...]) -> None:
        update_wrapper(self, function)
        self._function, self._static_argnums = function, static_argnums
        self._compiled: dict[str, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        return self._function(*arguments) if is_being_compiled() else self._jit(*arguments)

    def prepare(self, *arguments: Any) -> None:
        """Compile for these arguments, or their shapes, and run nothing."""
        self.lower(*arguments).compile()

    def lower(self, *arguments: Any) -> Any:
        """The programme for these arguments, before it is compiled."""
        return self._jit.lower(*arguments)

    def eval_shape(self, *arguments: Any) -> Any:
        """Shapes and dtypes of what it returns."""
        return self._jit.eval_shape(*arguments)

    @property
    def _jit(self) -> Any:
        backend = jax.default_backend()
        if backend not in self._compiled:
            options = _cpu_options() if backend == "cpu" else None
            jitted = jax.jit(_owned(self._function), static_argnums=self._static_argnums, compiler_options=options)
            self._compiled[backend] = jitted
        return self._compiled[backend]


# Whether the programme that is being traced is one of ours, with options of ours.
_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)


def _owned(function: Callable) -> Callable:
    @wraps(function)
    def traced(*arguments: Any) -> Any:
        token = _is_ours.set(True)
        try:
            return function(*arguments)
        finally:
            _is_ours.reset(token)

    return traced


@cache
def _cpu_options() -> dict[str, Any]:
    """Those of `CPU_OPTIONS` that this version of XLA knows."""
    known = {}
    for name, value in CPU_OPTIONS.items():
        with suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            known[name] = value
    return known


def outermost_jit(*static_argnums: int) -> Callable[[Callable], Programme]:
    """Decorator: the function as a `Programme`."""
    return lambda function: Programme(function, static_argnums)


@contextmanager
def compiling(*preparations: Callable[[], None]) -> Iterator[None]:
    """Run calls of ``prepare``, each in a thread of its own, beside the body; at its end all is compiled.

    XLA compiles outside Python's lock. What goes wrong here goes wrong again, and is told, when the function is called.
    """
    if is_being_compiled() or not preparations:
        yield
        return
    with ThreadPoolExecutor(max_workers=len(preparations)) as threads:
        for prepare in preparations:
            threads.submit(prepare)
        yield


def in_one_kernel(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)``, on CPUs compiled into one native function if it works on small arrays only.

    Else XLA starts a kernel of its own for every few operations, which takes longer than those of a small model. Inside
    a user's ``jax.jit`` it is left to that: XLA's default options might bring in what one kernel may not hold.
    """
    if not _is_ours.get() or jax.default_backend() != "cpu" or len(_cpu_options()) < len(CPU_OPTIONS):
        return function(*arguments)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    if not _is_small(traced.jaxpr):
        return function(*arguments)
    evaluate = xla_metadata_call(jaxpr_as_fun(traced), inlineable="false", xla_cpu_small_call="true")
    return jax.tree.unflatten(jax.tree.structure(shapes), evaluate(*jax.tree.leaves(arguments)))


def _is_small(jaxpr: Jaxpr) -> bool:
    """Whether all of it is elementary and of few elements, buffers that are written in place left out."""
    for equation in jaxpr.eqns:
        name, parts = equation.primitive.name, list(jaxprs_in_params(equation.params))
        if name not in (CONTROL_FLOW if parts else ELEMENTARY) or not all(map(_is_small, parts)):
            return False
        if parts or name in IN_PLACE:
            continue
        size = max(variable.aval.size for variable in equation.outvars)  # type: ignore[attr-defined]
        if size > MAX_ELEMENTS or (name == "dot_general" and size * _length_of_sums(equation) ** 2 > MAX_PRODUCTS):
            return False
    return True


def _length_of_sums(product: JaxprEqn) -> int:
    (contracted, _), _ = product.params["dimension_numbers"]
    shape = product.invars[0].aval.shape  # type: ignore[attr-defined]
    return math.prod(shape[axis] for axis in contracted)


def use_cores(number: int) -> None:
    """Make so many CPU cores JAX devices, in a process that holds no arrays yet."""
    clear_backends()  # importing BlackJAX has started JAX, with one
    jax.config.update("jax_num_cpu_devices", number)


def is_being_compiled() -> bool:
    """Whether a ``jax.jit`` around the caller is tracing it."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)
