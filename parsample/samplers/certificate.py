"""What a run of segments may be said to be: its status, largest defect, cost, and one line that states them."""

import math
from collections.abc import Sequence

import numpy as np

from parsample.lanes.segments import Segment
from parsample.solver.status import Status


def status_of(segments: Sequence[Segment]) -> Status:
    """Worst status of all segments."""
    return max((segment.status for segment in segments), default=Status.CONVERGED)


def defect_of(segments: Sequence[Segment]) -> float:
    """Largest jump where blocks join, in posterior standard deviations; 0: the draws are bitwise one chain."""
    return max((segment.defect for segment in segments), default=math.nan)


def evals_per_step_of(segments: Sequence[Segment]) -> float:
    """Evaluations of the kernel per step, over all segments; NaN without segments."""
    num_steps = sum(segment.num_steps * len(segment.path) for segment in segments)
    return sum(segment.num_evaluations for segment in segments) / num_steps if num_steps else math.nan


def certificate_of(segments: Sequence[Segment]) -> str:
    """One line that states whether every step is the kernel's own, with accuracy and cost."""
    status, defect = status_of(segments), defect_of(segments)
    if not segments:
        return "no draws yet"
    if status is Status.NON_FINITE:
        return f"NOT certified: {status.message}"
    if all(segment.status is Status.SEQUENTIAL for segment in segments):
        return "certified: evaluated step by step, 1 evaluation per step"
    work = f"{evals_per_step_of(segments):.2f} evaluations per step"
    accuracy = "bitwise one chain" if defect == 0 else f"largest defect {defect:.1e} posterior sd"
    fallback = "in part step by step, " if status is Status.STALLED else ""
    return f"certified: every step is the kernel's own, {accuracy}, {fallback}{work}"


def as_arrays(segments: Sequence[Segment]) -> dict[str, np.ndarray]:
    """The records of segments as arrays, for `from_arrays`; of the block defects, only those of the first blocks."""
    table = [
        (each.first, each.num_steps, each.status, each.num_sweeps, each.num_evaluations, each.block_size)
        for each in segments
    ]
    blocks = next((each.block_defects for each in segments if len(each.block_defects)), np.zeros((0, 1)))
    return {
        "segments.table": np.array(table, np.int64).reshape(-1, 6),
        "segments.defects": np.array([each.defect for each in segments], float),
        "segments.block_defects": np.asarray(blocks, float),
        "segments.num_chains": np.array(len(segments[0].path) if segments else 0),
        "segments.dimension": np.array(segments[0].path.shape[-1] if segments else 0),
    }


def from_arrays(arrays: dict[str, np.ndarray]) -> list[Segment]:
    """The records of `as_arrays`."""
    path = np.zeros((int(arrays["segments.num_chains"]), 0, int(arrays["segments.dimension"])))
    blocks, found = arrays["segments.block_defects"], []
    for row, defect in zip(arrays["segments.table"].tolist(), arrays["segments.defects"].tolist(), strict=True):
        first, num_steps, status, num_sweeps, num_evaluations, block_size = row
        has_blocks = status != Status.SEQUENTIAL and len(blocks) > 0
        found.append(
            Segment(
                first=first,
                num_steps=num_steps,
                path=path,
                outputs=None,
                final=None,
                status=Status(status),
                defect=defect,
                num_sweeps=num_sweeps,
                num_evaluations=num_evaluations,
                block_defects=blocks if has_blocks else np.zeros((0, 1)),
                block_size=block_size,
            )
        )
        blocks = np.zeros((0, 1)) if has_blocks else blocks
    return found
