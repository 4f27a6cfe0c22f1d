"""The papers' corrections of block starts against their definitions, and solves with them against the rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import MATRIX, Recursion, noise
from marks import slow
from matrices import FORMS, full, random_operators

from benchmarks.papers.tools.coordinates import Coordinates
from benchmarks.papers.tools.corrections import GradientDescent, NewtonIn, TrustRegion
from benchmarks.papers.tools.linearizations import BlockDiagonal, DiagonalIn
from benchmarks.papers.tools.predictability import merit as merit_of
from benchmarks.papers.tools.small_blocks import SmallBlocksOperator
from parsample import Dense, Identity, Newton, Status, Zero, deer, rollout
from parsample.solver.operators import DenseOperator, Operator

ALL_FORMS = (*FORMS, SmallBlocksOperator)
C = 4
DEFECTS = np.random.default_rng(5).normal(size=(C, 6))
SCALE = np.array([0.01, 1.0, 3.0, 0.5, 20.0, 0.2])


def corrected(correction, operators: Operator) -> np.ndarray:
    return np.asarray(jax.jit(correction)(operators, jnp.array(DEFECTS), jnp.array(SCALE)))


@pytest.mark.parametrize("form", ALL_FORMS)
def test_a_trust_region_without_weight_is_newtons_method(form):
    operators = random_operators(form, C)
    np.testing.assert_allclose(corrected(TrustRegion(0.0), operators), corrected(Newton(), operators), rtol=1e-9)


def last_of_levenberg_marquardt(matrices: np.ndarray, num_blocks: int, weight: float) -> np.ndarray:
    """The last of the corrections that minimise ``sum |delta_c - A delta_{c-1} - d_c|^2 + weight |delta_c|^2``."""
    dimension = SCALE.size
    scaled = matrices * SCALE / SCALE[:, None]
    jacobian = np.eye(num_blocks * dimension)
    for c in range(1, num_blocks):
        here, before = (slice(k * dimension, (k + 1) * dimension) for k in (c, c - 1))
        jacobian[here, before] = -scaled[c - 1]
    rows = np.vstack([jacobian, np.sqrt(weight) * np.eye(num_blocks * dimension)])
    right = np.concatenate([(DEFECTS[:num_blocks] / SCALE).ravel(), np.zeros(num_blocks * dimension)])
    return np.linalg.lstsq(rows, right)[0][-dimension:] * SCALE


@pytest.mark.parametrize("form", ALL_FORMS)
def test_trust_regions_correct_each_block_as_levenberg_and_marquardt_would_the_last(form):
    # The mean of the filter at block c uses blocks 1 to c only: it is the last part of their minimiser.
    weight, operators = 0.3, random_operators(form, C)
    expected = [last_of_levenberg_marquardt(full(operators), c, weight) for c in range(1, C + 1)]
    np.testing.assert_allclose(corrected(TrustRegion(weight), operators), expected, rtol=1e-8, atol=1e-12)


def bend(state: jax.Array, drive: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.asarray(MATRIX) @ state) + drive


def test_gradient_descent_descends_the_merit_function():
    num_steps = 12
    chain = Recursion(bend, jnp.ones(3), noise(num_steps, 3))
    starts = jnp.concatenate([chain.initial_state[None], noise(num_steps - 1, 3, seed=1)])  # of blocks of one step
    defects = jax.vmap(bend)(starts, chain.inputs)[:-1] - starts[1:]
    defects = jnp.concatenate([jnp.zeros((1, 3)), defects])
    operators = DenseOperator(jax.vmap(jax.jacfwd(bend))(starts, chain.inputs))
    deltas = GradientDescent(0.1)(operators, defects, jnp.ones(3))

    def merit(guess: jax.Array) -> jax.Array:
        return merit_of(bend, chain.initial_state, chain.inputs[:-1], guess)

    assert float(merit(starts[1:])) > 1
    np.testing.assert_allclose(deltas[1:], -0.1 * jax.grad(merit)(starts[1:]), rtol=1e-10)


@pytest.mark.parametrize("form", ALL_FORMS)
def test_gradients_pull_by_the_transposed_matrices(form):
    operators = random_operators(form, C)
    pulled = np.einsum("cji,cj->ci", full(operators)[:-1], DEFECTS[1:])
    expected = 0.2 * (DEFECTS - np.vstack([pulled, np.zeros(6)]))
    np.testing.assert_allclose(corrected(GradientDescent(0.2), operators), expected, rtol=1e-12)


# With the solver

T = 40
WEIGHTS = np.random.default_rng(2).normal(size=(4, 4)) / 3


def couple(state: jax.Array, drive: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.asarray(WEIGHTS) @ state) + drive


@pytest.fixture(scope="module")
def chain() -> Recursion:
    return Recursion(couple, jnp.array([2.0, -1.0, 0.5, 3.0]), noise(T, 4))


TURNED = Coordinates.orthogonal(np.eye(4) + 0.5)
# Linearization, correction, block size, most sweeps; no rule needs more sweeps than blocks, 40 or 6 here.
PAIRS = [
    (Dense(), TrustRegion(0.1), 1, 20),
    slow(Dense(), GradientDescent(0.5), 1, 40),
    slow(DiagonalIn(TURNED), NewtonIn(TURNED), 1, 39),
    slow(BlockDiagonal(2), TrustRegion(0.1), 1, 39),
    slow(BlockDiagonal(2, 1), Newton(0.2), 7, 6),
    slow(Identity(), TrustRegion(2.0), 7, 6),
    slow(Zero(), GradientDescent(1.0), 7, 6),
]


@pytest.mark.parametrize(("linearization", "correction", "block_size", "max_sweeps"), PAIRS, ids=str)
def test_every_correction_finds_the_rollout(chain, linearization, correction, block_size, max_sweeps):
    settings = {"linearization": linearization, "correction": correction, "block_size": block_size}
    solution = deer(*chain, **settings, stall_after=10_000)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert int(solution.num_iters) <= max_sweeps
    assert float(solution.defect) < 2e-10
    np.testing.assert_allclose(solution.states, rollout(*chain), atol=1e-8)


# Bad settings


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrustRegion(-1.0), r"weight must not be negative, and finite; got -1\.0"),
        (lambda: TrustRegion(float("nan")), "weight must not be negative, and finite; got nan"),
        (lambda: GradientDescent(0.0), r"step_size must be positive and finite; got 0\.0"),
        (lambda: GradientDescent(float("nan")), "step_size must be positive and finite; got nan"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_coordinates_have_as_many_axes_as_the_state(chain):
    with pytest.raises(ValueError, match="coordinates have 2 axes; the state has 4 dimensions"):
        deer(*chain, linearization=DiagonalIn(Coordinates(np.eye(2))))
