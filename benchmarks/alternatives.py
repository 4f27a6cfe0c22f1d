"""Group "alternatives": what a user would pick instead, by smallest bulk ESS per second and seconds to a given ESS.

Every sampler runs in a process of its own, twice: the first run compiles, the second is timed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

from benchmarks.suite import Job, Options, Row

ROOT = Path(__file__).parent.parent

# Cheap and expensive log densities, well and badly conditioned, 10 to 303 dimensions.
POSTERIORS = (
    "logistic_4000x40",
    "logistic_regression",
    "poisson_hierarchical",
    "state_space",
    "eight_schools",
    "ill_conditioned_gaussian",
    "latent_gaussian_process",
)
SAMPLERS = ("parallel", "sequential", "blackjax", "numpyro", "nutpie")

# A sampler that takes longer is stopped.
TIME_LIMIT = 240.0


def jobs(options: Options) -> Iterator[Job]:
    """One job per posterior and sampler."""
    posteriors = {"tiny": ("eight_schools",), "gpu": POSTERIORS[:3]}.get(options.scale, POSTERIORS)
    for posterior in posteriors:
        for sampler in SAMPLERS:
            yield Job("alternatives", f"{posterior}, {sampler}", partial(sampler_row, posterior, sampler))


def sampler_row(posterior: str, sampler: str, options: Options) -> Row:
    """What the child process of one sampler found."""
    arguments = [posterior, sampler, options.scale, str(options.cores or 1), str(int(jax.config.jax_enable_x64))]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.samplers", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        # A parent that holds a GPU must leave its memory to the child.
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        timeout=TIME_LIMIT,
    )
    if child.returncode:
        raise RuntimeError(child.stderr[-4000:])
    row: Row = json.loads(child.stdout.splitlines()[-1])
    return row
