"""A stalled solve is finished step by step and equals the rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import Recursion, logistic_map, noise
from marks import slow
from paths import T, assert_same_path
from warned import warns_here

import parsample
from parsample import DEER, Dense, Identity, ParallelStallWarning, Status, Zero, deer, rollout
from parsample.chain.transition import as_inputs, from_step
from parsample.solver.finish import finish
from parsample.solver.newton import solve

DEVICES = jax.devices()


@pytest.mark.parametrize("start", [0.2345, slow(0.77)])
@pytest.mark.parametrize(("linearization", "block_size"), [(Dense(), 1), slow(Dense(), 16), (Zero(), 16)], ids=str)
def test_chaos_stalls_and_is_finished_step_by_step(linearization, block_size, start):
    chaos = logistic_map(600, start)
    with warns_here(ParallelStallWarning, match=r"blocks stopped meeting.*cost more than a sequential run"):
        solution = deer(*chaos, block_size=block_size, linearization=linearization)
    assert Status(int(solution.status)) is Status.STALLED
    assert int(solution.exact_prefix) < 600
    # Chaos doubles any difference at every step, so a path close to the rollout must equal it exactly.
    np.testing.assert_array_equal(solution.states, rollout(*chaos))
    assert float(solution.defect) == 0.0


@pytest.mark.parametrize(
    ("linearization", "num_tangents"), [slow(Zero(), 0), slow(Identity(), 0), (Dense(), 2)], ids=str
)
def test_a_stalled_solve_of_an_unpredictable_chain_is_still_the_rollout(linearization, num_tangents):
    # Neutral, not chaotic: differences neither shrink nor grow, so the path is well defined to rounding.
    def rotate(state: jax.Array, drive: jax.Array) -> jax.Array:
        angle = drive + 2.0 * jnp.sum(state**2)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * state[0] - sin * state[1], sin * state[0] + cos * state[1]])

    chain = Recursion(rotate, jnp.array([1.0, 0.0]), noise(600))
    with warns_here(ParallelStallWarning, match="blocks stopped meeting"):
        solution = deer(*chain, block_size=16, linearization=linearization, stall_after=2)
    assert Status(int(solution.status)) is Status.STALLED
    assert int(solution.num_iters) == 2
    assert 32 <= int(solution.exact_prefix) < 600
    assert_same_path(solution.states, rollout(*chain))
    assert float(solution.evals_per_step) <= 2 * (1 + num_tangents) * 608 / 600 + 1


@pytest.mark.parametrize(("linearization", "block_size"), [(Zero(), 10), slow(Dense(), 1)], ids=str)
def test_a_chaotic_chain_is_finished_by_the_devices_in_turn(linearization, block_size):
    chain = logistic_map(403)
    with warns_here(ParallelStallWarning, match="step by step"):
        solution = deer(*chain, block_size=block_size, linearization=linearization, stall_after=5, devices=DEVICES[:3])
    assert Status(int(solution.status)) is Status.STALLED
    np.testing.assert_array_equal(solution.states, rollout(*chain))
    np.testing.assert_array_equal(solution.final, solution.states[-1])
    assert 0 < int(solution.exact_prefix) < 403


@pytest.mark.parametrize(
    "method",
    [
        slow(DEER(10, Zero())),
        slow(DEER(3, Dense())),
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
