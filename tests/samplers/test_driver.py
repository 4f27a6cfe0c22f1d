"""Chains evaluated segment by segment: consecutive, as long as asked for, and the same however they are evaluated."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from small import SIZES, bell

from parsample import Model, Status
from parsample.lanes.segments import Segment
from parsample.samplers.driver import Driver
from parsample.samplers.prepare import Prepared, prepare
from parsample.samplers.progress_bar import Progress
from parsample.samplers.schedule import Schedule
from parsample.samplers.settings import SamplerSettings


@functools.cache
def prepared() -> Prepared:
    """Chains of 300 steps, on four lanes each."""
    names = ("num_warmup", "num_chains", "num_lanes", "method")
    settings = SamplerSettings.of(num_samples=300, **{name: SIZES[name] for name in names})
    return prepare(jax.random.key(0), Model(bell, np.zeros(3)), settings, Progress(0, is_shown=False))


def segments(schedule: Schedule) -> list[Segment]:
    """All segments of a run."""
    driver, found = Driver(dataclasses.replace(prepared(), schedule=schedule), Progress(0, is_shown=False)), []
    while driver.num_steps_done < 300:
        found.append(driver.next_segment())
        assert driver.num_steps_done == found[-1].first + found[-1].num_steps
    return found


def path(found: list[Segment]) -> np.ndarray:
    assert [each.first for each in found[1:]] == [each.first + each.num_steps for each in found[:-1]]
    return np.concatenate([each.path for each in found], axis=1)[:, :300]


STEP_BY_STEP = Schedule(in_blocks=False, block_size=16, max_steps=2048, max_rows=np.inf)


@pytest.mark.parametrize("block_size", [16, 32])
def test_blocks_give_the_path_of_single_steps(block_size):
    found = segments(Schedule(True, block_size, 2048, np.inf))
    assert [each.num_steps for each in found] == [4 * block_size] * -(-300 // (4 * block_size))
    assert {each.status for each in found} == {Status.CONVERGED}
    np.testing.assert_allclose(path(found), path(segments(STEP_BY_STEP)), rtol=0, atol=1e-12)


def test_a_segment_that_is_given_up_is_the_last_one_in_blocks(monkeypatch):
    phases: list[str] = []
    monkeypatch.setattr(Progress, "phase", lambda _, text: phases.append(text))
    found = segments(Schedule(True, 16, 2048, 0.0))
    assert [each.status for each in found[:2]] == [Status.STALLED, Status.SEQUENTIAL]
    assert {each.status for each in found[1:]} == {Status.SEQUENTIAL}
    assert phases == ["sampling in blocks", "sampling step by step"]
    np.testing.assert_allclose(path(found), path(segments(STEP_BY_STEP)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("max_steps", "sizes"), [(2048, [304]), (128, [128, 128, 48])])
def test_single_steps_end_with_the_period_of_the_last_draw(max_steps, sizes):
    schedule = dataclasses.replace(STEP_BY_STEP, max_steps=max_steps)
    assert [each.num_steps for each in segments(schedule)] == sizes


def test_a_driver_leaves_what_was_prepared():
    before: Any = prepared().run
    segments(STEP_BY_STEP)
    assert prepared().run is before
    assert before.num_steps_done == 0
