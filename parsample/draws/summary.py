"""The table that the command line prints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import arviz
import numpy as np
import pandas

from parsample.draws.store import copied
from parsample.internal.arithmetic import ceil_div

if TYPE_CHECKING:
    import xarray

# Values (draws times variables) that ArviZ's summary processes within about five seconds on one core.
MAX_SUMMARY_VALUES = 5_000_000

# Values whose squares are summed at once, in float64, which needs little memory beside the values themselves.
VALUES_AT_ONCE = 1_000_000


def summary_table(tree: "xarray.DataTree", *, full: bool = False) -> str:
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
    rows = {name: _moments(copied(draws).ravel()) for name, draws in scalar_components(tree)}
    table = pandas.DataFrame.from_dict(rows, orient="index").to_string(float_format=lambda value: f"{value:.3g}")
    return f"{table}\n({num_values:,} values: ESS and R-hat with --full-summary)"


def _moments(values: np.ndarray) -> dict[str, float]:
    """Mean, sd and 89 % interval; reorders `values` in place, which saves a second copy."""
    mean = values.mean(dtype=np.float64)
    pieces = np.array_split(values, ceil_div(values.size, VALUES_AT_ONCE))
    variance = sum(np.square(piece - mean).sum() for piece in pieces) / values.size
    low, high = np.quantile(values, [0.055, 0.945], overwrite_input=True)
    return {"mean": mean, "sd": np.sqrt(variance), "eti89_lb": low, "eti89_ub": high}


def scalar_components(tree: "xarray.DataTree") -> Iterator[tuple[str, np.ndarray]]:
    """Scalar components of the posterior with their names, each of shape (chain, draw)."""
    for name, variable in tree["posterior"].data_vars.items():
        values = variable.to_numpy()
        for index in np.ndindex(values.shape[2:]):
            labels = [str(variable[dim].values[at]) for dim, at in zip(variable.dims[2:], index, strict=True)]
            yield (f"{name}[{', '.join(labels)}]" if labels else str(name)), values[(..., *index)]
