"""Log densities as programs: equal for alike programs, whatever the arrays in them, and compiled once."""

import functools
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import sample
from parsample.models.model import Model
from parsample.models.traced import TracedDensity, as_traced

KEY = jax.random.key(0)


def traced(function: Any) -> TracedDensity:
    return TracedDensity.of(function, jnp.zeros(2))[0]


def test_functions_with_the_same_program_are_one():
    def make(scale: float, table: list[float]) -> Any:
        values = np.array(table)
        return lambda x: -scale * jnp.sum(values * x**2)

    same = traced(make(0.1, [1.0, 2.0])), traced(make(0.1, [1.0, 2.0]))
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert traced(make(0.1, [1, 2.5])) == same[0]
    assert traced(make(np.nextafter(0.1, 1), [1.0, 2.0])) != same[0]
    assert traced(make(0.1, [1.0])) != same[0]
    assert same[0] != "another thing"


def term(values: Any) -> Any:
    table = np.asarray(values)
    return lambda x: -jnp.sum(table * x**2)


PLACES: dict[str, Any] = {
    "itself": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: jax.jit(f)(x) + f(2 * x)),
    "cond": lambda f: lambda x: jax.lax.cond(x[0] > 0, f, lambda x: x[0], x),
    "scan": lambda f: lambda x: jax.lax.scan(lambda total, _: (total + f(x), None), 0.0, length=2)[0],
    "jit in scan": lambda f: lambda x: jax.lax.scan(lambda total, _: (total + jax.jit(f)(x), None), 0.0, length=2)[0],
    "vmap": lambda f: lambda x: jnp.sum(jax.vmap(lambda _: f(x))(jnp.arange(2))),
    "softplus": lambda f: lambda x: f(jax.nn.softplus(x)),
}


@pytest.mark.parametrize("place", PLACES)
def test_arrays_are_arguments_of_the_program(place):
    functions = [PLACES[place](term(values)) for values in ([1.0, 2.0], [3.0, 5.0])]
    position = jnp.array([0.5, -1.0])
    (one, _), (other, arrays) = (TracedDensity.of(each, position) for each in functions)
    if place != "jit in scan":  # arrays there stay in the program
        assert one == other
    given = (arrays, ())
    np.testing.assert_array_equal(other(position, given), functions[1](position))
    np.testing.assert_array_equal(jax.grad(other)(position, given), jax.grad(functions[1])(position))


@pytest.mark.usefixtures("float32")
def test_arrays_of_all_types_are_arguments():
    key, counts, weights = jax.random.key(3), np.arange(2, dtype=np.int64), np.ones(2, np.float64)

    def logdensity(x: jax.Array, data: Any) -> jax.Array:
        return jax.random.normal(key) - jnp.sum(weights * counts * x["a"] ** data)

    position, data = {"a": jnp.ones(2)}, jnp.asarray(2)
    model = as_traced(Model(logdensity, position, data=data))
    np.testing.assert_array_equal(model.logdensity_at(position), logdensity(position, data))


def test_a_function_whose_attributes_change_is_another():
    class Target:
        mean = 0.0

        def logdensity(self, x: jax.Array) -> jax.Array:
            return -jnp.sum((x - self.mean) ** 2)

    target = Target()
    before = traced(target.logdensity)
    assert traced(target.logdensity) == before
    target.mean = 1.0
    assert traced(target.logdensity) != before


def with_slope(slope: float) -> Any:
    @jax.custom_jvp
    def square(x: jax.Array) -> jax.Array:
        return -jnp.sum(x**2)

    @square.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        return square(*primals), -slope * jnp.sum(primals[0] * tangents[0])

    return square


def test_rules_for_derivatives_count():
    right, wrong = with_slope(2.0), with_slope(3.0)
    assert traced(right) == traced(with_slope(2.0))
    assert traced(right) != traced(wrong)
    nested = [traced(jax.jit(lambda x, f=each: jax.lax.cond(x[0] > 0, f, right, x))) for each in (right, wrong)]
    assert nested[0] != nested[1]


