"""Lanes at their starts: one per chain or all around one, each checked and named if it is bad."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import black_box
from small import SIZES, bell

from parsample import Model, ParallelStallWarning
from parsample.samplers.placement import place_lanes
from parsample.samplers.settings import SamplerSettings

STARTS = np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])


def half(x: jax.Array) -> jax.Array:
    """A Gaussian log density of what is above -1, minus infinity elsewhere."""
    return jnp.where(x.min() > -1, bell(x), -jnp.inf)


def placed(density: Any, starts: np.ndarray, **changes: Any) -> Any:
    settings = SamplerSettings.of(num_samples=60, **{"num_chains": 2, "num_lanes": SIZES["num_lanes"], **changes})
    model = Model(density, jnp.asarray(starts[0]))
    return place_lanes(model, starts, settings, np.random.default_rng(0))


def test_chains_start_at_their_starts_and_the_other_lanes_around_them():
    ensemble, settings, _ = placed(bell, STARTS)
    assert settings.num_lanes == 8
    np.testing.assert_array_equal(ensemble.positions[:2], STARTS)
    distances = np.abs(ensemble.positions - STARTS[np.arange(8) % 2]).max(1)
    assert (distances[2:] > 0).all()
    assert (distances <= 1).all()


def test_one_start_is_that_of_all_lanes():
    ensemble, _, _ = placed(bell, STARTS[1:])
    np.testing.assert_array_equal(ensemble.positions[0], STARTS[1])
    assert np.abs(ensemble.positions - STARTS[1]).max() <= 1


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        (STARTS - [[0], [9]], "logdensity_fn is -inf at initial_position of chain 1; start where it is finite"),
        (STARTS - [[9], [0]], "logdensity_fn is -inf at initial_position of chain 0; start"),
        (STARTS[:1] - 9, "logdensity_fn is -inf at initial_position; start"),
    ],
)
def test_a_bad_start_is_named(starts, words):
    with pytest.raises(ValueError, match=words):
        placed(half, starts)


def test_expensive_log_densities_have_fewer_lanes_unless_the_user_named_a_number(monkeypatch):
    monkeypatch.setattr("parsample.samplers.placement.EXPENSIVE_ROW_SECONDS", 0.0)
    monkeypatch.setattr("parsample.samplers.placement.MAX_LANE_COST_RATIO", np.inf)
    monkeypatch.setattr("parsample.samplers.placement.FEW_LANES", 4)
    monkeypatch.setattr("parsample.samplers.settings.default_num_lanes", lambda: 8)
    ensemble, settings, share = placed(bell, STARTS, num_lanes=None)
    assert (settings.num_lanes, ensemble.program.num_lanes) == (4, 4)
    np.testing.assert_array_equal(ensemble.positions[:2], STARTS)
    assert 0 <= share <= 1
    assert placed(bell, STARTS)[1].num_lanes == 8


def test_black_boxes_are_evaluated_one_after_another_and_need_no_gradient():
    def alone(x: jax.Array) -> jax.Array:
        return black_box(x, None)

    with pytest.warns(ParallelStallWarning, match="calls back to Python"):
        ensemble, settings, _ = placed(alone, STARTS, kernel="metropolis")
    assert settings.method == "sequential"
    np.testing.assert_array_equal(ensemble.positions[:2], STARTS)
    with pytest.raises(ValueError, match="has no gradient at initial_position"):
        placed(alone, STARTS)
