"""Every BlackJAX kernel as a Transition: its rollout is BlackJAX's own chain, and its derivatives are right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from parsample.chain.blackjax_chain import AlgorithmDynamics, begin, from_algorithm
from parsample.chain.transition import rollout

NUM_STEPS = 40
POSITION = {"a": jnp.arange(3.0) / 3, "b": (jnp.array(0.5),), "c": jnp.ones((1, 1))}
ONES, KEY = jnp.ones(5), jax.random.key(3)


def target(position: Any) -> jax.Array:
    x, _ = ravel_pytree(position)
    return -0.5 * jnp.sum(x**2 / (1 + jnp.arange(5.0))) - 0.1 * jnp.sum(x**4)


KERNELS: dict[str, Callable] = {
    "mala": lambda: blackjax.mala(target, 0.3),
    "hmc": lambda: blackjax.hmc(target, 0.5, ONES, 3),
    "multinomial_hmc": lambda: blackjax.mhmc(target, 0.5, ONES, 3),
    "dhmc": lambda: blackjax.dhmc(target, 0.5, ONES),
    "nuts": lambda: blackjax.nuts(target, 0.6, ONES),
    "barker": lambda: blackjax.barker(target, 0.5),
    "random_walk": lambda: blackjax.normal_random_walk(target, 0.5 * jnp.eye(5)),
    "elliptical_slice": lambda: blackjax.elliptical_slice(target, mean=jnp.zeros(5), cov=jnp.eye(5)),
    "adjusted_mclmc": lambda: blackjax.adjusted_mclmc(target, 0.5, num_integration_steps=3),
    "ghmc": lambda: blackjax.ghmc(target, 0.5, jax.tree.map(jnp.ones_like, POSITION), 0.5, 0.2),
    "mclmc": lambda: blackjax.mclmc(target, 1.0, 0.3),
}
MORE_KERNELS: dict[str, Callable] = {
    "rmhmc": lambda: blackjax.rmhmc(target, 0.3, ONES, 3),
    "mgrad_gaussian": lambda: blackjax.mgrad_gaussian(target, mean=0 * ONES, covariance=jnp.eye(5), step_size=0.3),
    "coordinate_slice": lambda: blackjax.coordinate_slice(target),
    "adjusted_mclmc_dynamic": lambda: blackjax.adjusted_mclmc_dynamic(target, 0.3),
}


def by_default(*names: str) -> list:
    """All kernels as parameters; those not in `names` are marked slow."""
    kernels = KERNELS | MORE_KERNELS
    return [pytest.param(name, marks=[] if name in names else [pytest.mark.slow]) for name in kernels]


def keep_all(state: Any, info: Any) -> tuple[Any, Any]:
    return state, info


def build(name: str) -> Any:
    return (KERNELS | MORE_KERNELS)[name]()


def comparable(tree: Any) -> list[np.ndarray]:
    """Leaves as numbers, keys included."""
    leaves = jax.tree.leaves(tree)
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in zip(leaves, is_key, strict=True)]


# The default run has mala, hmc and random_walk in tests/samplers/test_blackjax_run.py.
@pytest.mark.parametrize("name", by_default("nuts", "elliptical_slice"))
def test_rollout_is_blackjax_own_chain(name):
    algorithm = build(name)
    expected = blackjax.util.run_inference_algorithm(KEY, algorithm, NUM_STEPS, initial_position=POSITION)
    dynamics = AlgorithmDynamics(algorithm, keep_all)
    chain_key, state, start = begin(dynamics, KEY, POSITION)
    final, path, history = jax.jit(lambda key: rollout(*reduced(dynamics(state, key, NUM_STEPS), start)))(chain_key)
    assert path.shape == (NUM_STEPS, start.shape[0])
    for ours, theirs in zip(comparable((final, history)), comparable(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def reduced(transition_and_inputs: tuple, start: jax.Array) -> tuple:
    transition, inputs = transition_and_inputs
    return transition, start, inputs


@pytest.mark.parametrize(("name", "size"), [("mala", 5), ("dhmc", 5), ("mclmc", 10), ("ghmc", 11)])
def test_blocks_exchange_what_determines_the_future_and_no_more(name, size):
    algorithm = build(name)
    _, start = from_algorithm(algorithm, algorithm.init(POSITION, KEY), keep_all)
    assert start.shape == (size,)


@pytest.mark.parametrize("name", by_default("random_walk"))
def test_reduced_map_has_the_derivative_of_the_branch_taken(name):
    dynamics = AlgorithmDynamics(build(name), keep_all)
    chain_key, state, start = begin(dynamics, KEY, POSITION)
    direction = jnp.cos(jnp.arange(start.shape[0], dtype=float))

    @jax.jit
    def derivatives(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        transition, inputs = dynamics(state, key, 12)

        def image(x: jax.Array, t: jax.Array) -> jax.Array:
            return transition.reduce(transition.step(transition.restore(x), inputs.at(t))[0])

        def both(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            along = jax.jvp(lambda x: image(x, t), (start,), (direction,))[1]
            # Both nearby starts lie along one axis, so that the kernel is compiled once for them.
            ends = jax.vmap(lambda h: image(start + h * direction, t))(jnp.array([-1e-6, 1e-6]))
            return along, (ends[1] - ends[0]) / 2e-6

        return jax.lax.map(both, jnp.arange(12))

    forward, differences = derivatives(chain_key)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(forward, differences, rtol=1e-5, atol=1e-5)
    if name in ("random_walk", "barker", "coordinate_slice"):  # here J = I
        np.testing.assert_allclose(forward, np.broadcast_to(direction, forward.shape), atol=1e-12)
    else:
        assert np.abs(np.asarray(forward) - np.asarray(direction)).max() > 0.01


@pytest.mark.parametrize("name", ["mala", "ghmc"])
def test_restore_then_reduce_is_the_identity(name):
    algorithm = build(name)
    transition, start = from_algorithm(algorithm, algorithm.init(POSITION, KEY), keep_all)
    np.testing.assert_array_equal(transition.reduce(transition.restore(start)), start)


def test_a_kernel_that_cannot_be_reduced_is_refused_by_the_name_of_its_field():
    algorithm = blackjax.orbital_hmc(target, 0.3, ONES, 3)
    with pytest.raises(TypeError, match=r"PeriodicOrbitalState.*'positions', 'weights'.*parsample\.deer"):
        from_algorithm(algorithm, algorithm.init(POSITION), keep_all)


class Tempered(NamedTuple):
    position: jax.Array
    logdensity: jax.Array
    temperature: jax.Array


class Nameless(NamedTuple):
    logdensity: jax.Array


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Tempered(ONES, ONES[0], ONES[0]), "'temperature'"),
        (Nameless(ONES[0]), "no field 'position'"),
        (ONES, "position"),
    ],
)
def test_a_state_of_unknown_meaning_is_refused(state, words):
    with pytest.raises(TypeError, match=words):
        from_algorithm(build("mala"), state, keep_all)
