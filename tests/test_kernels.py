"""Kernels: the sampler's chains are BlackJAX's own, whitened, with trajectory lengths from a schedule."""

from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import gaussian, gaussian_start

from parsample.kernels import (
    KERNELS,
    MAX_INTEGRATION_STEPS,
    Draw,
    KernelDynamics,
    KernelParameters,
    Layout,
    schedule,
)
from parsample.transition import rollout

KEY = jax.random.key(4)
START = jnp.array([0.3, -1.0, 0.7])
LAYOUT = Layout.of(gaussian_start())


def parameters(step_size: float, *, identity: bool = False) -> KernelParameters:
    """Some centre and some dense factor, or none."""
    center, factor = jnp.array([0.2, -0.1, 0.05]), jnp.array([[0.9, 0.0, 0.0], [0.1, 0.5, 0.0], [-0.2, 0.05, 0.4]])
    if identity:
        center, factor = jnp.zeros(3), jnp.ones(3)
    return KernelParameters(center, factor, jnp.asarray(step_size), schedule(jnp.asarray(step_size)))


def flat_gaussian(vector: jax.Array) -> jax.Array:
    return gaussian({"x": vector[:2], "y": vector[2:].reshape(1, 1)})


@partial(jax.jit, static_argnums=(0, 3))
def run(dynamics: KernelDynamics, settings: KernelParameters, start: jax.Array, num_steps: int, first: int = 0) -> Draw:
    """Draws of the sampler's chain, evaluated step by step."""
    return rollout(*_arranged(dynamics(settings, KEY, num_steps, first), start))[2]


def _arranged(transition_and_inputs: tuple, start: jax.Array) -> tuple:
    transition, inputs = transition_and_inputs
    return transition, start, inputs


def by_blackjax(kernel: str, settings: KernelParameters, num_steps: int) -> tuple[Any, Any]:
    """States and infos of BlackJAX's algorithm on the whitened density, looped over in Python."""
    eps, ones = settings.step_size, jnp.ones(3)

    def whitened(u: jax.Array) -> jax.Array:
        x = settings.factor @ u if settings.factor.ndim == 2 else settings.factor * u
        return flat_gaussian(settings.center + x)

    algorithms: dict[str, Callable] = {
        "hmc": lambda length: blackjax.hmc(whitened, eps, ones, length),
        "nuts": lambda _: blackjax.nuts(whitened, eps, ones),
        "mala": lambda _: blackjax.mala(whitened, eps),
    }
    step = jax.jit(lambda key, state, length: algorithms[kernel](length).step(key, state))
    state, history = algorithms[kernel](1).init(START), []
    for t in range(num_steps):
        state, info = step(jax.random.fold_in(KEY, t), state, settings.num_integration_steps[t % 16])
        history.append((state, info))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *history)


def halton(k: int) -> float:
    """The radical inverse of k in base 2: its binary digits, mirrored at the point."""
    return sum(int(digit) / 2 ** (place + 1) for place, digit in enumerate(reversed(f"{k:b}")))


@pytest.mark.parametrize("eps", [0.01, 0.2, 0.77, 1.6, 9.0])
def test_schedule_is_the_first_sixteen_halton_points_of_a_half_turn(eps):
    expected = [max(1, round(halton(k) * np.pi / eps)) for k in range(1, 17)]
    np.testing.assert_array_equal(schedule(jnp.asarray(eps)), expected)


