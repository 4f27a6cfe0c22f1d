"""The work of sweeps: every lane and tangent counts, and blocks stop once they have met."""

import jax
import numpy as np
import pytest
from chains import Recursion, contraction, delay_line
from marks import slow
from paths import T, assert_same_path

from parsample import Dense, Diagonal, Identity, Status, Zero, deer, rollout

DEVICES = jax.devices()


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


@pytest.mark.parametrize(
    ("linearization", "tangents"),
    [(Zero(), 0), (Identity(), 0), (Diagonal(), 3), (Diagonal(2), 2), (Dense(), 3)],
    ids=str,
)
def test_one_block_costs_one_evaluation_and_its_tangents(chain, truth, linearization, tangents):
    solution = deer(*chain, block_size=T, linearization=linearization)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 1)
    assert float(solution.evals_per_step) == 1 + tangents
    assert_same_path(solution.states, truth, atol=1e-14)


@pytest.mark.parametrize(("linearization", "tangents"), [(Identity(), 0), slow(Diagonal(2), 2), (Dense(), 3)], ids=str)
def test_every_sweep_counts_every_lane_and_tangent(chain, linearization, tangents):
    solution = deer(*chain, block_size=16, linearization=linearization)  # 4 blocks of 16 for 50 steps
    assert Status(int(solution.status)) is Status.CONVERGED
    assert float(solution.evals_per_step) == pytest.approx(int(solution.num_iters) * 4 * 16 * (1 + tangents) / T)


@pytest.mark.parametrize("memory", [1, 20])
def test_coalescing_blocks_run_once_and_then_until_they_have_met(memory):
    chain = delay_line(memory, 400)
    solution = deer(*chain, block_size=40, linearization=Zero())
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    assert float(solution.evals_per_step) == (40 + memory) / 40
    assert float(solution.defect) == 0.0
    np.testing.assert_array_equal(solution.states, rollout(*chain))


def test_coalescing_blocks_that_forget_within_a_block_cost_little_more_than_one():
    chain = contraction(1000)
    solution = deer(*chain, block_size=250, linearization=Zero())
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 1 < float(solution.evals_per_step) < 1.35


def test_each_device_leaves_its_blocks_as_soon_as_they_have_met():
    chain = contraction(2000)
    settings = {"block_size": 100, "linearization": Zero()}
    alone = deer(*chain, **settings)
    shared = deer(*chain, **settings, devices=DEVICES[:4])
    assert float(shared.evals_per_step) < float(alone.evals_per_step)


@pytest.mark.slow
def test_idle_lanes_hold_up_nobody():
    # Five blocks on four devices: eight lanes; the three idle ones meet at once.
    solution = deer(*contraction(2000), block_size=400, linearization=Zero(), devices=DEVICES[:4])
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 8 / 5 < float(solution.evals_per_step) < 1.2 * 8 / 5
