"""Running summaries of all draws, with nothing else kept: moments, quantiles, or the user's own."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

# Size of the sketch of each component: the error of a quantile's rank is then below 0.005, and below 0.001 in the tails
# beyond 0.05 and 0.95.
SKETCH_SIZE = 1000


@runtime_checkable
class Reduction(Protocol):
    """A summary of draws that can be computed piece by piece, in order.

    Examples
    --------
    The largest value of each chain so far:

    >>> import jax, jax.numpy as jnp, numpy as np, parsample
    >>> class Largest:
    ...     def of(self, draws):
    ...         return {name: values.max(axis=1) for name, values in draws.items()}
    ...     def combine(self, earlier, later):
    ...         return {name: np.maximum(earlier[name], later[name]) for name in earlier}
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * x**2, 0.0, num_samples=500, reduce=Largest(), progress_bar=False
    ... )
    >>> result.reductions["x"].shape
    (4,)
    """

    def of(self, draws: dict[str, np.ndarray]) -> PyTree:
        """The summary of some draws, as a pytree of arrays.

        Parameters
        ----------
        draws
            Variables by name, with leading axes (chain, draw).
        """
        ...

    def combine(self, earlier: PyTree, later: PyTree) -> PyTree:
        """The summary of two consecutive ranges of draws, from the summary of each."""
        ...


class RunningMoments(NamedTuple):
    """Number, mean and sum of squared deviations of the draws of each chain.

    Attributes
    ----------
    num_draws
        Number of draws of each chain.
    mean, squares
        In float64, shape (chain, ...).
    """

    num_draws: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


class Moments:
    """Mean, standard deviation and R-hat of every variable.

    Its result has, for each variable, a dict of arrays of the variable's shape: "mean" and "sd" over all chains, and
    "r_hat" of whole chains.

    References
    ----------
    Combining means and sums of squares: Chan, Golub and LeVeque, *The American Statistician* 37 (1983).
    R-hat: Gelman and Rubin, *Statistical Science* 7 (1992).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0),
    ...     lambda x: -0.5 * jnp.sum(x**2),
    ...     jnp.zeros(2),
    ...     num_samples=20_000,
    ...     reduce=parsample.Moments(),
    ...     progress_bar=False,
    ... )
    >>> result.reductions["x"]["sd"].round(1)
    array([1., 1.])
    """

    def of(self, draws: dict[str, np.ndarray]) -> dict[str, RunningMoments]:
        """Moments of some draws."""
        return {name: _moments(values) for name, values in draws.items()}

    def combine(
        self, earlier: dict[str, RunningMoments], later: dict[str, RunningMoments]
    ) -> dict[str, RunningMoments]:
        """Moments of two consecutive ranges of draws."""
        return {name: _combined(earlier[name], later[name]) for name in earlier}

    def result(self, value: dict[str, RunningMoments]) -> dict[str, dict[str, np.ndarray]]:
        """Mean, standard deviation and R-hat over all chains."""
        return {name: _mean_sd_r_hat(moments) for name, moments in value.items()}


class Covariance:
    """Mean vector and covariance matrix of the components of all variables together.

    Its result has "mean", shape (D,), and "covariance", shape (D, D), in the order of the variables.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0),
    ...     lambda x: -0.5 * jnp.sum(x**2),
    ...     jnp.zeros(2),
    ...     num_samples=20_000,
    ...     reduce=parsample.Covariance(),
    ...     progress_bar=False,
    ... )
    >>> result.reductions["covariance"].shape
    (2, 2)
    """

    def of(self, draws: dict[str, np.ndarray]) -> RunningMoments:
        """Moments of some draws; `squares` is a matrix of shape (D, D)."""
        flat = np.concatenate([values.reshape(math.prod(values.shape[:2]), -1) for values in draws.values()], axis=1)
        mean = flat.mean(0, dtype=np.float64)
        centred = flat - mean
        return RunningMoments(np.array(float(len(flat))), mean, centred.T @ centred)

    def combine(self, earlier: RunningMoments, later: RunningMoments) -> RunningMoments:
        """Moments of two consecutive ranges of draws."""
        total = earlier.num_draws + later.num_draws
        shift = later.mean - earlier.mean
        between = np.outer(shift, shift) * (earlier.num_draws * later.num_draws / total)
        return RunningMoments(
            total, earlier.mean + shift * (later.num_draws / total), earlier.squares + later.squares + between
        )

    def result(self, value: RunningMoments) -> dict[str, np.ndarray]:
        """Mean and covariance."""
        return {"mean": value.mean, "covariance": value.squares / (value.num_draws - 1)}


class Quantiles:
    """Quantiles of every component of every variable over all chains, by t-digests of Apache DataSketches.

    Its result has, for each variable, an array of shape (probabilities, ...). The rank of each quantile is right to
    0.005, and to 0.001 in the tails, below 0.05 and above 0.95.

    Parameters
    ----------
    *probabilities
        Between 0 and 1.

    Raises
    ------
    ImportError
        If the sketches are not installed: ``pip install 'parsample[sketches]'``.

    References
    ----------
    T. Dunning, The t-digest: efficient estimates of distributions, *Software Impacts* 7 (2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0),
    ...     lambda x: -0.5 * jnp.sum(x**2),
    ...     jnp.zeros(2),
    ...     num_samples=20_000,
    ...     reduce=parsample.Quantiles(0.1, 0.5, 0.9),
    ...     progress_bar=False,
    ... )
    >>> result.reductions["x"].shape
    (3, 2)
    """

    def __init__(self, *probabilities: float) -> None:
        if not probabilities or not all(0 <= probability <= 1 for probability in probabilities):
            raise ValueError(f"Quantiles takes probabilities between 0 and 1; got {probabilities}.")
        _sketches()
        self.probabilities = probabilities

    def of(self, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Serialized digests of some draws: bytes, shape (..., length), padded by zeros."""
        return {name: _digests(values) for name, values in draws.items()}

    def combine(self, earlier: dict[str, np.ndarray], later: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Digests of two consecutive ranges of draws."""
        return {name: _merged(earlier[name], later[name]) for name in earlier}

    def result(self, value: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The quantiles."""

        def quantiles(serialized: np.ndarray) -> list[float]:
            digest = _sketches().tdigest_double.deserialize(serialized.tobytes())
            return [digest.get_quantile(probability) for probability in self.probabilities]

        return {
            name: np.moveaxis(np.apply_along_axis(quantiles, -1, digests), -1, 0) for name, digests in value.items()
        }


def _moments(values: np.ndarray) -> RunningMoments:
    mean = values.mean(1, dtype=np.float64)
    squares = np.square(values - mean[:, None]).sum(1, dtype=np.float64)
    return RunningMoments(np.full(len(values), values.shape[1], float), mean, squares)


def _combined(earlier: RunningMoments, later: RunningMoments) -> RunningMoments:
    total = earlier.num_draws + later.num_draws
    share = (later.num_draws / total).reshape(-1, *[1] * (earlier.mean.ndim - 1))
    weight = (earlier.num_draws * later.num_draws / total).reshape(share.shape)
    shift = later.mean - earlier.mean
    return RunningMoments(total, earlier.mean + share * shift, earlier.squares + later.squares + weight * shift**2)


def _mean_sd_r_hat(moments: RunningMoments) -> dict[str, np.ndarray]:
    num_draws = moments.num_draws[0]
    within = (moments.squares / (num_draws - 1)).mean(0)
    pooled = _pooled(moments)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = moments.mean.var(0, ddof=1) if len(moments.mean) > 1 else np.full_like(within, np.nan)
        r_hat = np.sqrt((num_draws - 1) / num_draws + between / within)
    found = {"mean": pooled.mean, "sd": np.sqrt(pooled.squares / (pooled.num_draws - 1)), "r_hat": r_hat}
    return {name: np.asarray(values) for name, values in found.items()}


def _pooled(moments: RunningMoments) -> RunningMoments:
    """The moments of all chains together."""
    mean = moments.mean.mean(0)  # chains are equally long
    between = moments.num_draws[0] * np.square(moments.mean - mean).sum(0)
    return RunningMoments(
        np.asarray(moments.num_draws.sum()), np.asarray(mean), np.asarray(moments.squares.sum(0) + between)
    )


def _digests(values: np.ndarray) -> np.ndarray:
    components = values.reshape(math.prod(values.shape[:2]), -1).T.astype(float)
    serialized = []
    for component in components:
        digest = _sketches().tdigest_double(SKETCH_SIZE)
        digest.update(np.ascontiguousarray(component))
        serialized.append(digest.serialize())
    return _as_bytes(serialized).reshape(*values.shape[2:], -1)


def _merged(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    digest_type, serialized = _sketches().tdigest_double, []
    for one, other in zip(earlier.reshape(-1, earlier.shape[-1]), later.reshape(-1, later.shape[-1]), strict=True):
        digest = digest_type.deserialize(one.tobytes())
        digest.merge(digest_type.deserialize(other.tobytes()))
        serialized.append(digest.serialize())
    return _as_bytes(serialized).reshape(*earlier.shape[:-1], -1)


def _as_bytes(serialized: list[bytes]) -> np.ndarray:
    """Serialized digests as rows of bytes; the format states its own length, so zeros at the end do no harm."""
    length = max(map(len, serialized))
    return np.array([np.frombuffer(entry.ljust(length, b"\0"), np.uint8) for entry in serialized])


def _sketches() -> Any:
    try:
        import datasketches  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            "Quantiles needs Apache DataSketches, which is not installed: pip install 'parsample[sketches]'."
        ) from error
    return datasketches


Reductions = Reduction | Mapping[str, Reduction]


def checked_reductions(reduce: Any) -> Reductions | None:
    """A reduction, a dict of reductions by name, or None."""
    entries = reduce.values() if isinstance(reduce, Mapping) else () if reduce is None else (reduce,)
    for entry in entries:
        if isinstance(entry, type) or not isinstance(entry, Reduction):
            raise TypeError(
                f"reduce must be an object with of(draws) and combine(earlier, later), or a dict of such objects; got "
                f"{entry!r}."
            )
    return reduce


class RunningReductions:
    """The summaries of a run so far.

    Parameters
    ----------
    reduce
        A reduction, or several by name.

    Attributes
    ----------
    values
        Summary of each reduction by its name, or by "" if there is only one; empty before the first draws.
    """

    def __init__(self, reduce: Reductions) -> None:
        self._entries: dict[str, Reduction] = dict(reduce) if isinstance(reduce, Mapping) else {"": reduce}
        self._is_single = not isinstance(reduce, Mapping)
        self.values: dict[str, PyTree] = {}

    def add(self, draws: dict[str, np.ndarray]) -> None:
        """Add the next draws, variables by name with leading axes (chain, draw)."""
        new = {}
        for name, entry in self._entries.items():
            later = entry.of(draws)
            new[name] = entry.combine(self.values[name], later) if name in self.values else later
        self.values = new  # all at once: an interrupt leaves none ahead of the others

    def results(self) -> Any:
        """The result of the reduction, or of each by name; None without draws."""
        found = {
            name: getattr(entry, "result", lambda value: value)(self.values[name])
            for name, entry in self._entries.items()
            if name in self.values
        }
        return found.get("") if self._is_single else found
