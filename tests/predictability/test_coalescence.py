"""Meeting times of paths that share their randomness, against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import delay_line, diagonal_step, fade, noise, walk_step
from refusals import refuses

from parsample import coalescence_times

INPUTS = noise(12)


@pytest.mark.parametrize("apart", [1.0, 1e-3, 100.0])
@pytest.mark.parametrize("factor", [0.5, -0.9])
def test_a_linear_contraction_meets_after_the_steps_of_its_formula(factor, apart):
    starts = jnp.array([[0.0], [apart]])
    tolerance = 1e-6
    result = coalescence_times(
        lambda s, u: factor * s + u, starts, noise(400), scale=jnp.ones(1), atol=tolerance, rtol=0.0
    )
    steps = np.ceil(np.log(tolerance / apart) / np.log(abs(factor)))
    assert result.times.tolist() == [steps]
    expected = apart * np.abs(factor) ** np.arange(1, 51)
    np.testing.assert_allclose(result.distances[:50, 0], expected, rtol=1e-4, atol=1e-14)


def test_a_delay_line_meets_exactly_when_it_is_full():
    chain = delay_line(7, 50)
    starts = jnp.stack([chain.initial_state, jnp.zeros(7), -jnp.ones(7)])
    result = coalescence_times(chain.step, starts, chain.inputs, atol=0.0, rtol=0.0)
    assert result.times.tolist() == [7.0, 7.0]
    assert (result.distances[6:] == 0).all()
    assert (result.distances[:6] > 0).all()


@pytest.mark.parametrize("step", [lambda s, u: 1.1 * s + u, walk_step], ids=["expanding", "walk"])
def test_paths_that_do_not_approach_never_meet(step):
    result = coalescence_times(step, jnp.array([[0.0], [1.0], [0.0]]), noise(200))
    assert result.times.tolist() == [np.inf, 1.0]


def test_a_path_that_leaves_again_has_not_met():
    # Together at step 3 only; apart before and after.
    def step(state: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(t == 2, state * 1e-30, jnp.where(t == 3, state * 1e30, state))

    result = coalescence_times(step, jnp.array([0.0, 1.0]), jnp.arange(10), scale=jnp.array(1.0))
    assert result.times.tolist() == [np.inf]
    assert float(result.distances[2, 0]) < 1e-29


def test_distances_are_in_units_of_the_scale():
    starts = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    result = coalescence_times(diagonal_step, starts, noise(5, 3), scale=jnp.array([10.0, 1.0, 1.0]))
    np.testing.assert_allclose(result.distances[:, 0], 0.1 * 0.9 ** np.arange(1, 6), rtol=1e-10)


@pytest.mark.usefixtures("as_users_have_it")
def test_meeting_takes_two():
    with refuses(ValueError, "initial_states", "at least 2 starts", "(1,)"):
        coalescence_times(fade, jnp.zeros(1), INPUTS)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"scale": -1.0}, ValueError, "scale must be positive and finite; got -1.0"),
        ({"scale": jnp.ones(3)}, ValueError, "scale has shapes (3,); it must have those of one state, ()"),
        ({"scale": "x"}, TypeError, "scale must hold numbers; got 'x'"),
        ({"atol": "x"}, ValueError, "atol must be a number of at least 0; got 'x'"),
        ({"rtol": -1.0}, ValueError, "rtol must be a number of at least 0; got -1.0"),
    ],
    ids=str,
)
def test_settings_of_coalescence_times(settings, error, words):
    with refuses(error, words):
        coalescence_times(fade, jnp.zeros(2), INPUTS, **settings)
