"""Rank-normalised split R-hat and effective sample sizes, without importing ArviZ, which takes seconds.

`sample` computes them at the end of every run, for its warning. Tests compare them with ArviZ's.
"""

import functools
import math
import statistics

import numpy as np
from jaxtyping import Float

# Quantiles whose indicators give the tail ESS.
TAIL_QUANTILES = (0.05, 0.95)


def r_hat(draws: Float[np.ndarray, "K n D"]) -> Float[np.ndarray, " D"]:
    """Rank-normalised split R-hat of each component: the larger of that of the draws and of the folded draws.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner, *Bayesian Analysis* 16 (2021), section 4.
    """
    parts = _split(draws)
    folded = np.abs(parts - np.median(parts, axis=(0, 1)))
    return np.maximum(
        _potential_scale_reduction(_normal_scores(parts)), _potential_scale_reduction(_normal_scores(folded))
    )


def ess_bulk(draws: Float[np.ndarray, "K n D"]) -> Float[np.ndarray, " D"]:
    """Bulk effective sample size of each component, over all chains; reference as for `r_hat`."""
    return _ess(_normal_scores(_split(draws)))


def ess_tail(draws: Float[np.ndarray, "K n D"]) -> Float[np.ndarray, " D"]:
    """Tail effective sample size of each component: the smaller of those of two tail probabilities."""
    quantiles = np.quantile(draws, TAIL_QUANTILES, axis=(0, 1))
    return np.minimum(*(_ess(_split((draws <= quantile).astype(float))) for quantile in quantiles))


def ess_mean(means: Float[np.ndarray, "K m D"], variances: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
    """Effective sample size for the mean of each component, from the means of batches of all draws.

    `variances` are those of single draws. With batches of one draw this is the usual estimate.

    References
    ----------
    Batch means: Flegal and Jones, *Annals of Statistics* 38 (2010).
    """
    parts = _split(means)
    squared_error = parts.reshape(-1, parts.shape[-1]).var(0, ddof=1) / _ess(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return variances / squared_error


def mcse(draws: Float[np.ndarray, "K n D"]) -> Float[np.ndarray, " D"]:
    """Monte Carlo standard error of the mean of each component, over all chains."""
    return draws.std(axis=(0, 1), ddof=1) / np.sqrt(_ess(_split(draws)))


def _split(draws: Float[np.ndarray, "K n D"]) -> Float[np.ndarray, "H m D"]:
    """First and second halves of the chains, as chains; the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]]).astype(float)


def _normal_scores(draws: Float[np.ndarray, "H m D"]) -> Float[np.ndarray, "H m D"]:
    """Normal quantiles of the ranks of all draws of each component; equal draws share their mean rank."""
    columns = np.ascontiguousarray(draws.reshape(-1, draws.shape[-1]).T)
    order = np.argsort(columns, axis=1)
    ordered = np.take_along_axis(columns, order, axis=1)
    differs = ordered[:, 1:] != ordered[:, :-1]
    border, ranks = np.ones((len(columns), 1), bool), np.arange(columns.shape[1])
    first = np.maximum.accumulate(np.where(np.concatenate([border, differs], axis=1), ranks, 0), axis=1)
    from_last = np.where(np.concatenate([differs, border], axis=1), ranks, len(ranks))[:, ::-1]
    last = np.minimum.accumulate(from_last, axis=1)[:, ::-1]
    # Twice the mean rank of a group of equal draws: the sum of its first and its last rank, which count from 1.
    np.put_along_axis(columns, order, _quantiles_of_half_ranks(len(ranks))[first + last + 2], axis=1)
    return columns.T.reshape(draws.shape)


@functools.cache
def _quantiles_of_half_ranks(num_draws: int) -> Float[np.ndarray, " N"]:
    """Normal quantiles of the ranks 0, 1/2, 1, ..., `num_draws`, by Blom's plotting positions."""
    inverse = statistics.NormalDist().inv_cdf
    shares = [(rank / 2 - 3 / 8) / (num_draws + 1 / 4) for rank in range(2 * num_draws + 1)]
    return np.array([inverse(share) if 0 < share < 1 else math.nan for share in shares])


def _potential_scale_reduction(parts: Float[np.ndarray, "H m D"]) -> Float[np.ndarray, " D"]:
    """R-hat of each component (Gelman and Rubin 1992); NaN for a component that is constant."""
    num_draws = parts.shape[1]
    within, between = parts.var(1, ddof=1).mean(0), parts.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((num_draws - 1) / num_draws + between / within)


def _ess(parts: Float[np.ndarray, "H m D"]) -> Float[np.ndarray, " D"]:
    """Effective sample size of each component by Geyer's initial monotone sequence; NaN for one that is constant.

    References
    ----------
    C. J. Geyer, *Statistical Science* 7 (1992), section 3.3.
    """
    num_parts, num_draws, dimension = parts.shape
    covariances = _autocovariances(parts).mean(0)
    within = covariances[0] * num_draws / (num_draws - 1)
    total = covariances[0] + parts.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = 1 - (within - covariances) / total
    correlations[0] = 1
    pairs = correlations[: num_draws // 2 * 2].reshape(-1, 2, dimension).sum(1)
    # Pairs count until the first that is negative, and never more than one before them.
    is_counted = np.logical_and.accumulate(np.nan_to_num(pairs, nan=-1) > 0, axis=0)
    is_counted[0] = True
    monotone = np.minimum.accumulate(pairs, axis=0)
    time = -1 + 2 * np.where(is_counted, monotone, 0).sum(0)
    # The first correlation after them counts once if it is positive.
    ends = np.minimum(2 * is_counted.sum(0), num_draws - 1)
    time += np.maximum(np.take_along_axis(correlations, ends[None], axis=0)[0], 0)
    size = num_parts * num_draws
    return size / np.maximum(time, 1 / math.log10(size))


def _autocovariances(parts: Float[np.ndarray, "H m D"]) -> Float[np.ndarray, "H m D"]:
    """Autocovariances of every lag, by a Fourier transform padded so that its ends do not meet."""
    num_draws = parts.shape[1]
    length = 2 ** math.ceil(math.log2(2 * num_draws))
    transformed = np.fft.rfft(parts - parts.mean(1, keepdims=True), length, axis=1)
    return np.fft.irfft(np.abs(transformed) ** 2, length, axis=1)[:, :num_draws] / num_draws
