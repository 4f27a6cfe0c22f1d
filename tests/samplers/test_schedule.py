"""How chains are evaluated: in blocks if asked for or if that pays, and anew if a run becomes longer."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from results import report
from small import bell

from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import LaneProgram
from parsample.planning.plan import MAX_COST_RATIO, Measured
from parsample.samplers.schedule import Schedule
from parsample.samplers.settings import SamplerSettings

DYNAMICS = KernelLanes(bell, Layout.of(jnp.zeros(3)), KERNELS["hmc"])
PROGRAM = LaneProgram(DYNAMICS, 64, None, DYNAMICS.records)
PARALLEL, NOT_PARALLEL = report(parallel=True), report(parallel=False)


def settings(method: str = "auto", **changes: Any) -> SamplerSettings:
    return SamplerSettings.of(**{"num_samples": 10_000, "num_chains": 4, "num_lanes": 64, "method": method, **changes})


@pytest.mark.parametrize(
    ("asked", "found", "in_blocks"),
    [
        (settings(), PARALLEL, True),
        (settings(), NOT_PARALLEL, False),
        (settings("deer"), NOT_PARALLEL, True),
        (settings("sequential"), None, False),
        (settings("deer", num_chains=64), None, False),  # one lane per chain
    ],
)
def test_blocks_are_used_if_asked_for_or_if_that_pays(asked, found, in_blocks):
    assert Schedule.of(asked, PROGRAM, found).in_blocks is in_blocks


def test_only_auto_gives_segments_up():
    schedule = Schedule.of(settings(), PROGRAM, PARALLEL)
    assert schedule.block_size == 640
    share = max(PARALLEL.measured.single_step_cost, 1 / 16)
    assert schedule.max_rows == MAX_COST_RATIO * share * 16 * 640
    assert Schedule.of(settings("deer"), PROGRAM, PARALLEL).max_rows == math.inf


def test_thin_counts_as_steps():
    assert Schedule.of(settings(num_samples=1000, thin=10), PROGRAM, PARALLEL) == Schedule.of(
        settings(), PROGRAM, PARALLEL
    )
    assert Schedule.of(settings(), PROGRAM, PARALLEL, 1000).block_size == 64


def test_the_rest_of_a_longer_run_is_planned_anew():
    begun = Schedule.of(settings(), PROGRAM, PARALLEL)
    longer = settings(num_samples=11_000)
    assert begun.extended(longer, PROGRAM, PARALLEL, 10_000).block_size == 64
    # Blocks do not pay for ten steps, once nothing needs to be compiled.
    compiled = dataclasses.replace(PARALLEL, measured=Measured(1e-3, 0.0))
    assert not begun.extended(settings(num_samples=10_010), PROGRAM, compiled, 10_000).in_blocks
    assert begun.extended(settings(num_samples=10_010, method="deer"), PROGRAM, PARALLEL, 10_000).in_blocks
    assert begun.extended(settings(num_samples=10_000), PROGRAM, PARALLEL, 10_240).in_blocks


def test_a_run_that_was_given_up_stays_step_by_step():
    given_up = dataclasses.replace(Schedule.of(settings(), PROGRAM, PARALLEL), in_blocks=False)
    assert not given_up.extended(settings(num_samples=100_000), PROGRAM, PARALLEL, 10_000).in_blocks
    short = dataclasses.replace(NOT_PARALLEL, meeting=PARALLEL.meeting)  # blocks did not pay for so few steps
    assert given_up.extended(settings(num_samples=1_000_000), PROGRAM, short, 10_000).in_blocks
    assert np.isinf(given_up.extended(settings("sequential"), PROGRAM, None, 10_000).max_rows)