def outside(x: np.ndarray) -> np.ndarray:
    return -np.sum(x**2, -1)


def calling(function: Any) -> Any:
    return lambda x: jax.pure_callback(function, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")


def test_log_densities_with_callbacks_are_the_same_if_they_call_the_same_objects():
    assert traced(calling(outside)) == traced(calling(outside))
    assert traced(calling(outside)) != traced(calling(lambda x: -np.sum(x**2, -1)))


def test_a_callback_that_is_made_anew_counts_with_what_it_closes_over():
    class Target:
        factor = 1.0

        def __call__(self, x: jax.Array) -> jax.Array:
            factor = self.factor
            return calling(lambda v: -factor * np.sum(v**2, -1))(x)

    target = Target()
    before = traced(target)
    target.factor = 2.0
    assert traced(target) != before


def test_rules_that_are_not_in_the_program_of_the_gradient_are_of_the_same_function_only():
    def batched(factor: float) -> Any:
        @jax.custom_batching.custom_vmap
        def square(x: jax.Array) -> jax.Array:
            return -jnp.sum(x**2)

        @square.def_vmap
        def rule(size: int, is_batched: Any, x: jax.Array) -> Any:
            return -factor * jnp.sum(x**2, -1), True

        return lambda x: square(jax.lax.stop_gradient(x)) - jnp.sum(x**2)

    assert traced(batched(1.0)) != traced(batched(2.0))


def test_solutions_of_linear_systems_are_compared_by_program():
    def make(values: Any) -> Any:
        matrix = jnp.asarray(values)
        return lambda x: -x @ jnp.linalg.solve(matrix, x)

    assert traced(make([[2.0, 0.0], [0.0, 1.0]])) == traced(make([[3.0, 0.5], [0.5, 1.0]]))


def test_a_function_with_rules_beyond_its_gradient_is_equal_to_itself_only_and_to_none_once_it_is_gone():
    @jax.custom_vjp
    def quartic(x: jax.Array) -> jax.Array:
        return -jnp.sum(x**4)

    quartic.defvjp(lambda x: (quartic(x), x), lambda x, cotangent: (-4 * cotangent * x**3,))

    def made() -> Any:
        @jax.custom_vjp
        def square(x: jax.Array) -> jax.Array:
            return -jnp.sum(x**2)

        # The program of the gradient calls another function with a rule, whose derivative it does not contain.
        square.defvjp(lambda x: (square(x), x), lambda x, cotangent: (cotangent * quartic(x) * jnp.ones_like(x),))
        return functools.partial(square)

    one = made()
    before = traced(one)
    assert before == traced(one)
    assert before != traced(made())
    del one
    gc.collect()
    assert before.source() is None
    assert before != traced(made())


def test_arrays_on_a_device_of_the_users_choice_may_be_captured():
    table = jax.device_put(np.array([1.0, 2.0]), jax.devices()[0])
    model = as_traced(Model(lambda x: -jnp.sum(table * x**2), jnp.zeros(2)))
    assert not any(leaf.committed for leaf in jax.tree.leaves(model.data))


def test_other_data_compile_nothing_and_are_not_kept(compilations):
    def fit(values: Any) -> Any:
        data = jnp.asarray(values)
        function = jax.jit(lambda x: -jnp.sum((x - data) ** 2))
        sizes: dict[str, Any] = {"num_samples": 100, "num_warmup": 100, "num_chains": 1, "num_lanes": 16}
        mean = sample(KEY, function, jnp.zeros(2), **sizes, method="sequential", progress_bar=False).positions.mean()
        return mean, weakref.ref(data)

    first, _ = fit([0.0, 0.0])
    compilations.clear()
    second, data = fit([9.0, 9.0])
    assert not compilations
    assert abs(first) < 1
    assert abs(second - 9) < 1
    gc.collect()
    assert data() is None
