"""The table that the command line prints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import arviz
import numpy as np
import pandas

if TYPE_CHECKING:
    import xarray

# Values (draws times variables) that ArviZ's summary digests within about five seconds on one core.
MAX_SUMMARY_VALUES = 5_000_000


def summary_table(tree: "xarray.DataTree", *, full: bool = False) -> str:
    """Mean, sd, 89 % interval, ESS and R-hat of every variable.

    Beyond `MAX_SUMMARY_VALUES` values, and unless `full`, ESS and R-hat are left to the reader to ask for.
    """
    posterior = tree["posterior"].dataset
    num_values = sum(variable.size for variable in posterior.data_vars.values())
    if full or num_values <= MAX_SUMMARY_VALUES:
        return arviz.summary(tree).to_string()
    rows = {}
    for name, draws in scalar_components(tree):
        low, high = np.quantile(draws, [0.055, 0.945])
        rows[name] = {
            "mean": draws.mean(dtype=np.float64),
            "sd": draws.std(dtype=np.float64),
            "eti89_lb": low,
            "eti89_ub": high,
        }
    table = pandas.DataFrame.from_dict(rows, orient="index").to_string(float_format=lambda value: f"{value:.3g}")
    return f"{table}\n({num_values:,} values: ESS and R-hat with --full-summary)"


def scalar_components(tree: "xarray.DataTree") -> Iterator[tuple[str, np.ndarray]]:
    """Scalar components of the posterior with their names, each of shape (chain, draw)."""
    for name, variable in tree["posterior"].data_vars.items():
        values = variable.to_numpy()
        for index in np.ndindex(values.shape[2:]):
            labels = [str(variable[dim].values[at]) for dim, at in zip(variable.dims[2:], index, strict=True)]
            yield (f"{name}[{', '.join(labels)}]" if labels else str(name)), values[(..., *index)]
