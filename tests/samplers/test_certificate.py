"""What a run of segments may be said to be."""

import math
from typing import Any

import numpy as np
import pytest

from parsample import Status
from parsample.lanes.segments import Segment
from parsample.samplers.certificate import (
    as_arrays,
    certificate_of,
    defect_of,
    evals_per_step_of,
    from_arrays,
    status_of,
)


def segment(status: Status, first: int = 0, **changes: Any) -> Segment:
    """100 steps of two chains in three dimensions."""
    blocks = np.zeros((0, 1)) if status is Status.SEQUENTIAL else np.arange(8.0).reshape(2, 4)
    made = Segment(first, 100, np.zeros((2, 0, 3)), None, None, status, 0.0, 4, 300, blocks, 25)
    return made._replace(**changes)


CONVERGED, STALLED, SEQUENTIAL, BROKEN = (
    segment(status) for status in (Status.CONVERGED, Status.STALLED, Status.SEQUENTIAL, Status.NON_FINITE)
)


@pytest.mark.parametrize(
    ("segments", "status", "words"),
    [
        ([], Status.CONVERGED, "no draws yet"),
        (
            [CONVERGED],
            Status.CONVERGED,
            "certified: every step is the kernel's own, bitwise one chain, 1.50 eval",
        ),
        ([SEQUENTIAL], Status.SEQUENTIAL, "certified: evaluated step by step, 1 evaluation per step"),
        ([CONVERGED, STALLED, SEQUENTIAL], Status.STALLED, "bitwise one chain, in part step by step, 1.50 eval"),
        ([CONVERGED._replace(defect=3e-11)], Status.CONVERGED, "largest defect 3.0e-11 posterior sd"),
        ([CONVERGED, BROKEN], Status.NON_FINITE, f"NOT certified: {Status.NON_FINITE.message}"),
        ([BROKEN, SEQUENTIAL], Status.NON_FINITE, "NOT certified"),
    ],
    ids=["none", "blocks", "sequential", "stalled", "tolerance", "broken", "broken first"],
)
def test_the_worst_segment_decides(segments, status, words):
    assert status_of(segments) is status
    assert words in certificate_of(segments)


def test_numbers_are_those_of_all_segments():
    segments = [CONVERGED, CONVERGED._replace(num_steps=300, num_evaluations=600, defect=2e-9)]
    assert evals_per_step_of(segments) == 900 / 800
    assert defect_of(segments) == 2e-9
    assert math.isnan(evals_per_step_of([]))
    assert math.isnan(defect_of([]))


@pytest.mark.parametrize(
    "order", [[], [CONVERGED], [SEQUENTIAL], [CONVERGED, STALLED, SEQUENTIAL], [SEQUENTIAL, BROKEN]]
)
def test_records_come_back_from_arrays(order):
    segments = [each._replace(first=100 * number, defect=1e-9 * number) for number, each in enumerate(order)]
    found = from_arrays(as_arrays(segments))
    assert certificate_of(found) == certificate_of(segments)
    for one, other in zip(found, segments, strict=True):
        assert one._replace(path=None, block_defects=None) == other._replace(path=None, block_defects=None)
        assert one.path.shape == other.path.shape
    # Only the defects of the first blocks are kept, for the plot.
    kept = [each.block_defects for each in found if len(each.block_defects)]
    assert len(kept) == any(each.status is not Status.SEQUENTIAL for each in segments)
    for defects in kept:
        np.testing.assert_array_equal(defects, CONVERGED.block_defects)
    assert as_arrays(found).keys() == as_arrays(segments).keys()
