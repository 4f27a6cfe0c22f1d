"""Before chains run: bad arguments are refused, and single steps are timed if the plan depends on them."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import black_box, gaussian, gaussian_start
from refusals import refused
from results import ADAPTATION, PARAMETERS
from runs import KEY, assert_same_draws, run
from small import SCALES, SIZES, bell, small
from warned import warns_here

from parsample import Model, ParallelStallWarning, SamplingWarning, Status
from parsample.kernels.whitening import Coordinates
from parsample.samplers.prepare import Prepared, Start, _single_step_cost, prepare
from parsample.samplers.progress_bar import Progress
from parsample.samplers.sample import check_sampler, sample
from parsample.samplers.settings import SamplerSettings


@pytest.mark.parametrize(("cost", "status"), [(10.0, Status.CONVERGED), (1e-3, Status.SEQUENTIAL)])
def test_a_plan_that_depends_on_single_steps_times_them(cost, status, monkeypatch):
    expected = run("hmc", "sequential", 4000)
    monkeypatch.setattr("parsample.samplers.prepare.depends_on_single_steps", lambda *_: True)
    monkeypatch.setattr("parsample.samplers.prepare._single_step_cost", lambda *timed: cost * _single_step_cost(*timed))
    with warns_here(ParallelStallWarning) if status is Status.SEQUENTIAL else contextlib.nullcontext():
        result = sample(KEY, gaussian, gaussian_start(), num_samples=4000, num_chains=2, progress_bar=False)
    assert result.status is status
    assert result.report.measured.seconds_to_compile == 0
    assert_same_draws(result, expected)


def test_a_black_box_that_cannot_be_batched_runs_step_by_step_with_one_warning():
    density = functools.partial(black_box, vmap_method=None)
    with warns_here(ParallelStallWarning, match=r"calls back to Python.*vmap_method") as caught:
        result = sample(
            KEY, density, jnp.zeros(1), num_samples=60, num_warmup=100, num_chains=2, kernel="metropolis",
            progress_bar=False,
        )  # fmt: skip
    # And one at the end: the draws are too few.
    assert [warning.category for warning in caught] == [ParallelStallWarning, SamplingWarning]
    assert result.status is Status.SEQUENTIAL
    assert np.unique(result.positions).size > 20


X = np.array([0.5, -0.5])
BAD_POSITIONS: dict[str, tuple[Any, type, str]] = {
    "integers": ({"x": np.arange(2), "y": np.zeros((1, 1))}, TypeError, r"initial_position\['x'\] has dtype int.*conv"),
    "a Python integer": (0, TypeError, r"initial_position has dtype int.*convert"),
    "NaN": ({"x": X, "y": np.full((1, 1), np.nan)}, ValueError, r"initial_position\['y'\] is not finite: .*nan.*Start"),
    "infinite": ({"x": X * np.inf, "y": np.zeros((1, 1))}, ValueError, r"initial_position\['x'\] is not finite"),
    "shape": (
        {"x": np.zeros(3), "y": np.zeros((1, 1))},
        ValueError,
        r"cannot be evaluated at initial_position .*\[3\]",
    ),
    "a missing leaf": ({"x": X}, ValueError, r"cannot be evaluated at initial_position .*'y'"),
    "empty": ({}, ValueError, r"initial_position holds no arrays; got \{\}"),
    "float32": (
        {"x": X, "y": jnp.zeros((1, 1), "float32")},
        TypeError,
        r"\['y'\] has dtype float32.*astype\(float64\)",
    ),
}


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize("case", BAD_POSITIONS)
def test_a_bad_position_is_refused(case):
    position, error, message = BAD_POSITIONS[case]
    with pytest.raises(error, match=message):
        refused(position=position)


def without_gradient(x: jax.Array) -> jax.Array:
    return jax.pure_callback(
        lambda v: -0.5 * np.sum(v * v, -1), jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims"
    )


BAD_DENSITIES: dict[str, tuple[Any, type, str]] = {
    "not callable": (3.0, TypeError, r"logdensity_fn must be callable; got 3\.0"),
    "NaN": (lambda x: jnp.log(x[1]), ValueError, r"logdensity_fn is nan at initial_position; start where it is finite"),
    "-inf": (lambda x: jnp.where(x[0] > 1, 0.0, -jnp.inf), ValueError, r"is -inf at initial_position; start where"),
    "a vector": (lambda x: -(x**2), ValueError, r"must return one floating-point scalar; it returns .*2.*Sum"),
    "a pair": (lambda x: (x[0], x[1]), ValueError, r"must return one floating-point scalar.*Sum its terms"),
    "an integer": (lambda x: jnp.int32(1), ValueError, r"must return one floating-point scalar.*int32"),
    "nothing": (lambda x: None, ValueError, r"must return one floating-point scalar; it returns None"),
    "raising": (lambda x: x[0] @ x, ValueError, r"cannot be evaluated at initial_position \(float64\[2\]\)"),
    "no gradient": (without_gradient, ValueError, r"has no gradient at initial_position: .+metropolis' needs none"),
    "NaN gradient": (
        lambda x: jnp.sqrt(jnp.abs(x[0] - 0.5)),
        ValueError,
        r"has gradient .* at initial_position; start",
    ),
}


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize("case", BAD_DENSITIES)
def test_a_bad_log_density_is_refused(case):
    density, error, message = BAD_DENSITIES[case]
    with pytest.raises(error, match=message):
        refused(density, jnp.asarray(X))


@pytest.mark.parametrize(("num_lanes", "expected"), [(None, 16), (32, 32)])
def test_an_expensive_log_density_has_fewer_lanes_unless_the_user_names_a_number(monkeypatch, num_lanes, expected):
    monkeypatch.setattr("parsample.samplers.placement.EXPENSIVE_ROW_SECONDS", 0.0)
    monkeypatch.setattr("parsample.samplers.placement.MAX_LANE_COST_RATIO", np.inf)
    found = check_sampler(KEY, gaussian, gaussian_start(), num_samples=2000, num_chains=2, num_lanes=num_lanes)
    assert found.num_lanes == expected


STARTS = np.array([[0.1, -0.2, 0.3], [1.0, 2.0, -3.0]])


def begun(kernel: str = "hmc", num_warmup: int = 0, seed: int = 0) -> Prepared:
    """Chains ready to run from `STARTS`, with the adaptation of another run."""
    settings = {**SIZES, "kernel": kernel, "num_warmup": num_warmup, "adaptation": small(kernel=kernel).adaptation}
    settings.pop("progress_bar")
    start = Start(settings["adaptation"], per_chain=True)
    model = Model(bell, jnp.asarray(STARTS))
    progress = Progress(0, is_shown=False)
    return prepare(jax.random.key(seed), model, SamplerSettings.of(**settings), progress, start=start)


@pytest.mark.parametrize("kernel", ["hmc", "metropolis", pytest.param("nuts", marks=pytest.mark.slow)])
def test_chains_without_warm_up_start_at_their_starts(kernel):
    found = begun(kernel)
    parameters, states = found.adaptation.parameters, found.run.states
    coordinates = Coordinates(parameters.center, parameters.factor)
    np.testing.assert_allclose(coordinates.position(states.position), STARTS, rtol=0, atol=1e-12)
    np.testing.assert_allclose(states.logdensity, jax.vmap(bell)(STARTS), rtol=1e-12)
    if states.logdensity_grad is not None:
        gradients = coordinates.gradient(states.logdensity_grad)
        np.testing.assert_allclose(gradients, jax.vmap(jax.grad(bell))(STARTS), rtol=1e-9)
    assert found.adaptation.num_steps == 0
    assert found.run.num_steps_done == 0


def test_the_first_draws_follow_from_the_starts():
    given = small(kernel="metropolis").adaptation
    settings = {"kernel": "metropolis", "adaptation": given, "num_warmup": 0, "starts_per_chain": True}
    draws = small(position=jnp.asarray(STARTS), **settings).positions
    distances = np.abs(draws[:, 0] - STARTS) / SCALES
    assert distances.max() < 12  # one proposal of 2.4 standard deviations in each coordinate
    far = small(position=jnp.asarray(STARTS + 1e3), **settings).positions
    assert far[:, 0].min() > 900
    # Dispersed starts of a whole warm-up leave the far tail.
    warmed = {"starts_per_chain": True, "num_warmup": 400}
    assert abs(small(position=jnp.asarray(STARTS + 50), **warmed).positions).max() < 15


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel": "mala"}, "adaptation is of kernel 'hmc'; this run has kernel 'mala'"),
        ({"position": np.zeros(4)}, "adaptation is of 3 dimensions; the position has 4"),
        ({"exact_meeting": False}, "adaptation is of exact_meeting=True; this run has False"),
        ({"num_warmup": 10}, r"num_warmup \(0, or with an adaptation\) must be a whole number of at least 64; got 10"),
    ],
)
def test_an_adaptation_of_another_run_is_refused(settings, words):
    parameters = PARAMETERS._replace(move_scales=np.full(16, 0.5))
    given = ADAPTATION._replace(parameters=parameters)
    with pytest.raises(ValueError, match=words):
        small(**{"adaptation": given, "num_warmup": 0, **settings}, model=standard)


def standard(x: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(x**2)


def last_is_bad(x: jax.Array) -> jax.Array:
    return jnp.where(x[0] > 0.5, -jnp.inf, bell(x))


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize(
    ("model", "position", "words"),
    [
        (
            bell,
            np.zeros((3, 3)),
            "starts_per_chain=True: initial_position needs a leading axis of 2 chains; ",
        ),
        (bell, np.zeros(()), r"needs a leading axis of 2 chains; it has shape \(\)"),
        (bell, np.array([[0, 0, 0], [0, np.nan, 0]]), "initial_position is not finite"),
        (standard, {"a": np.zeros((2, 3)), "b": np.zeros(3)}, r"initial_position\['b'\] needs a leading axis of 2"),
        (last_is_bad, STARTS, "is -inf at initial_position of chain 1; start"),
    ],
)
def test_starts_of_chains_that_cannot_be_are_refused(model, position, words):
    with pytest.raises(ValueError, match=words):
        small(model, jax.tree.map(jnp.asarray, position), starts_per_chain=True)
