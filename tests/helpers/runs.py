"""Runs of `sample` shared by several tests, and a comparison of their draws."""

import functools
from typing import Any

import jax
import numpy as np
from chains import gaussian, gaussian_start
from marks import slow

from parsample.samplers.result import SampleResult
from parsample.samplers.sample import sample

KEY = jax.random.key(0)
KERNELS_TESTED = ["hmc", "metropolis", slow("mala"), slow("nuts")]


@functools.cache
def run(kernel: str = "hmc", method: Any = "auto", num_samples: int = 1000, exact_meeting: bool = True) -> SampleResult:
    """One cached run for each set of arguments: compilation takes longer than all tests of it."""
    return sample(
        KEY,
        gaussian,
        gaussian_start(),
        num_samples=num_samples,
        num_chains=2,
        kernel=kernel,
        method=method,
        exact_meeting=exact_meeting,
        progress_bar=False,
    )


def assert_same_draws(result: SampleResult, expected: SampleResult, tolerance: float = 1e-8) -> None:
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), result.positions, expected.positions
    )
    for name, values in expected.sample_stats.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(result.sample_stats[name], values, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(result.sample_stats[name], values, err_msg=name)


def first_draws(result: SampleResult, number: int) -> dict[str, Any]:
    return {
        "positions": jax.tree.map(lambda leaf: leaf[:, :number], result.positions),
        "sample_stats": {name: values[:, :number] for name, values in result.sample_stats.items()},
    }
