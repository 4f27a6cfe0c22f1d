"""Block DEER against the sequential rollout: the path, its independence of guess and settings, its certificate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, affine, contraction, diagonal_step, fade, logistic_map, noise, walk_step
from jax.sharding import PartitionSpec
from marks import slow
from paths import PATIENT, T, assert_same_path, residuals
from warned import warns_here

from parsample import (
    Dense,
    Diagonal,
    Identity,
    ParallelStallWarning,
    Status,
    UncertifiedChainWarning,
    Zero,
    deer,
    rollout,
)

DEVICES = jax.devices()
LINEARIZATIONS = [Dense(), Diagonal(), Diagonal(3), Identity(), Zero()]
BLOCK_SIZES = [1, 7, 16, T - 1, T]
# The slow run solves all pairs; the default run has every linearization and every block size.
DEFAULT = [
    (Dense(), 1),
    (Diagonal(3), 7),
    (Identity(), 7),
    (Diagonal(), 16),
    (Zero(), T - 1),
    (Dense(), T),
]
CORNERS = [corner if corner in DEFAULT else slow(*corner) for corner in itertools.product(LINEARIZATIONS, BLOCK_SIZES)]


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


# The path


@pytest.mark.parametrize(("linearization", "block_size"), CORNERS, ids=str)
def test_every_linearization_and_block_size_finds_the_rollout(chain, truth, linearization, block_size):
    solution = deer(*chain, block_size=block_size, linearization=linearization, **PATIENT)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert_same_path(solution.states, truth)
    assert residuals(chain, solution.states).max() < 1e-9
    num_iters, num_blocks = int(solution.num_iters), -(-T // block_size)
    assert 1 <= num_iters <= num_blocks
    assert np.isfinite(solution.defect_history[:num_iters]).all()
    assert (solution.defect_history[num_iters:] == -1).all()
    assert int(solution.exact_prefix) == T
    # The defect may exceed `atol` by `rtol` times the size of the state, which is a few standard deviations here.
    assert float(solution.defect) < 2e-10


@pytest.mark.parametrize("linearization", [Dense(), slow(Diagonal(3)), slow(Identity()), Zero()], ids=str)
@pytest.mark.parametrize(("block_size", "sweeps"), [(1, 3), slow(3, 4)])
def test_after_k_sweeps_k_blocks_are_exact_whatever_the_linearization(linearization, block_size, sweeps):
    chaos = logistic_map(60)
    with warns_here(UncertifiedChainWarning, match="stopped at max_iters"):
        solution = deer(*chaos, block_size=block_size, linearization=linearization, max_iters=sweeps)
    assert Status(int(solution.status)) is Status.MAX_ITERS
    assert int(solution.num_iters) == sweeps
    assert sweeps * block_size <= int(solution.exact_prefix) < 60
    known = slice(0, sweeps * block_size)
    np.testing.assert_allclose(solution.states[known], rollout(*chaos)[known], rtol=1e-10)


@pytest.mark.parametrize("linearization", [Dense(), slow(Identity()), Zero()], ids=str)
def test_no_guess_is_so_far_off_that_more_sweeps_than_blocks_are_needed(chain, truth, linearization):
    far = jax.tree.map(lambda leaf: leaf + 1e6, truth)
    unit = jax.tree.map(jnp.ones_like, chain.initial_state)
    settings = {"block_size": 5, "linearization": linearization, "initial_guess": far, "scale": unit}
    solution = deer(*chain, **settings, **PATIENT)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) <= 10
    assert_same_path(solution.states, truth)


@pytest.mark.parametrize(
    ("chain", "linearization"),
    [
        (affine(T), Dense()),
        (affine(T)._replace(step=diagonal_step), Diagonal()),
        slow(affine(T)._replace(step=diagonal_step), Diagonal(1)),  # sign vectors are exact on diagonals
        (affine(T)._replace(step=walk_step), Identity()),
    ],
    ids=["newton-affine", "diagonal", "hutchinson-diagonal", "picard-walk"],
)
@pytest.mark.parametrize("block_size", [slow(1), 7])
def test_a_linearization_that_is_right_everywhere_needs_two_sweeps(chain, linearization, block_size):
    solution = deer(*chain, block_size=block_size, linearization=linearization, max_step=None)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    assert_same_path(solution.states, rollout(*chain))


def test_newton_converges_quadratically(chain):
    history = np.asarray(deer(*chain, initial_guess=None).defect_history)
    history = history[np.isfinite(history) & (history > 1e-14)]
    late = history[history < 0.1]
    assert len(late) >= 2
    assert (late[1:] <= 10 * late[:-1] ** 2 + 1e-14).all()


# Independence of the guess and of settings


@pytest.mark.parametrize("linearization", [Dense(), Zero()], ids=str)
@pytest.mark.parametrize("guess", [0.0, 1e300, np.inf, np.nan], ids=["zeros", "overflowing", "infinite", "nan"])
def test_the_path_does_not_depend_on_the_guess(chain, truth, guess, linearization):
    path = jax.tree.map(lambda leaf: jnp.full_like(leaf, guess), truth)
    solution = deer(*chain, block_size=5, linearization=linearization, initial_guess=path, **PATIENT)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert_same_path(solution.states, truth)


@pytest.mark.parametrize("linearization", [Dense(), *map(slow, (Diagonal(), Diagonal(3), Identity())), Zero()], ids=str)
def test_a_guess_that_is_the_path_converges_in_one_sweep(chain, truth, linearization):
    solution = deer(*chain, block_size=7, linearization=linearization, initial_guess=truth)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 1)
    assert_same_path(solution.states, truth, atol=1e-12)


def test_the_path_does_not_depend_on_the_probes(chain, truth):
    solutions = [deer(*chain, linearization=Diagonal(1), rng_key=jax.random.key(seed), **PATIENT) for seed in range(6)]
    assert len({float(solution.defect_history[1]) for solution in solutions}) > 1  # the probes did differ
    for solution in solutions:
        assert Status(int(solution.status)) is Status.CONVERGED
        assert_same_path(solution.states, truth)


@pytest.mark.parametrize(
    "settings", [slow({"clip": None}), slow({"max_step": None}), {"clip": 0.5, "max_step": 0.1}], ids=str
)
def test_the_path_does_not_depend_on_the_safeguards(chain, truth, settings):
    solution = deer(*chain, block_size=3, **settings, **PATIENT)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert_same_path(solution.states, truth)


# The certificate


def test_the_defect_is_the_jump_left_inside_blocks():
    chain = Recursion(fade, jnp.array(0.0), noise(400))
    settings = {"block_size": 100, "linearization": Zero(), "scale": jnp.array(2.0)}
    solution = deer(*chain, **settings, atol=1e-2, rtol=0.0)
    assert Status(int(solution.status)) is Status.CONVERGED
    jumps = residuals(chain, solution.states)
    assert 1e-6 < float(solution.defect) <= 1e-2
    # The defect is a jump of the state in units of the scale; the step after it shrinks the jump by a factor of 0.9.
    np.testing.assert_allclose(jumps.max(), 0.9 * 2.0 * float(solution.defect), rtol=1e-6)


@pytest.mark.parametrize("linearization", [Zero(), slow(Dense())], ids=str)
def test_the_defect_is_the_jump_left_between_blocks(linearization):
    chain = Recursion(fade, jnp.array(0.0), noise(60))
    guess = rollout(*chain).at[29].add(0.004)  # the state from which block 3 of 10 steps starts
    settings = {"block_size": 10, "linearization": linearization, "scale": jnp.array(2.0), "initial_guess": guess}
    solution = deer(*chain, **settings, atol=1e-2)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 1)
    np.testing.assert_allclose(float(solution.defect), 0.002, rtol=1e-9)
    # After the ten steps of block 3, 0.9^10 of the jump is left between its end and the start of block 4.
    np.testing.assert_allclose(solution.block_defects[0], [0, 0, 0, 0.002, 0.002 * 0.9**10, 0], atol=1e-12)
    assert int(np.argmax(residuals(chain, solution.states))) == 30


@pytest.mark.parametrize("block_size", [32, slow(50)])
def test_coalescing_blocks_are_bitwise_one_chain_in_float32(block_size, float32):
    chain = contraction(500)
    solution = deer(*chain, block_size=block_size, linearization=Zero(), atol=0.0, rtol=0.0)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert solution.states["y"].dtype == jnp.float32
    assert float(solution.defect) == 0.0
    assert_same_path(solution.states, rollout(*chain), atol=1e-6)


@pytest.mark.parametrize("linearization", [slow(Dense()), Diagonal(3)], ids=str)
def test_float32_finds_the_path_to_its_own_rounding(linearization, float32):
    chain = contraction(T)
    solution = deer(*chain, block_size=4, linearization=linearization, **PATIENT)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert float(solution.defect) <= 2e-5
    assert residuals(chain, solution.states).max() < 1e-4
    assert_same_path(solution.states, rollout(*chain), atol=1e-4)


def keeping(rates: jax.Array) -> Recursion:
    """A recursion that multiplies its state by ``rates[t]`` in step t, and adds noise."""

    def step(state: jax.Array, drive: tuple) -> jax.Array:
        rate, u = drive
        return rate * state + u

    return Recursion(step, jnp.array(7.0), (rates, noise(len(rates))))


def test_blocks_that_have_met_stay_as_they_are():
    # All blocks but the fourth shrink a difference to 1e-12 of its size: within tolerance, but not to zero.
    chain = keeping(jnp.full(400, 0.5).at[120:160].set(1.0))
    solution = deer(*chain, block_size=40, linearization=Zero(), scale=jnp.array(1.0))
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 3)
    second, third = solution.block_defects[1, 6:], solution.block_defects[2, 6:]
    assert (second > 0).any()
    np.testing.assert_array_equal(third, second)
    assert_same_path(solution.states, rollout(*chain), atol=1e-9)


def test_the_exact_front_takes_in_blocks_that_have_met():
    # Blocks meet to within rounding only, and those near the end never forget: they must not shorten the exact prefix.
    def step(state: jax.Array, drive: tuple) -> jax.Array:
        rate, u = drive
        return jnp.where(rate > 1, 4 * state * (1 - state), rate * state + jnp.abs(jnp.sin(u)) * (1 - rate))

    rates = jnp.full(3200, 0.5).at[2400:].set(2.0)  # a contraction to within (0, 1), then chaos
    chain = Recursion(step, jnp.array(0.3), (rates, noise(3200)))
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        solution = deer(*chain, block_size=40, linearization=Zero())
    assert int(solution.exact_prefix) >= 2400
    np.testing.assert_array_equal(solution.states, rollout(*chain))


# Devices


@pytest.mark.parametrize(
    ("linearization", "block_size", "num_devices"),
    [
        slow(Dense(), 7, 8),
        slow(Zero(), 10, 8),  # in the default run, test_sweep.py has it on four devices
        slow(Dense(), 1, 2),
        (Diagonal(), 10, 3),
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


def test_a_path_lies_where_it_was_computed():
    solution = deer(*contraction(80), block_size=10, devices=DEVICES[:4])
    assert solution.states["x"].sharding.spec == PartitionSpec("devices")
    assert solution.status.sharding.is_fully_replicated


@pytest.mark.parametrize("size", [1e3, 1e9])
def test_jumps_inside_blocks_are_judged_by_the_scale_of_the_path_that_is_found(size):
    # From a wild guess, the first sweep is left early within the tolerance of a path that is far too large.
    inputs = np.sin(12.9898 * np.arange(400.0))[:, None]
    guess = size * np.random.default_rng(0).normal(size=(400, 1))
    solution = deer(
        lambda state, u: 0.5 * state + u, jnp.zeros(1), inputs, block_size=80, linearization=Zero(), initial_guess=guess
    )
    path = np.asarray(solution.states)
    jumps = np.abs(path[1:] - 0.5 * path[:-1] - inputs[1:]).max() / path.std()
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 0 < jumps <= float(solution.defect) <= 1e-10


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_blocks_refuse_derivatives(derivative):
    def end(drift: jax.Array) -> jax.Array:
        return deer(lambda s, u: 0.5 * s + drift * u, jnp.zeros(()), jnp.ones(8), block_size=4).states[-1]

    with pytest.raises(TypeError, match=r"^Blocks have no derivatives: differentiate .* by parsample\.rollout"):
        derivative(end)(1.0)
