"""R-hat and effective sample sizes are those of ArviZ."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from parsample.draws.convergence import TAIL_QUANTILES, ess_bulk, ess_mean, ess_tail, mcse, r_hat

AXES = {"chain_axis": 0, "draw_axis": 1}


def autoregressive(correlation: float, num_chains: int = 4, num_draws: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise, path = rng.normal(size=(num_chains, num_draws, 3)), np.zeros((num_chains, num_draws, 3))
    for step in range(1, num_draws):
        path[:, step] = correlation * path[:, step - 1] + noise[:, step]
    return path


CASES = {
    "independent": autoregressive(0),
    "slow": autoregressive(0.9),
    "alternating": autoregressive(-0.5),
    "heavy tails": np.tan(autoregressive(0.3)),
    "ties": np.round(autoregressive(0.5), 1),
    "odd number": autoregressive(0.7, num_draws=777),
    "float32": autoregressive(0.7).astype(np.float32),
}


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_those_of_arviz(name):
    draws = CASES[name]
    np.testing.assert_allclose(r_hat(draws), array_stats.rhat(draws, **AXES), rtol=1e-6)
    np.testing.assert_allclose(ess_bulk(draws), array_stats.ess(draws, method="bulk", **AXES), rtol=1e-6)
    expected = array_stats.ess(draws, method="tail", prob=TAIL_QUANTILES, **AXES)
    np.testing.assert_allclose(ess_tail(draws), expected, rtol=1e-6)
    np.testing.assert_allclose(mcse(draws), array_stats.mcse(draws, method="mean", **AXES), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_means_of_batches_tell_what_all_draws_are_worth_for_means(batch_size):
    draws = autoregressive(0.8, num_draws=20_480)
    means = draws.reshape(4, -1, batch_size, 3).mean(2)
    found = ess_mean(means, draws.var((0, 1), ddof=1))
    tolerance = 1e-3 if batch_size == 1 else 0.2
    np.testing.assert_allclose(found, array_stats.ess(draws, method="mean", **AXES), rtol=tolerance)
    np.testing.assert_allclose(found, 4 * 20_480 / 9, rtol=0.25)  # the autocorrelation time is (1 + 0.8) / (1 - 0.8)


def test_chains_that_stay_apart_are_worth_little():
    draws = autoregressive(0.5) + np.arange(4)[:, None, None]
    np.testing.assert_allclose(r_hat(draws), array_stats.rhat(draws, **AXES), rtol=1e-6)
    np.testing.assert_allclose(ess_bulk(draws), array_stats.ess(draws, method="bulk", **AXES), rtol=0.02)
    assert (ess_bulk(draws) < 10).all()


def test_halves_of_a_single_chain_are_compared():
    still = autoregressive(0.5, num_chains=1)
    drifting = still + np.linspace(0, 5, 1000)[:, None]
    assert (r_hat(still) < 1.05).all()
    assert (r_hat(drifting) > 1.5).all()


def test_a_constant_coordinate_has_neither():
    draws = autoregressive(0)
    draws[..., 1] = 2.0
    assert np.isnan(r_hat(draws)[1])
    assert np.isfinite(r_hat(draws)[[0, 2]]).all()
