"""The table that the command line prints."""

from collections.abc import Iterator
from typing import Any

import arviz
import numpy as np
import pandas
import xarray

from parsample.draws.reductions import Moments, RunningReductions
from parsample.draws.store import release

# Values (draws times variables) that ArviZ's summary processes within about five seconds on one core.
MAX_SUMMARY_VALUES = 5_000_000

# Values of a variable that are read at once; and about as many, evenly spaced, give its intervals.
VALUES_AT_ONCE = 1_000_000
VALUES_FOR_QUANTILES = 4_000_000


def summary_table(tree: xarray.DataTree, *, full: bool = False) -> str:
    """Mean, sd, 89 % interval, ESS and R-hat of every variable.

    Beyond `MAX_SUMMARY_VALUES` values, ESS and R-hat are computed only if `full`.
    """
    posterior = tree["posterior"].dataset
    if any(variable.dtype == bool for variable in posterior.data_vars.values()):  # which have no quantiles
        posterior = posterior.map(lambda variable: variable.astype(float) if variable.dtype == bool else variable)
        tree = type(tree).from_dict({"posterior": posterior})
    num_values = sum(variable.size for variable in posterior.data_vars.values())
    if full or num_values <= MAX_SUMMARY_VALUES:
        return arviz.summary(tree).to_string()
    rows = dict(_rows(posterior))
    table = pandas.DataFrame.from_dict(rows, orient="index").to_string(float_format=lambda value: f"{value:.3g}")
    return f"{table}\n({num_values:,} values: ESS and R-hat with --full-summary)"


def _rows(posterior: xarray.Dataset) -> Iterator[tuple[str, dict[str, float]]]:
    """Name, mean, sd and 89 % interval of every scalar component, from one pass over each variable by pieces."""
    for name, variable in posterior.data_vars.items():
        moments, thinned = RunningReductions(Moments()), []
        num_draws, stride = variable.sizes["draw"], max(1, variable.size // VALUES_FOR_QUANTILES)
        length = max(1, VALUES_AT_ONCE * num_draws // max(variable.size, 1))
        for first in range(0, num_draws, length):
            values = variable.isel(draw=slice(first, first + length)).to_numpy()
            moments.add({"": values})
            thinned.append(values[:, -first % stride :: stride].copy())
            release(values)
        found = moments.results()[""]
        low, high = np.quantile(np.concatenate(thinned, axis=1), [0.055, 0.945], axis=(0, 1))
        for label, index in _components(str(name), variable):
            columns = {"mean": found["mean"], "sd": found["sd"], "eti89_lb": low, "eti89_ub": high}
            yield label, {key: float(values[index]) for key, values in columns.items()}


def _components(name: str, variable: xarray.DataArray) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Label and index of every scalar component."""
    for index in np.ndindex(variable.shape[2:]):
        labels = [str(variable[dim].values[at]) for dim, at in zip(variable.dims[2:], index, strict=True)]
        yield (f"{name}[{', '.join(labels)}]" if labels else name), index


def scalar_components(tree: xarray.DataTree, stride: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Scalar components of the posterior with their names, each of shape (chain, draw), of every `stride`-th draw."""
    for name, variable in tree["posterior"].data_vars.items():
        values = variable.isel(draw=slice(None, None, stride)).to_numpy()
        for label, index in _components(str(name), variable):
            yield label, values[(..., *index)]
