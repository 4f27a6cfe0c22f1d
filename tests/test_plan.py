"""The plan is a pure function of step costs and meeting times."""

import math

import numpy as np
import pytest

from parsample import DEER, Dense, Sequential, Zero
from parsample.costs import StepCosts
from parsample.plan import SECONDS_BESIDE_SWEEPS, SECONDS_PER_STEP_BESIDE, Meetings, make_plan, sequential_plan

LANES = (1, 8, 64, 512)
FREE = StepCosts(LANES, (1e-6, 1e-6, 1e-6, 1e-6))  # a device with room: many lanes cost what one does
PROPORTIONAL = StepCosts(LANES, tuple(1e-6 * n for n in LANES))  # no room: every lane costs the same
MEETINGS = np.array([20.0, 25.0, 30.0, 24.0])


def test_room_for_lanes_makes_a_parallel_plan():
    plan = make_plan(FREE, MEETINGS, 100_000)
    assert isinstance(plan.method, DEER)
    assert isinstance(plan.method.linearization, Zero)
    assert plan.fallback == plan.method
    assert plan.num_blocks == -(-100_000 // plan.method.block_size)
    assert plan.speedup > 20  # without what blocks take beside sweeps it would be more than 100
    assert plan.seconds < plan.sequential_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("costs", "meetings"),
    [
        (PROPORTIONAL, MEETINGS),
        (StepCosts((1,), (1e-6,)), MEETINGS),
        (FREE, np.array([20.0, np.inf])),
        (FREE, np.array([np.inf])),
        (FREE, np.array([])),
        (FREE, np.array([1e6])),
    ],
    ids=["proportional", "one-lane", "one-never-meets", "never", "unknown", "too-late"],
)
def test_no_gain_makes_a_sequential_plan(costs, meetings):
    plan = make_plan(costs, meetings, 100_000)
    assert plan.method == Sequential()
    assert (plan.num_blocks, plan.evals_per_step, plan.speedup) == (1, 1.0, 1.0)
    assert plan.seconds == plan.sequential_seconds == pytest.approx(0.1)


def test_a_plan_that_does_not_pay_still_names_the_best_parallel_settings():
    assert isinstance(make_plan(PROPORTIONAL, MEETINGS, 100_000).fallback, DEER)
    assert make_plan(FREE, np.array([np.inf]), 100_000).fallback is None


@pytest.mark.parametrize("period", [1, 16, 48])
@pytest.mark.parametrize("num_steps", [5_000, 99_999])
def test_block_sizes_are_multiples_of_the_period(period, num_steps):
    plan = make_plan(FREE, MEETINGS, num_steps, period=period)
    assert plan.method.block_size % period == 0
    assert (plan.num_blocks - 1) * plan.method.block_size < num_steps <= plan.num_blocks * plan.method.block_size


@pytest.mark.parametrize("num_chains", [1, 4])
@pytest.mark.parametrize("num_steps", [10_000, 65_536])
def test_predictions_follow_the_formulas(num_chains, num_steps):
    costs = StepCosts((4, 32, 256), (2e-6, 3e-6, 8e-6))
    plan = make_plan(costs, MEETINGS, num_steps, num_chains=num_chains)
    block_size, lanes = plan.method.block_size, plan.num_blocks * num_chains
    meeting = Meetings.of(MEETINGS).slowest(lanes)
    beside = SECONDS_BESIDE_SWEEPS + SECONDS_PER_STEP_BESIDE * num_steps * num_chains
    assert plan.seconds == pytest.approx(beside + (block_size + meeting) * costs(lanes))
    assert plan.sequential_seconds == pytest.approx(num_steps * costs(num_chains))
    # Lanes of a last block that is shorter idle along, which the work counts.
    padded = plan.num_blocks * block_size / num_steps
    assert plan.evals_per_step == pytest.approx((block_size + meeting) / block_size * padded)
    assert 1 <= plan.evals_per_step < 1.6


def test_chains_fill_lanes():
    assert make_plan(FREE, MEETINGS, 100_000, num_chains=1).num_blocks > 8
    four = make_plan(FREE, MEETINGS, 100_000, num_chains=64)
    assert 1 < four.num_blocks * 64 <= LANES[-1]
    assert make_plan(FREE, MEETINGS, 100_000, num_chains=512).method == Sequential()