def test_schedule_of_a_tiny_step_is_bounded():
    steps = schedule(jnp.asarray(1e-5))
    assert int(steps.max()) == int(steps.min()) == MAX_INTEGRATION_STEPS == 2**10 - 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_chain_is_blackjax_own_kernel_on_the_whitened_density(kernel):
    settings = parameters(0.4)
    draws = run(KernelDynamics(gaussian, LAYOUT, kernel), settings, START, 40)
    states, infos = by_blackjax(kernel, settings, 40)
    positions = np.asarray(settings.center) + states.position @ np.asarray(settings.factor).T
    np.testing.assert_allclose(draws.position, positions, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(draws.lp, [flat_gaussian(x) for x in positions], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(draws.acceptance_rate, infos.acceptance_rate, rtol=1e-7)
    assert not draws.diverging.any()
    lengths = {"hmc": np.resize(settings.num_integration_steps, 40), "mala": np.ones(40)}
    np.testing.assert_array_equal(draws.n_steps, getattr(infos, "num_integration_steps", lengths.get(kernel)))
    if kernel == "nuts":
        np.testing.assert_array_equal(draws.tree_depth, infos.num_trajectory_expansions)
        np.testing.assert_allclose(draws.energy, infos.energy, rtol=1e-8)
    if kernel == "hmc":
        np.testing.assert_array_equal(draws.n_steps, lengths["hmc"])
    if kernel == "mala":
        np.testing.assert_array_equal(draws.energy, -draws.lp)


def test_energy_is_that_of_the_state_kept():
    settings = parameters(0.6, identity=True)  # stable below 2/3
    draws = run(KernelDynamics(gaussian, LAYOUT, "hmc"), settings, START, 64)
    _, infos = by_blackjax("hmc", settings, 64)
    before = np.concatenate([[flat_gaussian(START)], draws.lp[:-1]])
    initial = -before + 0.5 * (infos.momentum**2).sum(-1)
    accepted = infos.is_accepted
    assert 5 < accepted.sum() < 59
    np.testing.assert_array_equal(np.diff(draws.position, axis=0).any(1), accepted[1:])
    np.testing.assert_allclose(draws.energy[~accepted], initial[~accepted], rtol=1e-10)
    # Metropolis: the acceptance rate is what the energy of the proposal, now kept, makes of it.
    metropolis = np.minimum(1, np.exp(initial - draws.energy))
    np.testing.assert_allclose(draws.acceptance_rate[accepted], metropolis[accepted], rtol=1e-8)


def cut(x: jax.Array) -> jax.Array:
    """NaN beyond 1, with a gradient of 0 there."""
    return jnp.where(x[0] < 1, -0.5 * jnp.sum(x**2), jnp.nan)


def logarithm(x: jax.Array) -> jax.Array:
    """Gamma(2): NaN below -1, where the gradient is a number all the same."""
    return jnp.log(x[0] + 1) - x[0] - 0.5 * x[1] ** 2


def root(x: jax.Array) -> jax.Array:
    """NaN below -1, value and gradient."""
    return jnp.sqrt(x[0] + 1) - 0.5 * jnp.sum(x**2)


def unguarded(x: jax.Array) -> jax.Array:
    """A number below -1, but its gradient is NaN there: a branch that wants the double-where trick."""
    return jnp.where(x[0] > -1, jnp.sqrt(x[0] + 1), 0.0) - 0.5 * jnp.sum(x**2)


INVALID = {cut: lambda x: x >= 1, logarithm: lambda x: x <= -1, root: lambda x: x < -1, unguarded: lambda x: x < -1}


SLOW_NUTS = {root: [pytest.mark.slow], unguarded: [pytest.mark.slow]}
NAN_CASES = [
    pytest.param(kernel, density, marks=SLOW_NUTS.get(density, []) if kernel == "nuts" else [])
    for kernel in KERNELS
    for density in INVALID
]


@pytest.mark.parametrize(("kernel", "density"), NAN_CASES)
def test_a_density_that_is_nan_in_a_region_is_rejected_there_and_counted(kernel, density):
    layout = Layout.of(jnp.zeros(2))
    settings = KernelParameters(jnp.zeros(2), jnp.ones(2), jnp.asarray(0.3), schedule(jnp.asarray(0.3)))
    draws = jax.device_get(run(KernelDynamics(density, layout, kernel), settings, jnp.zeros(2), 400))
    assert all(np.isfinite(field).all() for field in draws)
    assert not INVALID[density](draws.position[:, 0]).any()
    assert 10 < draws.diverging.sum() < 300
    moved = np.diff(draws.position, axis=0, prepend=0).any(1)
    assert moved.sum() > 100
    if kernel != "nuts":  # NUTS draws from the part of the trajectory before the divergence
        assert not moved[draws.diverging].any()
        assert (draws.acceptance_rate[draws.diverging] == 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_later_steps_depend_on_the_state_and_the_step_number_alone(kernel):
    dynamics, settings = KernelDynamics(gaussian, LAYOUT, kernel), parameters(0.4)
    whole = run(dynamics, settings, START, 32)
    middle = settings.whiten(whole.position[15])
    tail = run(dynamics, settings, middle, 16, 16)
    for name, ours, theirs in zip(Draw._fields, tail, whole, strict=True):
        np.testing.assert_allclose(ours, theirs[16:], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_trajectory_lengths_repeat_with_the_period_that_blocks_must_respect(kernel):
    _, inputs = KernelDynamics(gaussian, LAYOUT, kernel)(parameters(0.4), KEY, 40, 16)
    assert KernelDynamics(gaussian, LAYOUT, kernel).period == {"hmc": 16, "nuts": 1, "mala": 1}[kernel]
    np.testing.assert_array_equal(inputs.sequence, np.arange(16, 56))


def test_layout_takes_vectors_apart_as_they_were_put_together():
    position = {"b": jnp.arange(6.0).reshape(2, 3), "a": (jnp.array(7.0), jnp.arange(8.0, 9.0))}
    layout = Layout.of(position)
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(position)])
    assert (layout.dimension, layout.dtype) == (8, jnp.float64)
    jax.tree.map(np.testing.assert_array_equal, layout.unravel(flat), position)
    assert hash(layout) == hash(Layout.of(position))
    assert layout == Layout.of(jax.tree.map(lambda leaf: leaf + 1, position))


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_layout_keeps_leading_axes_and_the_kind_of_array(as_array):
    batch = as_array(np.arange(2 * 5 * 3.0).reshape(2, 5, 3))
    position = LAYOUT.unravel(batch)
    assert (position["x"].shape, position["y"].shape) == ((2, 5, 2), (2, 5, 1, 1))
    assert isinstance(position["y"], type(batch))
    np.testing.assert_array_equal(position["y"][1, 3], batch[1, 3, 2:].reshape(1, 1))


@pytest.mark.parametrize("identity", [True, False], ids=["diagonal", "dense"])
def test_whitening_undoes_the_map_to_positions(identity):
    settings = parameters(0.4, identity=identity)
    u = jax.random.normal(KEY, (4, 2, 3))
    np.testing.assert_allclose(settings.whiten(settings.position(u)), u, rtol=1e-12, atol=1e-12)
    if not identity:
        expected = settings.center + settings.factor @ u[1, 1]
        np.testing.assert_allclose(settings.position(u)[1, 1], expected, rtol=1e-12)
