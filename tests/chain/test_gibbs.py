"""Gibbs samplers as recursions, on a bivariate normal with known moments, autocorrelation and exponent."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample import Conditional, Gibbs, Status, deer, lyapunov_exponent, rollout

KEY = jax.random.key(0)
CORRELATION = 0.8
REST = np.sqrt(1 - CORRELATION**2)
START = {"a": jnp.array(3.0), "b": jnp.array(-3.0)}


def bivariate_normal() -> Gibbs:
    """A sampler with unit variances; b is updated before a, although JAX sorts dictionaries by key."""
    return Gibbs(
        {
            "b": Conditional(jax.random.normal, lambda state, z: CORRELATION * state["a"] + REST * z),
            "a": Conditional(jax.random.normal, lambda state, z: CORRELATION * state["b"] + REST * z),
        }
    )


def test_blocks_are_updated_in_the_order_given_each_from_the_newest():
    sampler = bivariate_normal()
    variates = sampler.variates(KEY, 50)
    path = rollout(sampler.step, START, variates)
    a = float(START["a"])
    for t in range(50):
        b = CORRELATION * a + REST * float(variates["b"][t])
        a = CORRELATION * b + REST * float(variates["a"][t])
        np.testing.assert_allclose([path["a"][t], path["b"][t]], [a, b], rtol=1e-12)


def test_the_chain_has_the_moments_and_the_memory_of_its_target():
    sampler, num_steps = bivariate_normal(), 40_000
    path = rollout(sampler.step, START, sampler.variates(KEY, num_steps))
    a, b = np.asarray(path["a"][100:]), np.asarray(path["b"][100:])
    # A first-order autoregression of factor 0.64: the variance of a mean grows by (1 + 0.64) / (1 - 0.64).
    error = np.sqrt((1 + CORRELATION**2) / (1 - CORRELATION**2) / num_steps)
    assert abs(a.mean()) < 4 * error
    np.testing.assert_allclose([a.var(), b.var()], 1, atol=8 * error)
    np.testing.assert_allclose(np.corrcoef(a, b)[0, 1], CORRELATION, atol=4 * error)
    np.testing.assert_allclose(np.corrcoef(a[1:], a[:-1])[0, 1], CORRELATION**2, atol=4 * error)


@pytest.mark.slow
def test_newton_solves_a_linear_sampler_in_two_sweeps_and_its_exponent_is_known():
    sampler = bivariate_normal()
    chain = (sampler.step, START, sampler.variates(KEY, 300))
    solution = deer(*chain, max_step=None, clip=None)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    expected = rollout(*chain)
    for name in ("a", "b"):
        np.testing.assert_allclose(solution.states[name], expected[name], atol=1e-9)
    found = lyapunov_exponent(*chain, num_discarded=1)
    np.testing.assert_allclose(float(found.lle), 2 * np.log(CORRELATION), rtol=1e-12)


def test_variates_are_independent_between_steps_and_blocks():
    variates = bivariate_normal().variates(KEY, 10_000)
    assert {name: leaf.shape for name, leaf in variates.items()} == {"a": (10_000,), "b": (10_000,)}
    a, b = np.asarray(variates["a"]), np.asarray(variates["b"])
    correlations = [np.corrcoef(a, b)[0, 1], np.corrcoef(a[1:], a[:-1])[0, 1], np.corrcoef(a[1:], b[:-1])[0, 1]]
    np.testing.assert_allclose(correlations, 0, atol=0.04)


def test_conditionals_are_named_conditionals(as_users_have_it):
    with pytest.raises(ValueError, match="conditionals must hold at least one Conditional"):
        Gibbs({})
    with pytest.raises(TypeError, match=re.escape("conditionals['a'] must be a Conditional; got 1.0")):
        Gibbs({"a": 1.0})
    with pytest.raises(TypeError, match="conditionals must map names to a Conditional each; got "):
        Gibbs([Conditional(jax.random.normal, lambda state, z: z)])


def test_a_state_has_the_blocks_of_the_conditionals():
    sampler = bivariate_normal()
    with pytest.raises(ValueError, match=re.escape("the state has blocks ['a']; there are conditionals of ['b', 'a']")):
        rollout(sampler.step, {"a": jnp.array(0.0)}, sampler.variates(KEY, 3))
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 1; got 0"):
        sampler.variates(KEY, 0)