def test_later_meetings_ask_for_longer_blocks():
    dearer = StepCosts(LANES, (1e-6, 3e-6, 1e-5, 3e-5))
    sizes = [make_plan(dearer, MEETINGS * factor, 100_000).method.block_size for factor in (1, 4, 16)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_device_with_room_takes_blocks_shorter_than_meetings():
    plan = make_plan(StepCosts(LANES, (1e-4, 1e-4, 1e-4, 1e-4)), 12 * MEETINGS, 100_000)
    meeting = Meetings.of(12 * MEETINGS).slowest(512)
    assert plan.num_blocks >= 256
    assert plan.method.block_size < meeting
    assert plan.evals_per_step > 2


def test_late_lanes_are_gathered_where_that_saves_more_than_another_programme_costs():
    # Of four that were watched one took long.
    meetings, cheap = np.array([100.0, 120.0, 110.0, 300.0]), StepCosts(LANES, (1e-6, 3e-6, 1e-5, 3e-5))
    dear = StepCosts(LANES, tuple(3000 * seconds for seconds in cheap.seconds))
    assert not make_plan(cheap, meetings, 100_000).method.gather_late
    assert not make_plan(dear, np.full(4, 10.0), 100_000).method.gather_late
    plan = make_plan(dear, meetings, 100_000)
    assert plan.method.gather_late
    law, lanes, block_size = Meetings.of(meetings), plan.num_blocks, plan.method.block_size
    most, slowest = law.all_but(8), law.slowest(lanes)
    assert 100 < most < 300 < slowest
    beside = SECONDS_BESIDE_SWEEPS + SECONDS_PER_STEP_BESIDE * 100_000
    seconds = beside + (block_size + most) * dear(lanes) + (slowest - most) * dear(lanes // 8)
    assert plan.seconds == pytest.approx(seconds)
    work = (block_size + most + (slowest - most) / 8) * lanes / 100_000
    assert plan.evals_per_step == pytest.approx(work)


def test_the_best_plan_is_no_worse_than_any_cheaper_meeting():
    seconds = [make_plan(FREE, MEETINGS * factor, 100_000).seconds for factor in (1, 2, 8, 64)]
    assert seconds == sorted(seconds)


def test_late_lanes_are_those_of_each_chain_and_device():
    meetings, dear = np.array([100.0, 120.0, 110.0, 300.0]), StepCosts(LANES, (3e-3, 9e-3, 3e-2, 3e-1))
    plan = make_plan(dear, meetings, 100_000, num_chains=4, num_devices=2)
    assert (plan.num_blocks, plan.method.gather_late) == (16, True)
    law, block_size = Meetings.of(meetings), plan.method.block_size
    most, slowest = law.all_but(8), law.slowest(64)
    beside = SECONDS_BESIDE_SWEEPS + SECONDS_PER_STEP_BESIDE * 400_000
    # Of four chains' eight blocks on each of two devices, one each.
    assert plan.seconds == pytest.approx(beside + (block_size + most) * dear(64) + (slowest - most) * dear(8))
    assert plan.evals_per_step == pytest.approx(((block_size + most) * 64 + (slowest - most) * 8) / 400_000)
    # Of four blocks on each device nobody is left to go on.
    assert not make_plan(dear, meetings, 100_000, num_chains=8, num_devices=2).method.gather_late


def test_newton_that_disappoints_does_not_push_out_blocks_that_pay():
    costs = StepCosts((1, 2, 50_000, 100_000), (1e-5, 1e-5, 1e-5, 1e-5))
    meetings = np.full(4, 2000.0)
    alone = make_plan(costs, meetings, 10_000)
    assert alone.method.linearization == Zero()

    def newton(settings: DEER, num_steps: int) -> float:
        # 88 ms of 100: more than blocks take, less than they might, and not worth it.
        return 8490 / settings.block_size * math.log(num_steps) / math.log(10_000)

    assert make_plan(costs, meetings, 10_000, newton=newton, dimension=3) == alone


def test_all_but_one_in_so_many_have_met():
    law = Meetings.of(np.random.default_rng(0).gumbel(100.0, 20.0, 100_000))
    observed = np.quantile(np.random.default_rng(1).gumbel(100.0, 20.0, 100_000), 7 / 8)
    assert law.all_but(8) == pytest.approx(observed, rel=0.02)


def never_asked(settings: DEER, num_steps: int) -> int:
    raise AssertionError("no trial of Newton's method was called for")


def test_newton_is_considered_where_paths_do_not_meet_and_sweeps_are_cheap():
    asked = []

    def newton(settings: DEER, num_steps: int) -> int:
        asked.append((settings.block_size, num_steps))
        return 4

    wide = StepCosts((1, 100_000), (1e-6, 1e-6))
    plan = make_plan(wide, np.array([np.inf]), 10_000, newton=newton, dimension=3)
    assert plan.method.linearization == Dense()
    assert plan.method.block_size in (8, 32)
    assert sorted(asked) == [(8, 256), (32, 1024)]
    assert plan.evals_per_step > 4 * 4  # sweeps times one step and three tangents


def test_newton_is_not_tried_where_even_three_sweeps_would_not_pay():
    plan = make_plan(PROPORTIONAL, np.array([np.inf]), 100_000, newton=never_asked, dimension=100)
    assert plan.method == Sequential()


def test_newton_that_does_not_converge_is_not_planned():
    wide = StepCosts((1, 100_000), (1e-6, 1e-6))
    plan = make_plan(wide, np.array([np.inf]), 10_000, newton=lambda settings, num_steps: 10_000, dimension=3)
    assert plan.method == Sequential()


@pytest.mark.parametrize(
    ("lanes", "seconds"), [(1, 1e-6), (8, 4e-6), (64, 8e-6), (640, 8e-5), (16, 4e-6 * 2 ** (1 / 3))]
)
def test_step_costs_interpolate_in_logarithms_and_are_proportional_beyond(lanes, seconds):
    assert StepCosts((1, 8, 64), (1e-6, 4e-6, 8e-6))(lanes) == pytest.approx(seconds, rel=1e-4)


def test_the_slowest_of_more_lanes_takes_longer_and_never_less_than_was_seen():
    times = [Meetings.of(MEETINGS).slowest(lanes) for lanes in (1, 8, 64, 512)]
    assert times == sorted(times)
    assert times[0] >= 30
    assert times[0] < times[-1] < 100
    # Gumbel's law, whose largest of n grows by the scale times log n.
    scale = np.std(MEETINGS) * math.sqrt(6) / math.pi
    assert times[-1] - times[-2] == pytest.approx(scale * math.log(8))


def test_plans_read_like_sentences():
    assert "sequential, 100 ms predicted" in str(make_plan(FREE, np.array([np.inf]), 100_000))
    assert str(sequential_plan(100, 1)) == "sequential, an unknown time predicted"
    text = str(make_plan(FREE, MEETINGS, 100_000))
    assert "blocks of" in text
    assert "Zero" in text
    assert "evaluations per step" in text
    assert "sequential 100 ms" in text
