"""How the chains of `sample` are evaluated: in blocks, as long as that pays, else step by step."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from parsample.draws.layout import Layout
from parsample.internal.arithmetic import round_up
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import MAX_ROWS, PERIOD, LaneProgram, num_rows_kept
from parsample.planning.plan import MAX_COST_RATIO, block_size_of
from parsample.planning.report import Report
from parsample.samplers.settings import SamplerSettings

# Target duration of a segment in seconds, at most: what an interrupt or a crash may cost.
MAX_SEGMENT_SECONDS = 60

# Blocks are not shortened for that below this multiple of the steps until the slowest lane meets.
MIN_BLOCKS_PER_MEETING = 8


@dataclass(frozen=True)
class Schedule:
    """How chains are evaluated; with the states at the end of a segment, it decides all segments that follow.

    Attributes
    ----------
    in_blocks
        Whether the next segment is evaluated in blocks.
    block_size
        Steps per block.
    max_steps
        Steps of a segment that is evaluated step by step.
    max_rows
        Rows of all lanes after which a segment is given up, and all that follows is evaluated step by step.
    """

    in_blocks: bool
    block_size: int
    max_steps: int
    max_rows: float

    @classmethod
    def of(
        cls, settings: SamplerSettings, program: LaneProgram, report: Report | None, num_steps: int | None = None
    ) -> "Schedule":
        """The schedule of `num_steps` steps, or of all; `report` is that of the check, if there was one."""
        num_blocks, max_rows = settings.num_blocks, math.inf
        num_steps = settings.num_steps if num_steps is None else num_steps
        max_steps = _max_steps(settings, program)
        # Blocks that are short compared to the steps until they meet would cost more than they save.
        slowest = 0.0 if report is None else report.meeting.slowest(settings.num_lanes)
        max_size = max(max_steps, round_up(int(min(MIN_BLOCKS_PER_MEETING * slowest, MAX_ROWS)), PERIOD))
        block_size = block_size_of(max(num_steps, 1), num_blocks, min(program.num_rows, max_size), PERIOD)
        if settings.method == "auto" and report is not None:
            share = max(report.measured.single_step_cost, 1 / num_blocks)
            max_rows = MAX_COST_RATIO * share * num_blocks * block_size
        in_blocks = settings.method == "deer" or (report is not None and report.parallelizable)
        return cls(in_blocks and num_blocks > 1, block_size, max_steps, max_rows)

    def extended(
        self, settings: SamplerSettings, program: LaneProgram, report: Report | None, num_steps_done: int
    ) -> "Schedule":
        """The schedule of the rest of a run that got more steps than it was planned for."""
        num_left = settings.num_steps - num_steps_done
        was_given_up = report is not None and report.parallelizable and not self.in_blocks
        if report is not None and num_left > 0:
            report = report.planned_for(num_left, program.num_rows)
        new = Schedule.of(settings, program, report, num_left)
        return dataclasses.replace(new, in_blocks=False) if was_given_up else new


def _max_steps(settings: SamplerSettings, program: LaneProgram) -> int:
    """Steps of a segment, so few that it does not take long, if the draws do not depend on where segments end."""
    if not settings.meets_exactly or not math.isfinite(program.seconds_per_row):
        return MAX_ROWS
    return int(np.clip(MAX_SEGMENT_SECONDS / program.seconds_per_row // PERIOD * PERIOD, PERIOD, MAX_ROWS))


def expected_segment(settings: SamplerSettings, layout: Layout) -> int:
    """Steps of each chain in most segments, as far as they can be known before the warm-up."""
    if settings.method == "sequential" or settings.num_blocks == 1:
        return MAX_ROWS
    dynamics = KernelLanes(lambda _: 0.0, layout, settings.kernel)
    num_rows = num_rows_kept(dynamics.records, settings.num_lanes)
    return settings.num_blocks * block_size_of(settings.num_steps, settings.num_blocks, num_rows, PERIOD)
