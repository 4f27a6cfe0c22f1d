"""Blocks over devices: the chain is the same whatever their number."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import contraction, gaussian, gaussian_start, logistic_map
from jax.sharding import PartitionSpec
from marks import slow

import parsample
from parsample import DEER, Dense, Diagonal, ParallelStallWarning, Sequential, Status, Zero, deer, rollout
from parsample.internal.devices import SPLIT, WHOLE, Collectives, mesh_of
from parsample.solver.grid import Grid

DEVICES = jax.devices()
KEY = jax.random.key(3)


def test_eight_virtual_devices_are_there():
    assert len(DEVICES) == 8


# The grid


@pytest.mark.parametrize(("num_steps", "block_size", "num_devices"), [(20, 4, 1), (21, 4, 2), (3, 5, 4), (40, 4, 5)])
def test_every_step_has_one_place_in_the_grid(num_steps, block_size, num_devices):
    grid = Grid(num_steps, block_size, num_devices)
    assert grid.num_blocks == -(-num_steps // block_size)
    assert grid.num_lanes % num_devices == 0
    steps = np.asarray(grid.steps())
    last = grid.num_lanes - grid.lanes_per_device
    running = np.stack([np.asarray(grid.running(last, jnp.asarray(step))) for step in range(block_size)])
    np.testing.assert_array_equal(running, steps[:, last:] < num_steps)
    assert sorted(steps[steps < num_steps]) == list(range(num_steps))
    assert grid.is_ragged == bool((steps >= num_steps).any())
    arranged = grid.arrange(jnp.arange(num_steps))
    np.testing.assert_array_equal(arranged, np.minimum(steps, num_steps - 1))
    np.testing.assert_array_equal(grid.flatten(arranged)[:num_steps], np.arange(num_steps))


# What devices tell each other


def test_gathered_values_are_the_ones_that_were_sent():
    collectives = Collectives(mesh_of(DEVICES[:3]))

    def on_each_device(vector: jax.Array) -> tuple:
        return collectives.all_gather(
            (collectives.rank, vector, vector[0] > 2, {"x": vector.astype(jnp.float32).reshape(1, 2)})
        )

    values = jnp.arange(6.0)
    ranks, vectors, flags, tree = collectives.spread(on_each_device, SPLIT, WHOLE)(values)
    assert ranks.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(vectors, values.reshape(3, 2))
    assert flags.tolist() == [False, False, True]
    np.testing.assert_array_equal(tree["x"], values.reshape(3, 1, 2))
    assert tree["x"].dtype == jnp.float32


def test_alone_one_is_the_whole_team():
    collectives = Collectives()
    assert (collectives.num_devices, collectives.rank) == (1, 0)
    assert collectives.all_gather(jnp.arange(2)).shape == (1, 2)


# The chain


@pytest.mark.parametrize(
    ("linearization", "block_size", "num_devices"),
    [
        (Dense(), 7, 8),
        (Zero(), 10, 8),
        slow(Dense(), 1, 2),
        slow(Diagonal(), 10, 3),
        slow(Zero(), 60, 2),
    ],
    ids=str,
)
def test_the_path_is_the_same_on_any_number_of_devices(linearization, block_size, num_devices):
    chain = contraction(203)
    alone = deer(*chain, block_size=block_size, linearization=linearization)
    shared = deer(*chain, block_size=block_size, linearization=linearization, devices=DEVICES[:num_devices])
    assert Status(int(shared.status)) is Status.CONVERGED
    assert int(shared.num_iters) == int(alone.num_iters)
    assert shared.block_ends.shape == alone.block_ends.shape
    assert shared.block_defects.shape == alone.block_defects.shape
    truth = rollout(*chain)
    for a, b in zip(jax.tree.leaves(shared.states), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_each_device_leaves_its_blocks_as_soon_as_they_have_met():
    chain = contraction(2000)
    settings = {"block_size": 100, "linearization": Zero()}
    alone = deer(*chain, **settings)
    shared = deer(*chain, **settings, devices=DEVICES[:4])
    assert float(shared.evals_per_step) < float(alone.evals_per_step)


@pytest.mark.slow
def test_idle_lanes_hold_up_nobody():
    # Five blocks on four devices: eight lanes, of which three are idle and meet at once.
    solution = deer(*contraction(2000), block_size=400, linearization=Zero(), devices=DEVICES[:4])
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 8 / 5 < float(solution.evals_per_step) < 1.2 * 8 / 5


@pytest.mark.parametrize(("linearization", "block_size"), [(Zero(), 10), slow(Dense(), 1)], ids=str)
def test_a_chaotic_chain_is_finished_by_the_devices_in_turn(linearization, block_size):
    chain = logistic_map(403)
    with pytest.warns(ParallelStallWarning, match="step by step"):
        solution = deer(*chain, block_size=block_size, linearization=linearization, stall_after=5, devices=DEVICES[:3])
    assert Status(int(solution.status)) is Status.STALLED
    np.testing.assert_array_equal(solution.states, rollout(*chain))
    np.testing.assert_array_equal(solution.final, solution.states[-1])
    assert 0 < int(solution.exact_prefix) < 403


def test_a_path_that_stops_being_finite_is_reported_by_all_devices():
    with pytest.warns(ParallelStallWarning, match="NaN or infinite"):
        solution = deer(lambda s, _: 1e100 * s, jnp.ones(1), jnp.arange(10), block_size=2, devices=DEVICES[:2])
    np.testing.assert_array_equal(np.isfinite(solution.states[:, 0]), np.arange(10) < 3)


@pytest.mark.slow
def test_devices_under_jit_and_vmap():
    chains = [contraction(60, seed=seed) for seed in range(2)]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chain.inputs for chain in chains))

    def run(drive: dict) -> parsample.Solution:
        return deer(chains[0].step, chains[0].initial_state, drive, block_size=6, devices=DEVICES[:2])

    solutions = jax.jit(jax.vmap(run))(inputs)
    for index, chain in enumerate(chains):
        np.testing.assert_allclose(solutions.states["x"][index], rollout(*chain)["x"], atol=1e-9)


@pytest.mark.parametrize("method", [DEER(50, Zero()), "auto", Sequential()], ids=str)
def test_blackjax_own_chain_on_several_devices(method):
    algorithm = blackjax.mala(gaussian, 0.1)
    arguments = (KEY, algorithm, 400)
    expected = blackjax.util.run_inference_algorithm(*arguments, initial_position=gaussian_start())
    found = parsample.run_inference_algorithm(
        *arguments, initial_position=gaussian_start(), method=method, devices=DEVICES[:3]
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize(
    "method",
    [pytest.param("deer", marks=pytest.mark.exhaustive), pytest.param("sequential", marks=pytest.mark.slow)],
)
def test_draws_do_not_depend_on_devices(method):
    def draws(devices: list) -> parsample.SampleResult:
        return parsample.sample(
            jax.random.key(1),
            gaussian,
            gaussian_start(),
            num_samples=1024,
            num_warmup=200,
            num_chains=2,
            method=method if devices[1:] else "sequential",
            progress_bar=False,
            devices=devices,
        )

    shared, alone = draws(DEVICES[:2]), draws(DEVICES[:1])
    assert shared.status is (Status.CONVERGED if method == "deer" else Status.SEQUENTIAL)
    assert shared.settings["num_devices"] == 2
    np.testing.assert_allclose(shared.positions["x"], alone.positions["x"], atol=1e-8)


@pytest.mark.parametrize("place", [DEVICES[0], DEVICES[3]], ids=str)
@pytest.mark.slow
def test_arguments_may_lie_anywhere(place):
    algorithm = blackjax.mala(gaussian, 0.1)
    start = jax.device_put(gaussian_start(), place)
    settings = {"method": DEER(50, Zero(), stall_after=1), "devices": DEVICES[:2]}  # stalls, and is finished on one
    with pytest.warns(ParallelStallWarning):
        halfway = parsample.evaluate_inference_algorithm(KEY, algorithm, 150, initial_position=start, **settings)
    arguments = (KEY, algorithm, 150, halfway.final)
    expected = parsample.run_inference_algorithm(*arguments, method="sequential")
    with pytest.warns(ParallelStallWarning):
        shared = parsample.run_inference_algorithm(*arguments, **settings)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("place", [DEVICES[0], DEVICES[3]], ids=str)
@pytest.mark.slow
def test_inputs_may_lie_anywhere(place):
    step, start, inputs = contraction(80)
    solution = deer(step, jax.device_put(start, place), jax.device_put(inputs, place), devices=DEVICES[1:3])
    np.testing.assert_allclose(solution.states["x"], rollout(step, start, inputs)["x"], atol=1e-9)


def test_a_path_lies_where_it_was_computed():
    solution = deer(*contraction(80), block_size=10, devices=DEVICES[:4])
    assert solution.states["x"].sharding.spec == PartitionSpec("devices")
    assert solution.status.sharding.is_fully_replicated


# Which devices


def test_the_first_device_alone_needs_no_mesh():
    assert mesh_of(DEVICES[:1]) is None
    assert mesh_of(DEVICES[:2]).size == 2
    assert mesh_of(DEVICES[3:4]).size == 1


@pytest.mark.parametrize("devices", [[], [0], "cpu", 3, [DEVICES[0], DEVICES[0]]], ids=str)
def test_unusable_devices_are_refused(devices):
    with pytest.raises((TypeError, ValueError), match="devices must be"):
        mesh_of(devices)
