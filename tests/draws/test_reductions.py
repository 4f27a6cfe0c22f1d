"""Running summaries, over pieces of uneven sizes, against those of all draws at once."""

import functools
import itertools
import sys

import numpy as np
import pytest

from parsample import Covariance, Moments, Quantiles
from parsample.draws.reductions import Reduction, RunningReductions, checked_reductions

RNG = np.random.default_rng(0)
# Three chains with means far from zero, where sums of squares would lose all digits of float32.
DRAWS = {
    "x": 1000 + RNG.normal(size=(3, 500, 2)) * [1, 5] + np.arange(3)[:, None, None],
    "y": RNG.gamma(2, size=(3, 500)),
}
ENDS = (0, 1, 8, 8, 200, 499, 500)  # a first piece of one draw, and an empty one


def pieces(draws: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [
        {name: values[:, first:end] for name, values in draws.items()}
        for first, end in itertools.pairwise(ENDS)
        if end > first
    ]


def reduced(reduce: object, draws: dict[str, np.ndarray] = DRAWS) -> object:
    running = RunningReductions(reduce)
    assert running.results() in (None, {})
    for piece in pieces(draws):
        running.add(piece)
    return running.results()


def as_type(dtype: type) -> dict[str, np.ndarray]:
    return {name: values.astype(dtype) for name, values in DRAWS.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_those_of_all_draws(dtype):
    draws = as_type(dtype)
    found = reduced(Moments(), draws)
    for name, values in draws.items():
        exact = values.astype(float)
        flat = exact.reshape(1500, *exact.shape[2:])
        np.testing.assert_allclose(found[name]["mean"], flat.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found[name]["sd"], flat.std(0, ddof=1), rtol=1e-10)
        within, between = exact.var(1, ddof=1).mean(0), exact.mean(1).var(0, ddof=1)
        np.testing.assert_allclose(found[name]["r_hat"], np.sqrt(499 / 500 + between / within), rtol=1e-10)
        assert {array.shape for array in found[name].values()} == {exact.shape[2:]}
    assert found["x"]["r_hat"][0] > 1.2


def test_moments_of_one_chain_have_no_r_hat():
    found = reduced(Moments(), {"y": DRAWS["y"][:1]})["y"]
    assert np.isnan(found["r_hat"])
    np.testing.assert_allclose(found["sd"], DRAWS["y"][0].std(ddof=1), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_covariances_are_those_of_all_draws(dtype):
    draws = as_type(dtype)
    flat = np.concatenate([values.astype(float).reshape(1500, -1) for values in draws.values()], axis=1)
    found = reduced(Covariance(), draws)
    np.testing.assert_allclose(found["mean"], flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["covariance"], np.cov(flat.T), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_have_the_ranks_asked_for(dtype):
    probabilities = (0.01, 0.5, 0.9)
    draws = as_type(dtype)
    found = reduced(Quantiles(*probabilities), draws)
    assert {name: values.shape for name, values in found.items()} == {"x": (3, 2), "y": (3,)}
    for name, values in draws.items():
        flat = values.reshape(1500, -1)
        for probability, quantiles in zip(probabilities, found[name].reshape(3, -1), strict=True):
            np.testing.assert_allclose((flat <= quantiles).mean(0), probability, atol=5e-3)


class Largest:
    """The user's own: the largest value of each chain."""

    def of(self, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values.max(axis=1) for name, values in draws.items()}

    def combine(self, earlier: dict[str, np.ndarray], later: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.maximum(earlier[name], later[name]) for name in earlier}


class Order:
    """Not commutative: the sizes of pieces, in their order."""

    def of(self, draws: dict[str, np.ndarray]) -> tuple[int, ...]:
        return (draws["y"].shape[1],)

    def combine(self, earlier: tuple[int, ...], later: tuple[int, ...]) -> tuple[int, ...]:
        return earlier + later

    def result(self, value: tuple[int, ...]) -> list[int]:
        return list(value)


def test_a_users_own_summary_is_combined_in_order():
    np.testing.assert_array_equal(reduced(Largest())["x"], DRAWS["x"].max(1))
    assert reduced(Order()) == [1, 7, 192, 299, 1]


def test_several_have_names():
    found = reduced({"moments": Moments(), "largest": Largest()})
    assert list(found) == ["moments", "largest"]
    np.testing.assert_array_equal(found["moments"]["y"]["mean"], reduced(Moments())["y"]["mean"])
    np.testing.assert_array_equal(found["largest"]["y"], DRAWS["y"].max(1))


def test_an_error_in_one_leaves_none_ahead_of_the_others():
    class Fails(Largest):
        def combine(self, earlier: object, later: object) -> None:
            raise KeyboardInterrupt

    running = RunningReductions({"order": Order(), "fails": Fails()})
    running.add(DRAWS)
    with pytest.raises(KeyboardInterrupt):
        running.add(DRAWS)
    assert running.values["order"] == (500,)


@pytest.mark.parametrize("reduce", [Moments, "moments", {"a": Moments(), "b": 3.0}, functools.partial(Moments)])
def test_what_is_no_reduction_is_refused(reduce):
    with pytest.raises(TypeError, match=r"reduce must be an object with of\(draws\) and combine\(earlier, later\)"):
        checked_reductions(reduce)


def test_reductions_pass():
    for reduce in (None, Largest(), {"a": Moments(), "b": Covariance()}):
        assert checked_reductions(reduce) is reduce
    assert isinstance(Largest(), Reduction)


@pytest.mark.parametrize("probabilities", [(), (0.5, 1.1), (-0.1,), (np.nan,)])
def test_quantiles_need_probabilities(probabilities):
    with pytest.raises(ValueError, match="Quantiles takes probabilities between 0 and 1"):
        Quantiles(*probabilities)


def test_quantiles_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(ImportError, match=r"pip install 'parsample\[sketches\]'"):
        Quantiles(0.5)
