"""Block DEER against the sequential rollout: the path, the certificate, the work, and how a solve ends."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    Recursion,
    affine,
    contraction,
    delay_line,
    diagonal_step,
    fade,
    logistic_map,
    noise,
    walk_step,
)
from marks import slow

import parsample
from parsample import DEER, Dense, Diagonal, Identity, ParallelStallWarning, Status, Zero, deer, rollout
from parsample.chain.transition import as_inputs, from_step
from parsample.solver.finish import finish
from parsample.solver.newton import solve

T = 50
LINEARIZATIONS = [Dense(), Diagonal(), Diagonal(3), Identity(), Zero()]
BLOCK_SIZES = [1, 7, 16, T - 1, T]
# All of them are solved; the default run has every linearization and every block size.
DEFAULT = [
    (Dense(), 1),
    (Zero(), 1),
    (Diagonal(3), 7),
    (Identity(), 7),
    (Diagonal(), 16),
    (Zero(), T - 1),
    (Dense(), T),
]
CORNERS = [corner if corner in DEFAULT else slow(*corner) for corner in itertools.product(LINEARIZATIONS, BLOCK_SIZES)]
PATIENT = {"stall_after": 10_000}


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return contraction(T)


@pytest.fixture(scope="module")
def truth(chain):
    return rollout(*chain)


def assert_same_path(states, expected, atol=1e-8):
    for ours, theirs in zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def residuals(chain: Recursion, states) -> np.ndarray:
    """How far each state is from the step of the one before: what a certificate is about, found without the solver."""
    before = jax.tree.map(
        lambda s, path: jnp.concatenate([jnp.asarray(s)[None], path[:-1]]), chain.initial_state, states
    )
    steps = jax.vmap(chain.step)(before, chain.inputs)
    jumps = jax.tree.map(lambda a, b: jnp.abs(a - b).reshape(a.shape[0], -1).max(1), steps, states)
    return np.max(jax.tree.leaves(jumps), axis=0)


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
    assert np.isnan(solution.defect_history[num_iters:]).all()
    assert int(solution.exact_prefix) == T
    # Two coordinates may count as met by the last digits of their size, which is a few standard deviations here.
    assert float(solution.defect) < 2e-10


@pytest.mark.parametrize("linearization", [Dense(), slow(Diagonal(3)), slow(Identity()), Zero()], ids=str)
@pytest.mark.parametrize(("block_size", "sweeps"), [(1, 3), slow(3, 4)])
def test_after_k_sweeps_k_blocks_are_exact_whatever_the_linearization(linearization, block_size, sweeps):
    chaos = logistic_map(60)
    with pytest.warns(ParallelStallWarning, match="stopped at max_iters"):
        solution = deer(*chaos, block_size=block_size, linearization=linearization, max_iters=sweeps)
    assert Status(int(solution.status)) is Status.MAX_ITERS
    assert int(solution.num_iters) == sweeps
    assert sweeps * block_size <= int(solution.exact_prefix) < 60
    known = slice(0, sweeps * block_size)
    np.testing.assert_allclose(solution.states[known], rollout(*chaos)[known], rtol=1e-10)


@pytest.mark.parametrize("linearization", [Dense(), Identity(), Zero()], ids=str)
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
        (affine(T)._replace(step=diagonal_step), Diagonal(1)),  # sign vectors are exact on diagonals
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


# What the path does not depend on


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
    "settings", [{"clip": None}, slow({"max_step": None}), {"clip": 0.5, "max_step": 0.1}], ids=str
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
    # A jump of the state, in units of the scale, shrinks by 0.9 in the step after it.
    np.testing.assert_allclose(jumps.max(), 0.9 * 2.0 * float(solution.defect), rtol=1e-6)


@pytest.mark.parametrize("linearization", [Zero(), Dense()], ids=str)
def test_the_defect_is_the_jump_left_between_blocks(linearization):
    chain = Recursion(fade, jnp.array(0.0), noise(60))
    guess = rollout(*chain).at[29].add(0.004)  # the state from which block 3 of 10 steps starts
    settings = {"block_size": 10, "linearization": linearization, "scale": jnp.array(2.0), "initial_guess": guess}
    solution = deer(*chain, **settings, atol=1e-2)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 1)
    np.testing.assert_allclose(float(solution.defect), 0.002, rtol=1e-9)
    # Ten steps on, 0.9^10 of it is left: the next block starts that far from where it is reached.
    np.testing.assert_allclose(solution.block_defects[0], [0, 0, 0, 0.002, 0.002 * 0.9**10, 0], atol=1e-12)
    assert int(np.argmax(residuals(chain, solution.states))) == 30


def test_jumps_inside_blocks_are_within_tolerance_too_when_guesses_are_far_off():
    # Paths that still come in from afar must not widen the unit in which they are measured.
    chain = Recursion(fade, jnp.array(0.0), noise(2000))
    guess = jnp.full(2000, 1e8)
    solution = deer(*chain, block_size=500, linearization=Zero(), initial_guess=guess)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert float(solution.defect) < 2e-10
    assert_same_path(solution.states, rollout(*chain))


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


def test_scale_is_the_unit_of_defects(chain):
    units = [jax.tree.map(lambda leaf, u=u: jnp.full_like(leaf, u), chain.initial_state) for u in (1.0, 10.0)]
    first, second = (deer(*chain, scale=unit, **PATIENT).defect_history[0] for unit in units)
    np.testing.assert_allclose(first, 10 * second, rtol=1e-12)


# The work


@pytest.mark.parametrize(
    ("linearization", "tangents"),
    [(Zero(), 0), (Identity(), 0), (Diagonal(), 3), (Diagonal(2), 2), (Dense(), 3)],
    ids=str,
)
def test_one_block_costs_one_evaluation_and_its_tangents(chain, truth, linearization, tangents):
    solution = deer(*chain, block_size=T, linearization=linearization)
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 1)
    assert float(solution.evals_per_step) == 1 + tangents
    assert_same_path(solution.states, truth, atol=1e-14)


@pytest.mark.parametrize(("linearization", "tangents"), [(Identity(), 0), (Diagonal(2), 2), (Dense(), 3)], ids=str)
def test_every_sweep_counts_every_lane_and_tangent(chain, linearization, tangents):
    solution = deer(*chain, block_size=16, linearization=linearization)  # 4 blocks of 16 for 50 steps
    assert Status(int(solution.status)) is Status.CONVERGED
    assert float(solution.evals_per_step) == pytest.approx(int(solution.num_iters) * 4 * 16 * (1 + tangents) / T)


@pytest.mark.parametrize("memory", [1, 20])
def test_coalescing_blocks_run_once_and_then_until_they_have_met(memory):
    chain = delay_line(memory, 400)
    solution = deer(*chain, block_size=40, linearization=Zero())
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 2)
    assert float(solution.evals_per_step) == (40 + memory) / 40
    assert float(solution.defect) == 0.0
    np.testing.assert_array_equal(solution.states, rollout(*chain))


def keeping(rates: jax.Array) -> Recursion:
    """Keeps so much of its state in each step, and adds noise to it."""

    def step(state: jax.Array, drive: tuple) -> jax.Array:
        rate, u = drive
        return rate * state + u

    return Recursion(step, jnp.array(7.0), (rates, noise(len(rates))))


def forgetting_at(places: list[int], num_steps: int) -> Recursion:
    """Keeps all of its state, but forgets it, exactly, in some steps."""
    return keeping(jnp.ones(num_steps).at[jnp.array(places)].set(0.0))


def test_blocks_that_have_met_stay_as_they_are():
    # All blocks but the fourth bring a difference down to 1e-12, within tolerance but not to nothing.
    chain = keeping(jnp.full(400, 0.5).at[120:160].set(1.0))
    solution = deer(*chain, block_size=40, linearization=Zero(), scale=jnp.array(1.0))
    assert (Status(int(solution.status)), int(solution.num_iters)) == (Status.CONVERGED, 3)
    second, third = solution.block_defects[1, 6:], solution.block_defects[2, 6:]
    assert (second > 0).any()
    np.testing.assert_array_equal(third, second)
    assert_same_path(solution.states, rollout(*chain), atol=1e-9)


def test_coalescing_blocks_that_forget_within_a_block_cost_little_more_than_one():
    chain = contraction(1000)
    solution = deer(*chain, block_size=250, linearization=Zero())
    assert Status(int(solution.status)) is Status.CONVERGED
    assert 1 < float(solution.evals_per_step) < 1.35


# How a solve ends


@pytest.mark.parametrize("start", [0.2345, slow(0.77)])
@pytest.mark.parametrize(("linearization", "block_size"), [(Dense(), 1), (Dense(), 16), (Zero(), 16)], ids=str)
def test_chaos_stalls_and_is_finished_step_by_step(linearization, block_size, start):
    chaos = logistic_map(600, start)
    with pytest.warns(ParallelStallWarning, match=r"blocks stopped meeting.*cost more than a sequential run"):
        solution = deer(*chaos, block_size=block_size, linearization=linearization)
    assert Status(int(solution.status)) is Status.STALLED
    assert int(solution.exact_prefix) < 600
    # Chaos doubles any difference at every step: equal to rounding means equal.
    np.testing.assert_array_equal(solution.states, rollout(*chaos))
    assert float(solution.defect) == 0.0


@pytest.mark.parametrize(("linearization", "num_tangents"), [(Zero(), 0), slow(Identity(), 0), (Dense(), 2)], ids=str)
def test_a_stalled_solve_of_an_unpredictable_chain_is_still_the_rollout(linearization, num_tangents):
    # Neutral, not chaotic: no difference shrinks, none grows, so that the path is well defined to rounding.
    def rotate(state: jax.Array, drive: jax.Array) -> jax.Array:
        angle = drive + 2.0 * jnp.sum(state**2)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * state[0] - sin * state[1], sin * state[0] + cos * state[1]])

    chain = Recursion(rotate, jnp.array([1.0, 0.0]), noise(600))
    with pytest.warns(ParallelStallWarning, match="blocks stopped meeting"):
        solution = deer(*chain, block_size=16, linearization=linearization, stall_after=2)
    assert Status(int(solution.status)) is Status.STALLED
    assert int(solution.num_iters) == 2
    assert 32 <= int(solution.exact_prefix) < 600
    assert_same_path(solution.states, rollout(*chain))
    assert float(solution.evals_per_step) <= 2 * (1 + num_tangents) * 608 / 600 + 1


def test_max_iters_warns_and_says_how_far_the_path_is_exact(chain, truth):
    with pytest.warns(ParallelStallWarning, match=r"exact only up to its exact prefix.*Raise max_iters"):
        solution = deer(*chain, block_size=2, linearization=Zero(), max_iters=3)
    assert Status(int(solution.status)) is Status.MAX_ITERS
    assert not Status.MAX_ITERS.is_exact
    prefix = int(solution.exact_prefix)
    assert 6 <= prefix < T
    assert_same_path(*(jax.tree.map(lambda leaf: leaf[:prefix], path) for path in (solution.states, truth)))
    assert float(solution.defect) > 1e-10


@pytest.mark.parametrize(
    ("linearization", "block_size"), [(Dense(), 1), slow(Identity(), 1), slow(Diagonal(), 8), (Zero(), 8)], ids=str
)
def test_a_path_that_is_truly_nan_is_reported_not_repaired(linearization, block_size):
    def step(state: jax.Array, drive: tuple) -> jax.Array:
        t, u = drive
        return jnp.where(t == 25, jnp.nan, 0.5 * state + u)

    chain = Recursion(step, jnp.ones(2), (jnp.arange(T), noise(T, 2)))
    with pytest.warns(ParallelStallWarning, match="NaN or infinite"):
        solution = deer(*chain, block_size=block_size, linearization=linearization)
    assert Status(int(solution.status)) is Status.NON_FINITE
    assert np.isnan(solution.states[25:]).all()
    np.testing.assert_allclose(solution.states[:25], rollout(*chain)[:25], atol=1e-8)


def test_an_overflowing_path_is_reported():
    chain = Recursion(lambda s, _: 1e100 * s, jnp.ones(1), jnp.arange(10))
    with pytest.warns(ParallelStallWarning, match="NaN or infinite"):
        solution = deer(*chain, block_size=2)
    assert Status(int(solution.status)) is Status.NON_FINITE
    np.testing.assert_array_equal(np.isfinite(solution.states[:, 0]), np.arange(10) < 3)


# Transformations


def test_under_jit_the_status_is_returned_and_nothing_warns(truth, chain):
    solution = jax.jit(lambda state: deer(chain.step, state, chain.inputs, block_size=7, max_iters=1))(
        chain.initial_state
    )
    assert Status(int(solution.status)) is Status.MAX_ITERS
    first = jax.tree.map(lambda leaf: leaf[:7], (solution.states, truth))
    assert_same_path(*first, atol=1e-12)


@pytest.mark.parametrize("linearization", [Dense(), Zero()], ids=str)
@pytest.mark.slow
def test_vmap_over_chains(linearization):
    chains = [contraction(T, seed=seed) for seed in range(3)]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(chain.inputs for chain in chains))
    run = partial(deer, chains[0].step, chains[0].initial_state, block_size=10, linearization=linearization, **PATIENT)
    solutions = jax.vmap(run)(inputs)
    for index, chain in enumerate(chains):
        assert Status(int(solutions.status[index])) is Status.CONVERGED
        assert_same_path(jax.tree.map(lambda leaf, i=index: leaf[i], solutions.states), rollout(*chain))


@pytest.mark.parametrize(
    "method",
    [
        slow(DEER(10, Zero())),
        DEER(3, Dense()),
        DEER(10, Zero(), stall_after=2),
    ],
    ids=str,
)
def test_chains_under_vmap_are_each_right(method):
    decays = jnp.array([0.0, 0.5, 0.9])
    inputs = noise(3, T)

    def one(decay: jax.Array, drive: jax.Array) -> tuple[parsample.Solution, jax.Array]:
        transition, start = from_step(lambda s, u: decay * jnp.sin(s) + u, jnp.array([2.0]))
        solution = solve(transition, start, as_inputs(drive), method)
        return finish(transition, as_inputs(drive), solution, method.block_size)

    solutions = jax.jit(jax.vmap(one))(decays, inputs)
    assert all(Status(int(status)).is_exact for status in solutions.status)
    for index in range(3):
        expected = rollout(lambda s, u, a=decays[index]: a * jnp.sin(s) + u, jnp.array([2.0]), inputs[index])
        np.testing.assert_allclose(solutions.states[index], expected, atol=1e-8)


def test_the_exact_front_takes_in_blocks_that_have_met():
    # Rounding is left where blocks meet, and one near the end never forgets: it must not cost the others.
    def step(state: jax.Array, drive: tuple) -> jax.Array:
        rate, u = drive
        return jnp.where(rate > 1, 4 * state * (1 - state), rate * state + jnp.abs(jnp.sin(u)) * (1 - rate))

    rates = jnp.full(3200, 0.5).at[2400:].set(2.0)  # a contraction to within (0, 1), then chaos
    chain = Recursion(step, jnp.array(0.3), (rates, noise(3200)))
    with pytest.warns(ParallelStallWarning, match="blocks stopped meeting"):
        solution = deer(*chain, block_size=40, linearization=Zero())
    assert int(solution.exact_prefix) >= 2400
    np.testing.assert_array_equal(solution.states, rollout(*chain))


def test_the_solution_is_a_function_of_its_arguments(chain):
    first, second = (deer(*chain, block_size=7, linearization=Diagonal(2)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
