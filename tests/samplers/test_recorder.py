"""Which steps are kept, of segments of any sizes, and what is counted and summed."""

import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from results import PARAMETERS
from small import MODEL

from parsample import Moments, Status, StopAt
from parsample.kernels import KERNELS
from parsample.kernels.base import Statistics
from parsample.lanes.segments import Segment
from parsample.samplers.kept import Kept
from parsample.samplers.recorder import POSITION, Recorder
from parsample.samplers.settings import SamplerSettings

# Segments that end at these steps; some hold no step that is kept.
SIZES = [(40,), (1, 2, 3, 20, 21, 40), tuple(range(1, 41)), (16, 32, 48)]


def steps(first: int, end: int) -> np.ndarray:
    """Numbers of steps, counted from 1, of two chains: those of the second are 1000 more."""
    return np.arange(first + 1, end + 1) + 1000 * np.arange(2)[:, None]


def segment(first: int, end: int) -> Segment:
    numbers = steps(first, end)
    path = numbers[..., None] * np.array([1.0, -1.0, 0.5])
    floats, zeros = numbers.astype(float), np.zeros(numbers.shape)
    outputs = Statistics(floats, zeros, numbers % 4 == 0, numbers.astype(np.int32), -floats, zeros.astype(int), zeros)
    status = Status.SEQUENTIAL
    return Segment(first, end - first, path, outputs, None, status, 0.0, 1, 0, np.zeros((0, 1)), end - first)


def recorder(num_samples: int, thin: int = 1, **arguments: Any) -> Recorder:
    settings = SamplerSettings.of(num_samples=num_samples, num_chains=2, num_lanes=8, thin=thin)
    return Recorder(Kept.of(MODEL, jnp.zeros(3), KERNELS["hmc"], **arguments), settings, PARAMETERS)


def added(made: Recorder, ends: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Add segments; returns what is for the disk."""
    found = [made.add(segment(first, end)) for first, end in itertools.pairwise((0, *ends))]
    found = [each for each in found if each]  # some segments have no step that is kept
    return {name: np.concatenate([each[name] for each in found], axis=1) for name in (found or [{}])[0]}


@pytest.mark.parametrize("ends", SIZES)
@pytest.mark.parametrize("thin", [1, 3, 7])
def test_every_thin_th_step_is_kept(tmp_path, ends, thin):
    num_samples = 36 // thin
    expected = steps(0, 40)[:, thin - 1 :: thin][:, :num_samples]
    made = recorder(num_samples, thin)
    assert added(made, ends) == {}
    made.close()
    np.testing.assert_array_equal(made.memory.arrays[POSITION][..., 0], expected)
    np.testing.assert_array_equal(made.memory.arrays["lp"], expected)
    # Divergences are counted in all steps up to the last draw.
    assert made.watch.totals.diverging.tolist() == [num_samples * thin // 4] * 2
    assert (made.num_draws, len(made.segments)) == (num_samples, len(ends))
    assert {each.path.shape for each in made.segments} == {(2, 0, 3)}

    on_disk = added(recorder(num_samples, thin, out=Path(tmp_path, "a.zarr"), statistics=["lp"]), ends)
    assert set(on_disk) == {
        *(f"posterior/{name}" for name in ("x", "total", "is_positive")),
        "sample_stats/lp",
        "sample_stats/step_size",
    }
    np.testing.assert_array_equal(on_disk["posterior/total"], expected / 2)
    np.testing.assert_array_equal(on_disk["sample_stats/lp"], expected)
    assert set(on_disk["sample_stats/step_size"].ravel()) == {np.float32(0.5)}


def test_steps_beyond_the_last_draw_are_the_first_of_a_longer_run():
    short = recorder(11, 3)
    added(short, (16, 40))
    assert short.tail[0].shape == (2, 7, 3)
    longer = recorder(20, 3, statistics=["lp"], keep=["total"])
    longer.tail, longer.num_draws = short.tail, short.num_draws
    longer.memory.put(0, {"total": steps(0, 33)[:, 2::3] / 2, "lp": steps(0, 33)[:, 2::3].astype(float)})
    longer.add_tail(40)
    assert (longer.tail, longer.num_draws) == (None, 13)
    longer.add(segment(40, 64))
    longer.close()
    np.testing.assert_array_equal(longer.memory.arrays["lp"], steps(0, 60)[:, 2::3])
    np.testing.assert_array_equal(longer.memory.arrays["total"], steps(0, 60)[:, 2::3] / 2)
    assert longer.tail[0].shape == (2, 4, 3)
    assert recorder(5).add_tail(0) == {}


def test_a_tail_may_be_longer_than_the_run_that_follows():
    made = recorder(10)
    made.add(segment(0, 40))
    longer = recorder(20)
    longer.tail, longer.num_draws = made.tail, 10
    longer.add_tail(40)
    assert (longer.num_draws, longer.tail[0].shape) == (20, (2, 20, 3))
    np.testing.assert_array_equal(longer.tail[0][..., 0], steps(20, 40))


@pytest.mark.parametrize("out", [None, "a.zarr"])
@pytest.mark.parametrize("ends", SIZES)
def test_summaries_are_of_all_steps_up_to_the_last_draw(tmp_path, out, ends):
    made = recorder(5, 7, reduce=Moments(), out=out and tmp_path / out)
    on_disk = added(made, ends)
    every = steps(0, 35)
    np.testing.assert_allclose(made.reductions.results()["total"]["mean"], every.mean() / 2, rtol=1e-12)
    np.testing.assert_allclose(made.reductions.results()["x"]["sd"][1], every.std(ddof=1), rtol=1e-12)
    assert made.memory is None
    assert made.num_draws == 5
    if out is not None:
        np.testing.assert_array_equal(on_disk["posterior/total"], every[:, 6::7] / 2)


def test_fewer_draws_leave_less_in_memory():
    made = recorder(1000, keep=["total"])
    made.add(segment(0, 16))
    made.close()
    assert {values.shape[1] for values in made.memory.arrays.values()} == {16}


def test_stops_are_decided_by_the_draws_that_are_kept():
    made = recorder(1000, 4, stop_at=StopAt(mcse={"total": 1e9}))
    made.add(segment(0, 396))
    assert not made.is_met  # 99 draws are too few
    made.add(segment(396, 500))
    assert made.is_met
    assert made.num_draws == 100
    assert made.watch.totals.steps.tolist() == [400, 400]
    np.testing.assert_array_equal(made.tail[0][..., 0], steps(400, 500))
    assert not recorder(1000).is_met


def test_the_warm_up_has_the_axes_of_draws():
    made = recorder(5, statistics=["lp"])
    path = np.arange(24.0).reshape(4, 2, 3)
    lp = np.arange(8.0).reshape(4, 2)
    found = made.warmup((path, Statistics(*[lp] * 2, lp > 0, lp.astype(int), lp, lp.astype(int), lp)))
    np.testing.assert_array_equal(found["positions"], np.swapaxes(path, 0, 1))
    assert list(found["sample_stats"]) == ["lp"]
    np.testing.assert_array_equal(found["sample_stats"]["lp"], lp.T)
    assert made.warmup(None) is None
