"""Windows: draws do not depend on them, memory does, and an interrupt keeps what is finished."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import gaussian, gaussian_start
from mapped import lies_in_a_file

from parsample import DEER, Dense, ParallelStallWarning, Status, Zero
from parsample.check import Report
from parsample.costs import StepCosts
from parsample.kernels import Draw
from parsample.plan import Plan, sequential_plan
from parsample.sampling import SampleResult, sample
from parsample.store import Store
from parsample.windows import MAX_WINDOW_BYTES, WINDOW_SECONDS, WindowRecord, _window_shape, draws_of

BLOCKS = DEER(block_size=256, linearization=Zero())
SMALL = 2**15  # bytes: 1000 draws of two chains, 88 bytes each, need six windows


@functools.cache
def run(kernel: str, method: Any) -> SampleResult:
    return run_anew(kernel, method)


def run_anew(kernel: str, method: Any, **more: Any) -> SampleResult:
    kwargs = {"num_samples": 1000, "num_warmup": 300, "num_chains": 2, "progress_bar": False, **more}
    return sample(jax.random.key(0), gaussian, gaussian_start(), kernel=kernel, method=method, **kwargs)


@pytest.mark.parametrize(
    ("kernel", "method", "num_windows"),
    [
        ("hmc", "sequential", 6),  # 1000 / 6, in whole periods: 176
        ("hmc", BLOCKS, 4),  # one block each
        pytest.param("mala", BLOCKS, 4, marks=pytest.mark.slow),
        pytest.param("nuts", BLOCKS, 4, marks=pytest.mark.exhaustive),
    ],
)
def test_draws_do_not_depend_on_windows(monkeypatch, kernel, method, num_windows):
    expected = run(kernel, "sequential")
    monkeypatch.setattr("parsample.windows.MAX_WINDOW_BYTES", SMALL)
    result = run_anew(kernel, method)
    assert (len(result.windows), len(expected.windows)) == (num_windows, 1)
    assert result.status is (Status.SEQUENTIAL if method == "sequential" else Status.CONVERGED)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-8), result.positions, expected.positions)
    np.testing.assert_array_equal(result.sample_stats["diverging"], expected.sample_stats["diverging"])
    np.testing.assert_allclose(result.sample_stats["lp"], expected.sample_stats["lp"], atol=1e-7)


@pytest.mark.slow
def test_what_follows_a_window_that_stalled_on_two_devices_is_evaluated_step_by_step(monkeypatch):
    monkeypatch.setattr("parsample.windows.MAX_WINDOW_BYTES", SMALL)
    with pytest.warns(ParallelStallWarning):
        result = run_anew("hmc", DEER(64, Zero(), stall_after=1), devices=jax.devices()[:2])
    assert [window.status.max() for window in result.windows] == [Status.STALLED] + 3 * [Status.SEQUENTIAL]
    expected = run("hmc", "sequential")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-8), result.positions, expected.positions)


@pytest.mark.parametrize("method", ["sequential", BLOCKS], ids=str)
def test_a_run_that_is_repeated_compiles_nothing(compilations, method):
    run_anew("hmc", method)
    compilations.clear()
    run_anew("hmc", method)
    assert compilations == []


def test_draws_do_not_depend_on_where_they_lie(monkeypatch, tmp_path):
    monkeypatch.setattr("parsample.windows.MAX_WINDOW_BYTES", SMALL)
    in_memory = run_anew("hmc", BLOCKS)
    monkeypatch.setattr("parsample.store.MAX_BYTES_IN_MEMORY", 0)
    in_files = run_anew("hmc", BLOCKS, scratch_dir=str(tmp_path))
    assert (in_files.status, len(in_files.windows)) == (Status.CONVERGED, 4)
    assert (in_files.scratch_dir, in_memory.scratch_dir) == (tmp_path, None)
    assert lies_in_a_file(in_files.positions["x"])
    assert not lies_in_a_file(in_memory.positions["x"])
    jax.tree.map(np.testing.assert_array_equal, in_files.positions, in_memory.positions)
    jax.tree.map(np.testing.assert_array_equal, in_files.sample_stats, in_memory.sample_stats)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C while window `number` is being stored."""
    put, calls = Store.put, iter(range(1, 100))

    def interrupted(self: Store, first: int, draws: Draw) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt
        put(self, first, draws)

    monkeypatch.setattr(Store, "put", interrupted)
    monkeypatch.setattr("parsample.windows.MAX_WINDOW_BYTES", SMALL)


