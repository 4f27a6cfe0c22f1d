"""Evaluate the chains of `sample` segment by segment: in blocks until a segment is given up, then step by step."""

from dataclasses import replace

from parsample.internal.arithmetic import round_up
from parsample.lanes.program import PERIOD
from parsample.lanes.segments import Segment, evaluate_segment, step_by_step
from parsample.samplers.prepare import Prepared, single_step_program
from parsample.samplers.progress_bar import Progress
from parsample.solver.status import Status


class Driver:
    """The chains of a run at the end of their last segment.

    Parameters
    ----------
    prepared
        The chains before their next step.
    progress
        Told how they are evaluated.

    Attributes
    ----------
    run, guesses, schedule
        As in `Prepared`, at the end of the last segment.
    """

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self.run, self.guesses, self.schedule = prepared.run, prepared.guesses, prepared.schedule
        self._prepared, self._progress, self._single_steps = prepared, progress, prepared.single_steps
        self._announce()

    @property
    def num_steps_done(self) -> int:
        """Steps of each chain that are done."""
        return self.run.num_steps_done

    def next_segment(self) -> Segment:
        """Evaluate the next segment of all chains."""
        segment = self._in_blocks() if self.schedule.in_blocks else self._step_by_step()
        self.run = self.run.after(segment)
        if segment.status is Status.STALLED:
            self.schedule = replace(self.schedule, in_blocks=False)
            self._announce()
        return segment

    def _announce(self) -> None:
        self._progress.phase("sampling in blocks" if self.schedule.in_blocks else "sampling step by step")

    def _in_blocks(self) -> Segment:
        program, schedule = self._prepared.program, self.schedule
        segment, self.guesses = evaluate_segment(
            program, self.run, self.guesses, schedule.block_size, self._prepared.atol, schedule.max_rows
        )
        return segment

    def _step_by_step(self) -> Segment:
        program, settings = self._prepared.program, self._prepared.settings
        if settings.num_lanes > settings.num_chains:
            if self._single_steps is None:
                self._single_steps = single_step_program(program, settings)
            program = self._single_steps
        num_left = round_up(settings.num_steps - self.run.num_steps_done, PERIOD)
        return step_by_step(program, self.run, min(program.num_rows, self.schedule.max_steps, num_left))
