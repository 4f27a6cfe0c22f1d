"""Fingerprints: equal for the same model and data, also in another process; different for all others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import Model
from parsample.models.fingerprint import fingerprint

# All that programs are made of: data, closed-over arrays, loops, branches, derivatives of their own, and callbacks.
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from parsample import Model
from parsample.models.fingerprint import fingerprint

TABLE = np.arange(6.0)

@jax.custom_jvp
def own(x):
    return x**2

@own.defjvp
def derivative(primals, tangents):
    return own(*primals), 2 * primals[0] * tangents[0]

@jax.jit
def inner(x):
    return jnp.sum(TABLE * x[0])

def outside(x):
    return np.asarray(x)

def logdensity(position, data):
    x = position["x"]
    looped = jax.lax.scan(lambda sum, y: (sum + own(y - x[0]), None), 0.0, data["y"])[0]
    branched = jax.lax.cond(x[1] > 0, lambda: x[1], lambda: -x[1])
    called = jax.pure_callback(outside, jax.ShapeDtypeStruct((), x.dtype), x[1], vmap_method="expand_dims")
    return -looped - branched + inner(x) + called

model = Model(logdensity, {"x": np.zeros(2)}, data={"y": np.arange(4.0)})
"""


def test_it_is_equal_in_another_process():
    found: dict[str, Any] = {}
    exec(PROGRAM, found)
    code = f"import jax\njax.config.update('jax_enable_x64', True)\n{PROGRAM}\n"
    code += "print(fingerprint(model, {'x': jnp.zeros(2)}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    here = fingerprint(found["model"], {"x": jnp.zeros(2)})
    assert done.stdout.strip() == here
    other = found["model"].with_data({"y": np.arange(4.0) + 1})
    assert fingerprint(other, {"x": jnp.zeros(2)}) != here


def of(logdensity: Any, data: Any = None, position: Any = None) -> str:
    position = jnp.zeros(2) if position is None else position
    return fingerprint(Model(logdensity, position, data=data), position)


def with_data(x: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.sum((x - y) ** 2)


def test_equal_models_have_equal_fingerprints():
    def make() -> Any:
        table = np.arange(2.0)
        return lambda x: -jnp.sum(table * x**2)

    assert of(make()) == of(make())
    assert of(with_data, np.ones(2)) == of(with_data, jnp.ones(2)) == of(with_data, np.ones(2, np.int32) * 1.0)
    assert of(with_data, np.ones(2)) != of(with_data, np.ones(2, np.int32))


@pytest.mark.usefixtures("float32")
def test_data_count_as_the_program_gets_them():
    assert of(with_data, np.ones(2)) == of(with_data, np.ones(2, np.float32))


def closed_over(values: Any, place: str) -> Any:
    """A log density with an array in its program, or in a program inside it."""
    table = np.asarray(values)
    term = lambda x: -jnp.sum(table * x**2)  # noqa: E731
    return {
        "itself": term,
        "jit": jax.jit(term),
        "cond": lambda x: jax.lax.cond(x[0] > 0, term, lambda x: x[0], x),
        "scan": lambda x: jax.lax.scan(lambda total, _: (total + term(x), None), 0.0, length=2)[0],
        "while": lambda x: jax.lax.while_loop(lambda total: total > 0, lambda total: total + term(x), 0.0),
        "vmap": lambda x: jnp.sum(jax.vmap(lambda _: term(x))(jnp.arange(2))),
    }[place]


@pytest.mark.parametrize("place", ["itself", "jit", "cond", "scan", "while", "vmap"])
def test_arrays_in_the_program_count(place):
    expected = of(closed_over([1.0, 2.0], place))
    assert of(closed_over([1.0, 2.0], place)) == expected
    assert of(closed_over([1.0, 2.5], place)) != expected


def test_values_that_a_remembered_function_reads_count():
    state = {"scale": 1.0}
    model = Model(lambda x: -state["scale"] * jnp.sum(x**2), jnp.zeros(2))
    first = fingerprint(model, jnp.zeros(2))
    state["scale"] = 2.0
    assert fingerprint(model, jnp.zeros(2)) != first


def test_code_and_positions_count():
    fingerprints = {
        of(lambda x: -jnp.sum(x**2)),
        of(lambda x: -jnp.sum(x**2) / 2),
        of(lambda x: -jnp.sum(jnp.abs(x))),
        of(lambda x: -jnp.sum(x**2), position=jnp.zeros(3)),
        of(lambda x: -jnp.sum(x**2), position=jnp.zeros(2, jnp.float32)),
    }
    assert len(fingerprints) == 5


def test_code_behind_callbacks_does_not_count():
    def density(factor: float) -> Any:
        def outside(x: np.ndarray) -> np.ndarray:
            return factor * np.sum(x**2, -1)

        def call(x: jax.Array) -> jax.Array:
            return jax.pure_callback(outside, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")

        return call

    assert of(density(1.0)) == of(density(2.0))


def test_rules_for_derivatives_and_exported_programs_count():
    def ruled(slope: float) -> Any:
        @jax.custom_vjp
        def square(x: jax.Array) -> jax.Array:
            return -jnp.sum(x**2)

        square.defvjp(lambda x: (square(x), x), lambda x, cotangent: (-slope * cotangent * x,))
        return square

    def exported(factor: float) -> Any:
        return jax.export.export(jax.jit(lambda x: -factor * jnp.sum(x**2)))(jnp.zeros(2)).call

    assert of(ruled(2.0)) == of(ruled(2.0)) != of(ruled(3.0))
    assert of(exported(1.0)) != of(exported(5.0))


def test_data_in_half_precision_count():
    def density(x: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.sum((x - y.astype(float)) ** 2)

    assert of(density, jnp.ones(2, jnp.bfloat16)) != of(density, jnp.zeros(2, jnp.bfloat16))
