"""The compiled program: CPU threads share its lanes without changing the results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import gaussian, gaussian_start

from parsample import Status, check_sampler, sample
from parsample.lanes.program import MIN_LANES_PER_THREAD, default_num_threads

KEY = jax.random.key(0)
SIZES: dict[str, Any] = {"num_samples": 1000, "num_chains": 2, "progress_bar": False}


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
