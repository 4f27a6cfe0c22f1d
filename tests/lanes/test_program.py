"""The compiled program: CPU threads share its lanes without changing the results."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import gaussian, gaussian_start

from parsample import Status, check_sampler, clear_caches, sample
from parsample.lanes.dynamics import LaneDynamics
from parsample.lanes.program import (
    MIN_LANES_PER_THREAD,
    LaneProgram,
    Rows,
    default_num_threads,
)

KEY = jax.random.key(0)
SIZES: dict[str, Any] = {"num_samples": 1000, "num_chains": 2, "progress_bar": False}


@dataclass(frozen=True)
class Halving(LaneDynamics):
    """Lanes of one coordinate, halved in every row and recorded."""

    name: str

    def step(self, parameters: Any, inputs: Any, state: jax.Array, row: Any, needs_evaluation: Any) -> tuple:
        del parameters, inputs, row, needs_evaluation
        return state / 2, state / 2, ()

    def met(self, parameters: Any, atol: Any, new: tuple, old: tuple) -> tuple:
        del parameters
        distance = abs(new[0] - old[0]).max(-1)
        return distance, distance <= atol


def halving(name: str) -> LaneProgram:
    return LaneProgram(Halving(name), 2, None, (jax.ShapeDtypeStruct((1,), float), ()))


def with_threads(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("parsample.lanes.program.default_num_threads", lambda _: number)


@pytest.mark.parametrize("method", ["auto", "sequential"])
def test_threads_change_nothing_but_the_time(monkeypatch, method):
    results = []
    for number in (1, 2, 3):  # three do not divide the lanes: idle lanes are added
        with_threads(monkeypatch, number)
        results.append(sample(KEY, gaussian, gaussian_start(), method=method, **SIZES))
    for result in results:
        assert (result.status, result.defect) == (results[0].status, 0)
        assert result.status in (Status.CONVERGED, Status.SEQUENTIAL)
        np.testing.assert_allclose(result.positions["x"], results[0].positions["x"], atol=1e-8)


def test_each_thread_evaluates_rows_only_while_its_lanes_are_running(monkeypatch):
    with_threads(monkeypatch, 2)
    program, states, rows = halving("c"), np.ones((2, 1)), Rows(2, 5, False, False, 0.0)
    everywhere = program.advance(None, np.zeros(2), states, rows)
    assert (everywhere.ends.tolist(), everywhere.state.tolist()) == ([5, 5], [[0.125], [0.125]])
    assert program.path(0, 6)[..., 0].tolist() == [[0, 0], [0, 0], [0.5, 0.5], [0.25, 0.25], [0.125, 0.125], [0, 0]]
    second = program.advance(None, np.zeros(2), 8 * states, rows, np.array([False, True]))
    assert (second.ends.tolist(), second.state.tolist()) == ([5, 5], [[8], [1]])
    assert program.path(2, 5)[..., 0].tolist() == [[0.5, 4], [0.25, 2], [0.125, 1]]


def test_lanes_that_wait_for_another_thread_have_met(monkeypatch):
    times = []
    for number in (1, 4):
        with_threads(monkeypatch, number)
        times.append(check_sampler(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2).coalescence)
    # A thread compares its lanes until the last of them has met, so that it finds the meeting times of all.
    np.testing.assert_array_equal(times[0], times[1])


def test_threads_compute_in_the_precision_of_their_caller(monkeypatch, float32):
    with_threads(monkeypatch, 2)
    with jax.enable_x64(True):
        result = sample(KEY, gaussian, gaussian_start(), **SIZES)
    assert result.positions["x"].dtype == np.float64
    assert (result.status, result.defect) == (Status.CONVERGED, 0)


def test_what_calls_back_to_python_is_called_for_all_lanes_at_once(monkeypatch):
    with_threads(monkeypatch, 2)
    shapes = set()

    def simulator(x: np.ndarray) -> np.ndarray:
        shapes.add(np.shape(x))
        return np.asarray(-0.5 * np.sum(np.square(x), axis=-1), np.asarray(x).dtype)

    def black_box(x: jax.Array) -> jax.Array:
        return jax.pure_callback(simulator, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")

    result = sample(KEY, black_box, jnp.zeros(2), num_samples=100, kernel="metropolis", num_lanes=8, progress_bar=False)
    assert result.status in (Status.CONVERGED, Status.SEQUENTIAL)
    assert (8, 2) in shapes
    assert (4, 2) not in shapes or result.status is Status.SEQUENTIAL  # one lane for each of four chains


def test_there_are_no_more_threads_than_cores_or_than_lanes_keep_busy(monkeypatch):
    monkeypatch.setattr("parsample.lanes.program.num_cores", lambda: 6)
    assert [default_num_threads(number) for number in (1, 4, MIN_LANES_PER_THREAD, 64, 512)] == [1, 1, 1, 4, 6]
    with jax.disable_jit():
        assert default_num_threads(512) == 1


def test_an_equal_program_knows_how_long_the_first_call_took():
    states, rows = np.ones((2, 1)), Rows(0, 4, False, False, 0.0)
    first, second = halving("b"), halving("b")
    assert np.isnan([first.seconds_to_compile, second.seconds_to_compile]).all()
    first.advance(None, np.zeros(2), states, rows)
    seconds = first.seconds_to_compile
    assert second.seconds_to_compile == seconds > 0
    clear_caches()
    assert first.seconds_to_compile == seconds
    assert np.isnan(halving("b").seconds_to_compile)
