"""Multishift moves: their law, their coupling, and the invariance of the target."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import isotropic
from marks import slow
from scipy import stats

import parsample
from parsample.chain.multishift import accepted, lattice_point, multishift_normal, normal

KEYS = jax.random.split(jax.random.key(3), 40_000)


@pytest.mark.parametrize(
    ("log_ratio", "expected", "rate"),
    [(np.nan, False, 0), (-np.inf, False, 0), (np.log(0.6), True, 0.6), (3.0, True, 1)],
)
def test_a_ratio_decides_and_nothing_is_accepted_that_is_not_a_number(log_ratio, expected, rate):
    found, probability = accepted(jnp.asarray(0.5), jnp.asarray(log_ratio))
    assert bool(found) is expected
    assert float(probability) == pytest.approx(rate)


@pytest.mark.parametrize(("position", "scale"), [(0.0, 1.0), (3.7, 0.2), (-120.3, 2.5)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_move_is_normal_around_the_position(position, scale, dtype):
    x = jnp.asarray([position], dtype)
    draws = jax.jit(jax.vmap(lambda key: multishift_normal(key, x, scale)))(KEYS)[:, 0]
    assert draws.dtype == dtype
    # Kolmogorov-Smirnov at 40,000 draws: 0.0082 is the 1 % point; moments within four standard errors.
    assert stats.kstest(np.asarray(draws, float), stats.norm(position, scale).cdf).statistic < 0.0082
    assert abs(np.mean(draws, dtype=float) - position) < 4 * scale / 200
    assert abs(np.std(np.asarray(draws, float)) / scale - 1) < 4 / np.sqrt(2 * 40_000)


def test_half_width_is_a_chi_variable_with_three_degrees_of_freedom():
    # The layers of a normal density: r^2 = z^2 + 2 e is chi-square with 1 + 2 degrees of freedom.
    uniforms = jax.random.uniform(jax.random.key(0), (3, 40_000))
    offsets = lattice_point(uniforms.at[2].set(0.0), jnp.zeros(40_000), 1.0)
    width = 2 * np.sqrt(np.asarray(normal(uniforms[0])) ** 2 - 2 * np.log1p(-np.asarray(uniforms[1])))
    np.testing.assert_allclose(np.asarray(offsets), 0 * width, atol=1e-12)  # 0 is a point of every such lattice
    assert stats.kstest(width / 2, stats.chi(3).cdf).statistic < 0.0082


@pytest.mark.parametrize("distance", [0.01, 0.3, 1.0])
def test_nearby_positions_are_mapped_to_the_very_same_point(distance):
    # The probability is E[max(0, 1 - d / (2 r))]: the total variation overlap of two layers, averaged over layers.
    def move(key: jax.Array, x: float) -> jax.Array:
        return multishift_normal(key, jnp.asarray([x]), 1.0)[0]

    same = jax.jit(jax.vmap(lambda key: move(key, 0.2) == move(key, 0.2 + distance)))(KEYS)
    radii = stats.chi(3).rvs(400_000, random_state=0)
    expected = np.maximum(0, 1 - distance / (2 * radii)).mean()
    assert abs(float(same.mean()) - expected) < 4 * np.sqrt(0.25 / len(KEYS))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_unit_interval_are_finite(uniform):
    for dtype in ("float32", "float64"):
        assert np.isfinite(normal(jnp.asarray(uniform, dtype)))
        assert np.isfinite(lattice_point(jnp.full((3, 1), uniform, dtype), jnp.ones(1, dtype), 1.0)).all()


def algorithms() -> dict:
    hmc = blackjax.hmc(isotropic, 0.7, jnp.ones(2), 3)
    return {
        "walk": parsample.multishift_random_walk(isotropic, 1.2),
        "hmc": parsample.with_exact_meeting(hmc, isotropic, 0.4),
        "mala": parsample.with_exact_meeting(blackjax.mala(isotropic, 0.3), isotropic, jnp.array([0.4, 0.5])),
        "ghmc": parsample.with_exact_meeting(blackjax.ghmc(isotropic, 0.5, jnp.ones(2), 0.3, 0.4), isotropic, 0.4),
    }


@pytest.mark.parametrize("name", ["walk", "hmc", slow("mala"), slow("ghmc")])
def test_a_step_from_exact_draws_leaves_the_target_as_it_is(name):
    algorithm = algorithms()[name]
    starts = jax.random.normal(jax.random.key(5), (len(KEYS), 2))

    def step(key: jax.Array, x: jax.Array) -> jax.Array:
        init_key, step_key = jax.random.split(key)
        return algorithm.step(step_key, algorithm.init(x, init_key))[0].position

    after = np.asarray(jax.jit(jax.vmap(step))(KEYS, starts))
    for coordinate in after.T:
        assert stats.kstest(coordinate, stats.norm.cdf).statistic < 0.0082
    assert abs(np.mean(after[:, 0] * after[:, 1])) < 4 / 200
    assert (after != np.asarray(starts)).mean() > 0.3


@pytest.mark.parametrize("name", ["walk", "hmc", slow("mala")])
@pytest.mark.parametrize("x64", [True, False])
def test_paths_with_common_keys_become_equal_and_stay_equal(name, x64):
    with jax.enable_x64(x64):
        algorithm = algorithms()[name]
        starts = jnp.asarray(np.random.default_rng(1).normal(size=(16, 2)), float)
        keys = jax.random.split(jax.random.key(8), 400)
        states = jax.vmap(algorithm.init)(starts)

        def advance(states, key):
            states = jax.vmap(lambda state: algorithm.step(key, state)[0])(states)
            return states, jnp.abs(states.position - states.position[:1]).max(-1)

        distances = np.asarray(jax.jit(lambda s: jax.lax.scan(advance, s, keys))(states)[1])
    assert (distances[-1] == 0).all()
    met = np.argmax(distances == 0, axis=0)
    for lane, first in enumerate(met):
        assert (distances[first:, lane] == 0).all()
    assert met[1:].max() > 0


@pytest.mark.parametrize(
    "method", [slow("sequential"), parsample.DEER(60, parsample.Zero())], ids=["sequential", "zero"]
)
def test_blackjax_loop_and_the_drop_in_run_the_same_chain(method):
    hmc = algorithms()["hmc"]
    key, start = jax.random.key(2), jnp.ones(2)
    kwargs = {"initial_position": start, "transform": lambda state, info: (state.position, info.is_moved)}
    _, (expected, moved) = blackjax.util.run_inference_algorithm(key, hmc, 600, **kwargs)
    _, (found, _) = parsample.run_inference_algorithm(key, hmc, 600, method=method, **kwargs)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert 0.1 < moved.mean() < 0.25  # one step in four makes a move, and most are accepted
