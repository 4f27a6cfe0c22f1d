"""What is wrong with draws is said in one sentence each, and nothing is said of draws that are right."""

from typing import Any

import numpy as np
import pytest
from results import ADAPTATION

from parsample.kernels import KERNELS
from parsample.kernels.base import Statistics
from parsample.samplers.diagnostics import Diagnostics, SamplingWarning, diagnose
from parsample.samplers.watch import Watch

NUM_STEPS = 400


def diagnosed(
    kernel: str = "hmc", draws: np.ndarray | None = None, adaptation: Any = ADAPTATION, **fields: Any
) -> Diagnostics:
    """Diagnostics of two chains of independent draws, but for what is given."""
    rng = np.random.default_rng(0)
    shape = (2, NUM_STEPS)
    values = {
        "lp": -1 + 0 * rng.normal(size=shape),
        "acceptance_rate": np.full(shape, 0.8),
        "diverging": np.zeros(shape, bool),
        "n_steps": np.full(shape, 5),
        "energy": rng.normal(size=shape),
        "tree_depth": np.zeros(shape, int),
        "move_acceptance": np.ones(shape),
    }
    watch = Watch(2, 3)
    watch.add(rng.normal(size=(*shape, 3)) if draws is None else draws, Statistics(**{**values, **fields}))
    return diagnose(watch, ["a", "b", "c"], KERNELS[kernel], 0.8, adaptation)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def test_nothing_is_said_of_good_draws(recwarn):
    found = diagnosed()
    found.warn()
    assert found.problems == []
    assert not recwarn.list
    assert found.r_hat < 1.02
    assert str(found).startswith("R-hat 1.0")
    assert not found.is_thinned
    np.testing.assert_allclose(found.bfmi, 2, atol=0.3)


def flagged(where: tuple) -> np.ndarray:
    flags = np.zeros((2, NUM_STEPS), bool)
    flags[where] = True
    return flags


CASES = {
    "R-hat of b is .*: chains disagree, do not use": {"draws": np.add(normal(2, 400, 3), [[[0, 0, 0]], [[0, 6, 0]]])},
    "the draws of c are worth [0-9]+ independent": {
        "draws": np.concatenate([normal(2, 400, 2), np.cumsum(normal(2, 400, 1), axis=1)], axis=2)
    },
    r"chains \[1\] never moved": {"draws": normal(2, 400, 3) * [[[1.0]], [[0.0]]]},
    "b never moved in chain 0": {"draws": normal(2, 400, 3) * [[[1, 0, 1]], [[1, 1, 1]]]},
    "some draws are not finite": {"draws": np.where(np.arange(400)[:, None] == 7, np.nan, normal(2, 400, 3))},
    "10 of 800 steps diverged, most of them in chain 1": {"diverging": flagged((1, slice(0, 10)))},
    "400 of 800 trajectories had the largest length": {"n_steps": np.add(np.full((2, 400), 5), [[0], [1018]])},
    r"the energy fraction \(BFMI\) is 0\.0": {"energy": np.cumsum(normal(2, 400), axis=1)},
    "the acceptance rate is 0.30, its target 0.80": {"acceptance_rate": np.full((2, 400), 0.3)},
    "the step size is 1e-10 posterior standard": {
        "adaptation": ADAPTATION._replace(parameters=ADAPTATION.parameters._replace(step_size=np.array(1e-10)))
    },
    r"the warm-up has not settled \(lanes disagree, R-hat 6.10\)": {
        "adaptation": ADAPTATION._replace(unsettled="lanes disagree, R-hat 6.10")
    },
}


@pytest.mark.parametrize("problem", CASES)
def test_each_problem_is_named(problem):
    found = diagnosed(**CASES[problem])
    with pytest.warns(SamplingWarning, match=f"Mistrust these draws: .*{problem}"):
        found.warn()
    assert len(found.problems) <= 2


def test_metropolis_has_neither_energies_nor_trajectories():
    found = diagnosed("metropolis", energy=np.cumsum(normal(2, 400), axis=1), n_steps=np.full((2, 400), 2000))
    assert found.problems == []
    assert np.isnan(found.bfmi).all()


def test_log_densities_too_coarse_for_acceptances_are_named():
    center = np.zeros(3, np.float32)
    single = ADAPTATION._replace(parameters=ADAPTATION.parameters._replace(center=center))
    large = np.full((2, 400), -3e6)
    assert "are rounded to multiples of 0.25" in diagnosed(lp=large, adaptation=single).problems[0]
    assert diagnosed(lp=large).problems == []


def test_few_draws_are_not_judged():
    watch = Watch(2, 3)
    found = diagnose(watch, ["a", "b", "c"], KERNELS["hmc"], 0.8, ADAPTATION)
    assert str(found).startswith("too few to judge")


def test_half_a_run_is_thinned_and_says_so():
    watch = Watch(2, 1)
    statistics = Statistics(*[np.zeros((2, 3000))] * 7)
    watch.add(normal(2, 3000, 1), statistics._replace(energy=normal(2, 3000), acceptance_rate=np.full((2, 3000), 0.8)))
    found = diagnose(watch, ["x"], KERNELS["hmc"], 0.8, ADAPTATION)
    assert found.is_thinned
    assert "(tail at least" in str(found)
    assert found.ess_mean > 2 * found.ess_tail