@pytest.mark.parametrize("in_files", [False, True])
def test_an_interrupt_returns_the_windows_that_are_finished(monkeypatch, tmp_path, in_files):
    expected = run("hmc", "sequential")
    interrupt_at(monkeypatch, 3)
    monkeypatch.setattr("parsample.store.MAX_BYTES_IN_MEMORY", 0)
    result = run_anew("hmc", "sequential", scratch_dir=tmp_path if in_files else None)
    assert (result.interrupted, result.status, len(result.windows)) == (True, Status.SEQUENTIAL, 2)
    assert result.num_draws == 2 * 176
    for name in ("x", "y"):
        np.testing.assert_allclose(result.positions[name], expected.positions[name][:, : 2 * 176], atol=1e-8)
    assert "certified" in result.certificate
    assert not expected.interrupted


def test_an_interrupt_before_any_draws_is_the_callers(monkeypatch):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run_anew("hmc", "sequential")


def record(block_defects: np.ndarray | None, block_size: int) -> WindowRecord:
    ones = np.ones(2)
    return WindowRecord(ones, ones, ones, ones, block_defects, block_size, 0.1)


def test_draws_in_a_window():
    assert draws_of(record(None, 176)) == 176
    assert draws_of(record(np.zeros((2, 8, 5)), 32)) == 160


def in_blocks(num_steps: int, num_blocks: int, seconds: float = 0.0) -> Plan:
    settings = DEER(block_size=num_steps // num_blocks, linearization=Zero())
    return Plan(settings, settings, num_steps, 4, num_blocks, seconds, 10 * seconds, 1.0)


@pytest.mark.parametrize("period", [1, 16])
def test_a_long_run_has_windows_no_larger_than_memory_allows(monkeypatch, period):
    monkeypatch.setattr("parsample.windows.MAX_WINDOW_BYTES", 2**20)
    bytes_per_draw = 80
    for plan in (sequential_plan(1_000_000, 4), in_blocks(1_048_576, 1024)):
        num_blocks, block_size = _window_shape(plan, None, period, bytes_per_draw)
        rounding = block_size if num_blocks > 1 else period  # to whole blocks, or whole periods
        assert (num_blocks * block_size - rounding) * 4 * (bytes_per_draw + 64) <= 2**20
        assert num_blocks * block_size < plan.num_steps
        assert block_size % period == 0


def test_a_long_run_by_newtons_method_has_windows_too():
    settings = DEER(block_size=16, linearization=Dense())
    plan = Plan(settings, settings, 1_000_000, 4, 62_500, 5.0, 20.0, 8.0)
    met = Report(
        -0.3, 0.01, np.full(6, 40.0), np.ones((9, 6)), 9, plan, "", "", np.ones((6, 3)), StepCosts((4,), (1.0,))
    )
    num_blocks, block_size = _window_shape(plan, met, 16, 80)
    assert num_blocks * block_size * 4 * (80 + 64) < 1.05 * MAX_WINDOW_BYTES
    assert block_size % 16 == 0


@pytest.mark.parametrize("seconds", [16, 20, 31])
def test_a_sequential_run_that_is_timed_has_windows_of_a_second_or_two(seconds):
    # Sixteen, whatever the noise in their timing: what was compiled for one run serves the next.
    num_blocks, steps = _window_shape(sequential_plan(100_000, 4, seconds=seconds * WINDOW_SECONDS), None, 1, 80)
    assert (num_blocks, steps) == (1, 6250)


def test_a_short_run_is_one_window():
    assert _window_shape(sequential_plan(1000, 4), None, 16, 80) == (1, 1008)
    assert _window_shape(in_blocks(1024, 4), None, 16, 80) == (4, 256)
    assert jnp.isnan(sequential_plan(1000, 4).seconds)
