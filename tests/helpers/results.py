"""Results and reports made up without a run."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parsample import Model, Plan, Report, Status
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.meeting import MeetingTimes
from parsample.lanes.segments import Segment
from parsample.planning.plan import Measured
from parsample.samplers.diagnostics import NO_DIAGNOSTICS
from parsample.samplers.result import SampleResult
from parsample.warmup.adaptation import Adaptation

PARAMETERS = KernelParameters(np.zeros(3), np.ones(3), np.array(0.5), np.ones(16, np.int32), np.zeros(16))
ADAPTATION = Adaptation("hmc", PARAMETERS, np.ones((2, 3)), 0.8, 176, 64, 0, 0, 1.01, "")


def report(*, parallel: bool) -> Report:
    """A plausible report of a check."""
    meeting = MeetingTimes(np.full(8, 40.0 if parallel else np.inf), np.ones((50, 8)))
    plan = Plan(parallel, 4, 10_000, 16 if parallel else 1, 640, 0.25, 1.1 if parallel else 1.0)
    return Report(meeting, 64, Measured(1e-3, 2.0), plan, "another kernel", adaptation=ADAPTATION)


def fabricated(status: Status, *, interrupted: bool = False, problems: Sequence[str] = ()) -> SampleResult:
    """A result in variables x and y, with any status, even one that runs rarely end with."""
    rng = np.random.default_rng(0)
    positions = {"x": rng.normal(size=(2, 100, 2)), "y": rng.normal(size=(2, 100, 1, 1))}
    path = np.zeros((2, 0, 3))
    segment = Segment(0, 100, path, None, None, status, 0.1, 4, 200, np.ones((4, 4)), 25)
    stats = {"lp": rng.normal(size=(2, 100)), "diverging": np.arange(200).reshape(2, 100) < 7}
    model = Model(lambda position: 0.0, {"x": np.zeros(2), "y": np.zeros((1, 1))})
    settings, seconds = {"num_chains": 2, "kernel": "hmc"}, {"warmup": 1.0}
    counts = {"num_draws": 100, "diagnostics": replace(NO_DIAGNOSTICS, num_diverging=[3, 4], problems=list(problems))}
    return SampleResult(positions, stats, ADAPTATION, None, [segment], settings, seconds, model, interrupted, **counts)
