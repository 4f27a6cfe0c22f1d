"""One trajectory in parallel over its steps, against BlackJAX's integrator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import new_integrator_state, velocity_verlet
from blackjax.mcmc.metrics import default_metric
from chains import gaussian, gaussian_start, logistic_regression, logistic_regression_start

from parsample import DEER, Dense, Diagonal, Sequential, Status, integrate

METRIC = jnp.array([0.5, 1.0, 2.0, 0.7])
SETTINGS = {"step_size": 0.03, "inverse_mass_matrix": METRIC, "num_integration_steps": 32}
START = logistic_regression_start()
MOMENTUM = {"intercept": jnp.array(-0.7), "beta": jnp.array([1.0, 0.3, -2.0])}


@pytest.fixture(scope="module")
def expected():
    """Where BlackJAX's trajectory ends."""
    step = velocity_verlet(logistic_regression, default_metric(METRIC).kinetic_energy)
    begin = new_integrator_state(logistic_regression, START, MOMENTUM)
    end = jax.lax.fori_loop(0, 32, lambda _, state: step(state, 0.03), begin)
    return end.position, end.momentum


def difference(found, expected) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True))


@pytest.mark.parametrize(
    ("method", "status"),
    [
        (None, Status.CONVERGED),
        pytest.param(DEER(4, Dense(), clip=None, max_step=None), Status.CONVERGED, marks=pytest.mark.slow),
        (Sequential(), Status.SEQUENTIAL),
    ],
    ids=["default", "blocks", "sequential"],
)
def test_trajectories_end_where_blackjax_ends(expected, method, status):
    position, momentum, solution = integrate(logistic_regression, START, MOMENTUM, **SETTINGS, method=method)
    assert Status(int(solution.status)) is status
    assert difference((position, momentum), expected) < 1e-10
    assert solution.states.position.shape == solution.states.momentum.shape == (32, 4)
    assert int(solution.num_iters) < 12
    np.testing.assert_allclose(solution.states.position[-1], jnp.append(position["beta"], position["intercept"]))


@pytest.mark.slow
def test_small_blocks_need_fewer_sweeps_than_a_diagonal():
    # Coordinates of this target do not interact: 2 x 2 blocks are the whole Jacobian, and its dynamics are linear.
    momentum = jax.tree.map(jnp.ones_like, gaussian_start())
    settings = {**SETTINGS, "inverse_mass_matrix": jnp.array([1.0, 0.5, 0.3]), "num_integration_steps": 40}
    _, _, blocks = integrate(gaussian, gaussian_start(), momentum, **settings)
    assert (Status(int(blocks.status)), int(blocks.num_iters)) == (Status.CONVERGED, 2)
    method = DEER(linearization=Diagonal(), clip=None, max_step=None, stall_after=1000)
    position, _, diagonal = integrate(gaussian, gaussian_start(), momentum, **settings, method=method)
    assert Status(int(diagonal.status)) is Status.CONVERGED
    assert int(diagonal.num_iters) > 10
    assert difference(position["x"], blocks.states.position[-1, :2]) < 1e-8


BAD = [
    ({"step_size": 0.0}, ValueError, r"step_size must be positive; got 0\.0"),
    ({"step_size": np.nan}, ValueError, "step_size must be positive; got nan"),
    ({"num_integration_steps": 0}, ValueError, "num_integration_steps must be a whole number of at least 1; got 0"),
    ({"inverse_mass_matrix": jnp.ones(3)}, ValueError, r"inverse_mass_matrix have 4, 4 and \(3,\) entries"),
    ({"momentum": {"p": jnp.ones(3)}}, ValueError, "have 4, 3 and"),
    ({"position": {"x": jnp.full(4, jnp.nan)}}, ValueError, r"position\['x'\] is not finite"),
    ({"momentum": {"p": jnp.arange(4)}}, TypeError, r"momentum\['p'\] has dtype int64"),
    ({"method": "deer"}, TypeError, r"method must be parsample\.DEER.*got 'deer'"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments(as_users_have_it, change, error, words):
    arguments = {"position": START, "momentum": MOMENTUM, **SETTINGS} | change
    with pytest.raises(error, match=words):
        integrate(logistic_regression, arguments.pop("position"), arguments.pop("momentum"), **arguments)
