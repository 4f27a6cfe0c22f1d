"""Lanes in lockstep: common loops and places, and what every lane would have got alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.lanes import in_lockstep, side_by_side


def halvings(anyone, x, limit):
    """Halve until below the limit, and count both one's own halvings and everyone's."""

    def halve(loop):
        x, own, rounds = loop
        goes_on = x > limit
        return jnp.where(goes_on, x / 2, x), own + goes_on, rounds + 1

    zero = jnp.int32(0)
    return jax.lax.while_loop(lambda loop: anyone(loop[0] > limit), halve, (x, zero, zero))


STARTS = jnp.array([1.0, 8.0, 100.0, 3.0])
OWN = [0, 3, 7, 2]


def test_alone_a_lane_goes_its_own_way():
    for start, own in zip(STARTS, OWN, strict=True):
        x, count, rounds = in_lockstep(halvings)(start, jnp.asarray(1.0))
        assert (int(count), int(rounds)) == (own, own)
        assert float(x) == float(start) / 2**own


@pytest.mark.parametrize("limits", [jnp.asarray(1.0), jnp.full(4, 1.0)], ids=["shared", "each its own"])
def test_lanes_leave_loops_together_with_what_is_theirs(limits):
    x, count, rounds = jax.vmap(in_lockstep(halvings), in_axes=(0, 0 if limits.ndim else None))(STARTS, limits)
    assert (count.tolist(), rounds.tolist()) == (OWN, 4 * [7])
    np.testing.assert_array_equal(x, STARTS / 2.0 ** np.array(OWN))


def test_lanes_of_several_chains_are_all_in_lockstep():
    both = jax.vmap(jax.vmap(in_lockstep(halvings), in_axes=(0, None)), in_axes=(0, None))
    x, count, rounds = jax.jit(both)(STARTS.reshape(2, 2), jnp.asarray(1.0))
    assert (count.ravel().tolist(), rounds.ravel().tolist()) == (OWN, 4 * [7])
    np.testing.assert_array_equal(x.ravel(), STARTS / 2.0 ** np.array(OWN))


def test_what_advances_alike_in_all_lanes_stays_one_number():
    text = jax.jit(jax.vmap(lambda x: in_lockstep(halvings)(x, jnp.asarray(1.0)))).lower(STARTS).as_text()
    masked = jax.jit(jax.vmap(lambda x: halvings(lambda flag: flag, x, 1.0))).lower(STARTS).as_text()
    assert (text.count("stablehlo.while"), masked.count("stablehlo.while")) == (1, 1)
    assert text.count("stablehlo.select") < masked.count("stablehlo.select")


def test_tangents_are_those_of_the_lane_alone():
    def halved(x, scale):
        return in_lockstep(halvings)(x * scale, jnp.asarray(1.0))

    pushed = jax.vmap(lambda x: jax.jvp(halved, (x, jnp.asarray(1.0)), (jnp.asarray(1.0), jnp.asarray(2.0))))
    (x, count, _), (tangents, *whole) = pushed(STARTS)
    np.testing.assert_array_equal(x, STARTS / 2.0 ** np.array(OWN))
    np.testing.assert_allclose(tangents, (1 + 2 * np.asarray(STARTS)) / 2.0 ** np.array(OWN), rtol=1e-15)
    assert count.tolist() == OWN
    assert all(leaf.dtype == jax.dtypes.float0 for leaf in whole)


def test_several_tangents_share_one_evaluation():
    def halved(x):
        return in_lockstep(halvings)(x[0] * x[1], jnp.asarray(1.0))[0]

    jacobian = jax.vmap(jax.jacfwd(halved))(jnp.stack([STARTS, jnp.full(4, 1.0)], axis=1))
    expected = np.stack([np.ones(4), STARTS], axis=1) / 2.0 ** np.array(OWN)[:, None]
    np.testing.assert_allclose(jacobian, expected, rtol=1e-15)


# Lanes of several chains along one axis

MATRIX = jnp.arange(12.0).reshape(4, 3) / 10
CHAINS = jnp.linspace(-1, 1, 2 * 5 * 3).reshape(2, 5, 3)


def images(states, shift=0.0):
    return side_by_side(lambda state: (MATRIX @ state + shift, jnp.int32(2)))(states)


def test_lanes_of_chains_lie_along_one_axis():
    programme = jax.make_jaxpr(jax.vmap(images))(CHAINS)
    products = [line for line in str(programme).splitlines() if "dot_general" in line]
    assert len(products) == 1
    assert "[4,10]" in products[0] or "[10,4]" in products[0]
    found, twos = jax.vmap(images)(CHAINS)
    np.testing.assert_allclose(found, np.asarray(CHAINS) @ np.asarray(MATRIX).T, atol=1e-15)
    assert twos.tolist() == [5 * [2]] * 2


def test_what_lanes_close_over_may_differ_from_chain_to_chain():
    shifts = jnp.array([10.0, 20.0])
    expected = np.asarray(CHAINS) @ np.asarray(MATRIX).T
    found, _ = jax.jit(jax.vmap(images))(CHAINS, shifts)
    np.testing.assert_allclose(found, expected + np.asarray(shifts)[:, None, None], atol=1e-14)
    # Three axes: of shifts alone, of both, and of lanes.
    found, _ = jax.vmap(jax.vmap(images), in_axes=(None, 0))(CHAINS, jnp.stack([shifts, -shifts]))
    for sign, result in zip((1, -1), found, strict=True):
        np.testing.assert_allclose(result, expected + sign * np.asarray(shifts)[:, None, None], atol=1e-14)
    found, _ = jax.vmap(jax.vmap(images, in_axes=(0, None)), in_axes=(0, None))(
        jnp.stack([CHAINS, 2 * CHAINS]), shifts[0]
    )
    np.testing.assert_allclose(found, np.stack([expected, 2 * expected]) + 10, atol=1e-14)


def test_lanes_of_one_chain_under_chains_of_closures_only():
    found, _ = jax.vmap(lambda shift: images(CHAINS[0], shift))(jnp.array([1.0, 2.0]))
    expected = np.asarray(CHAINS[0]) @ np.asarray(MATRIX).T
    np.testing.assert_allclose(found, np.stack([expected + 1, expected + 2]), atol=1e-14)


def test_keys_and_pytrees_go_along():
    keys = jax.random.split(jax.random.key(0), (2, 5))

    def drawn(chain_keys, states):
        return side_by_side(lambda lane: {"x": lane["x"] + jax.random.normal(lane["key"], (3,)), "key": lane["key"]})(
            {"key": chain_keys, "x": states}
        )

    found = jax.vmap(drawn)(keys, CHAINS)
    expected = CHAINS + jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (3,))))(keys)
    np.testing.assert_array_equal(found["x"], expected)
    np.testing.assert_array_equal(jax.random.key_data(found["key"]), jax.random.key_data(keys))


@pytest.mark.parametrize("tile", [1, 3, 4, 10, 11])
def test_tiles_change_nothing(tile):
    shifts = jnp.array([10.0, 20.0])

    def shifted(states, shift):
        return side_by_side(lambda state: MATRIX @ state + shift, tile)(states)

    expected = np.asarray(CHAINS) @ np.asarray(MATRIX).T + np.asarray(shifts)[:, None, None]
    np.testing.assert_allclose(jax.jit(jax.vmap(shifted))(CHAINS, shifts), expected, atol=1e-14)
    np.testing.assert_allclose(jax.jit(shifted)(CHAINS[1], shifts[1]), expected[1], atol=1e-14)
    tiled = jax.jit(shifted).lower(CHAINS[1], shifts[1]).as_text()
    assert ("stablehlo.while" in tiled) == (tile < 5)


def test_lanes_side_by_side_are_in_lockstep():
    def counted(starts):
        return side_by_side(lambda x: in_lockstep(halvings)(x, jnp.asarray(1.0)))(starts)

    _, own, rounds = jax.vmap(counted)(STARTS.reshape(2, 2))
    assert (own.ravel().tolist(), rounds.ravel().tolist()) == (OWN, 4 * [7])
