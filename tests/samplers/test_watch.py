"""What is remembered of the steps depends neither on where segments end nor on their number."""

import numpy as np
import pytest

from parsample.kernels.base import Statistics
from parsample.samplers import watch as module
from parsample.samplers.watch import Watch


def statistics(num_steps: int, first: int = 0) -> Statistics:
    """Made-up statistics of two chains."""
    t = np.arange(first, first + num_steps) + np.zeros((2, 1))
    energy = 100 + np.sin(t) + np.array([[0.0], [5.0]])
    return Statistics(-energy, 0.5 + 0 * t, t % 10 == 3, (t % 7 == 0) * 1023, energy, 0 * t, 0 * t)


def watched(sizes: list[int]) -> Watch:
    path = np.arange(2 * sum(sizes) * 3.0).reshape(2, -1, 3)
    watch, first = Watch(2, 3), 0
    for size in sizes:
        watch.add(path[:, first : first + size], statistics(size, first))
        first += size
    return watch


@pytest.mark.parametrize("sizes", [[5000], [1, 2, 4997], [16] * 100 + [3400], [2500, 2500]])
def test_segments_of_any_size_give_the_same(sizes):
    found, expected = watched(sizes), watched([1000] * 5)
    assert found.stride == expected.stride == 8
    np.testing.assert_array_equal(found.thinned, expected.thinned)
    assert found.thinned.shape == (2, 625, 3)
    assert found.batch_size == expected.batch_size == 8
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-12)
    path = np.arange(2 * 5000 * 3.0).reshape(2, -1, 3)
    np.testing.assert_array_equal(found.thinned, path[:, 7::8])
    np.testing.assert_allclose(found.means, path.reshape(2, 625, 8, 3).mean(2), rtol=1e-12)
    np.testing.assert_allclose(np.stack(found.totals), np.stack(expected.totals), rtol=1e-12)


def test_totals_are_those_of_all_steps():
    totals, expected = watched([300, 700]).totals, statistics(1000)
    assert totals.steps.tolist() == [1000, 1000]
    np.testing.assert_array_equal(totals.diverging, expected.diverging.sum(1))
    np.testing.assert_array_equal(totals.longest, (expected.n_steps == 1023).sum(1))
    np.testing.assert_allclose(totals.energy_changes, np.square(np.diff(expected.energy, axis=1)).sum(1))
    variances = totals.energy_squares / 1000 - (totals.energy / 1000) ** 2
    np.testing.assert_allclose(variances, expected.energy.var(1))
    np.testing.assert_array_equal(totals.max_lp, np.abs(expected.lp).max(1))


def test_memory_is_bounded_in_any_dimension(monkeypatch):
    monkeypatch.setattr(module, "MAX_THINNED_BYTES", 8 * 2 * 3 * 100)
    watch = watched([500] * 4)
    assert watch.thinned.shape[1] < 100
    assert watch.stride * watch.thinned.shape[1] <= 2000 < watch.stride * (watch.thinned.shape[1] + 1)


def test_a_watch_goes_on_from_its_arrays():
    watch, path = watched([1701]), np.ones((2, 100, 3))
    again = Watch(2, 3)
    again.restore(watch.as_arrays())
    for each in (watch, again):
        each.add(path, statistics(100, 1701))
    np.testing.assert_array_equal(again.thinned, watch.thinned)
    np.testing.assert_array_equal(again.means, watch.means)
    np.testing.assert_array_equal(np.stack(again.totals), np.stack(watch.totals))
