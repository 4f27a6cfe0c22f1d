"""What a step costs: timings that no noise of a programme's start touches."""

import blackjax
import jax
import jax.numpy as jnp
import pytest
from chains import gaussian, gaussian_start

from parsample import costs
from parsample.costs import LONGEST, MAX_ROUNDS, SECONDS_TO_SHARE, SHORTEST, StepCosts, measure_costs
from parsample.grid import mesh_of
from parsample.run import state_and_info
from parsample.transition import AlgorithmDynamics, begin


def test_costs_are_interpolated_in_logarithms_and_proportional_beyond():
    measured = StepCosts((1, 100), (1e-6, 1e-5))
    assert measured(1) == pytest.approx(1e-6)
    assert measured(10) == pytest.approx(10**-5.5)
    assert measured(300) == pytest.approx(3e-5)


class Machine:
    """A device whose programmes take `start` seconds to start and `per_round` seconds a round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: float, per_round: float, hiccups: tuple = ()) -> None:
        self.rounds: list[int] = []
        hiccup = iter(hiccups)

        def duration(_run, rounds: int) -> float:
            self.rounds.append(rounds)
            return start + per_round * rounds + next(hiccup, 0.0)

        monkeypatch.setattr(costs, "_duration_of", duration)


@pytest.mark.parametrize("per_round", [1e-6, 1e-5, 1e-3, 3e-3])
def test_short_rounds_are_repeated_until_their_start_does_not_count(monkeypatch, per_round):
    machine = Machine(monkeypatch, 2e-4, per_round)
    assert costs._seconds(lambda _: jnp.zeros(1), SHORTEST) == pytest.approx(per_round, rel=0.2)
    assert max(machine.rounds) <= 4 * MAX_ROUNDS


def test_a_long_round_is_its_own_measure(monkeypatch):
    machine = Machine(monkeypatch, 0.0, 2 * LONGEST)
    assert costs._seconds(lambda _: jnp.zeros(1), SHORTEST) == 2 * LONGEST
    assert set(machine.rounds) == {1}


def test_one_hiccup_does_not_count(monkeypatch):
    # The first of two single rounds, and the first of two long runs, are held up.
    Machine(monkeypatch, 1e-4, 1e-4, hiccups=(5e-3, 0, 5e-3, 0))
    assert costs._seconds(lambda _: jnp.zeros(1), SHORTEST) == pytest.approx(1e-4, rel=0.05)


def test_a_short_run_is_left_to_the_first_device(monkeypatch):
    algorithm = blackjax.mala(gaussian, 0.1)
    dynamics = AlgorithmDynamics(algorithm, state_and_info)
    _, state, start = begin(dynamics, jax.random.key(0), gaussian_start())
    mesh = mesh_of(jax.devices()[:2])

    def measured(per_round: float) -> StepCosts:
        Machine(monkeypatch, 0.0, per_round)
        return measure_costs(dynamics, state, start, 1000, 1, 1e9, mesh)

    assert measured(0.1 * SECONDS_TO_SHARE * 8 / 1000).mesh is None
    shared = measured(10 * SECONDS_TO_SHARE * 8 / 1000)
    assert shared.mesh is mesh
    assert shared.lanes[:2] == (1, 32)
    assert len(shared.lanes) == len(shared.seconds)
