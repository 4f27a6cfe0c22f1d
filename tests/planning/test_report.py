"""Text of a report: verdict, figures, and the cause and a remedy if blocks will not pay."""

import dataclasses

import checks
import numpy as np
import pytest
import results

from parsample import ParallelStallWarning, Report
from parsample.lanes.meeting import MeetingTimes
from parsample.planning.plan import Measured


@pytest.fixture(scope="module")
def predictable() -> Report:
    return checks.predictable()


@pytest.fixture(scope="module")
def unpredictable() -> Report:
    return checks.unpredictable()


def test_a_report_reads_well(predictable):
    text = str(predictable)
    for words in ("verdict", "parallel", "Lyapunov exponent", f"{predictable.lle:+.3g}", "nats per step", "halves in"):
        assert words in text
    num_pairs = len(predictable.coalescence)
    assert f"{num_pairs} of {num_pairs} pairs met" in text
    assert f"{predictable.plan.num_blocks} blocks of {predictable.plan.block_size} steps" in text
    assert "evaluations per step" in text
    assert "because" not in text


def test_an_unpredictable_chain_is_planned_sequentially_with_cause_and_remedy(unpredictable):
    assert not unpredictable.parallelizable
    num_pairs, num_steps = len(unpredictable.coalescence), unpredictable.meeting.num_steps
    assert f"{num_pairs} of {num_pairs} pairs did not meet within {num_steps} steps" in unpredictable.cause
    assert "another kernel" in unpredictable.remedy
    with pytest.warns(ParallelStallWarning, match=r"evaluated sequentially: .* did not meet.*Try: .*kernel"):
        unpredictable.warn()
    text = str(unpredictable)
    assert "sequential" in text
    assert "because" in text
    assert "try" in text
    assert f"0 of {num_pairs}" in text


def test_lanes_that_are_evaluated_one_after_another_are_named_as_the_cause():
    met = MeetingTimes(np.full(8, 16.0), np.zeros((50, 8)))
    found = dataclasses.replace(results.report(parallel=False), meeting=met, measured=Measured(1e-3, 0.0, 4 / 64))
    assert "a step of all 64 lanes takes 16 times as long as a step of the chains" in found.cause
    assert "takes all lanes at once" in found.remedy
    cheap = dataclasses.replace(found, measured=Measured(1e-3, 0.0, 0.25))
    assert "the slowest of 64 lanes is expected to take" in cheap.cause


@pytest.mark.parametrize(("scale", "is_noise"), [(1e-6, True), (1.0, False)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_noise_is_named_without_an_exponent(scale, is_noise, dtype):
    rng = np.random.default_rng(0)
    distances = (scale * rng.uniform(0.5, 1, (200, 8))).astype(dtype)
    report = dataclasses.replace(results.report(parallel=False), meeting=MeetingTimes(np.full(8, np.inf), distances))
    assert ("the noise of float32 gradients" in report.cause) == (is_noise and dtype == np.float32)


def test_a_report_survives_its_record():
    report = dataclasses.replace(results.report(parallel=True), lle=-0.1, lle_se=0.01, atol=1e-5)
    header, arrays = report.as_record()
    again = Report.from_record({"other": 1, **header}, arrays, report.adaptation)
    assert str(again) == str(report)
    np.testing.assert_array_equal(again.meeting.distances, report.meeting.distances)
