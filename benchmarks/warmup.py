"""Quality and cost of the warm-up, before and now: ``python -m benchmarks.run warmup``, one process per run.

Before: 1,000 NUTS steps of each chain, as in commit 6c7e774; measured only if the variable PARSAMPLE_BEFORE names a
checkout of it (``git worktree add DIR 6c7e774``). Now: the ensemble.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.end_to_end import ROOT, child_environment
from benchmarks.posteriors import MODEL_STEMS
from benchmarks.suite import Job, Options, Row

# Draws per chain, of four chains.
NUM_SAMPLES = {"tiny": 100, "cpu": 2000, "gpu": 2000}

# Names of the versions that are compared.
BEFORE, NOW = "NUTS steps of each chain", "ensemble"


def versions() -> dict[str, Path]:
    """Folder of each version that can be measured here."""
    before = os.environ.get("PARSAMPLE_BEFORE")
    return ({BEFORE: Path(before)} if before else {}) | {NOW: ROOT}


def jobs(options: Options) -> Iterator[Job]:
    """One job per process: round by round, model by model, both versions in turn."""
    models = MODEL_STEMS[:1] if options.scale == "tiny" else MODEL_STEMS
    for seed in range(options.repeats):
        for model in models:
            for version, folder in versions().items():
                run = partial(one, model, seed, version, folder)
                yield Job("warmup", f"{model}, {version}, round {seed + 1}", run)


def one(model: str, seed: int, version: str, folder: Path, options: Options) -> Row:
    """The row of one process."""
    dtype = str(jnp.result_type(float))
    script = Path(__file__).with_name("one_sample.py")
    command = [sys.executable, "-P", script, model, seed, dtype, NUM_SAMPLES[options.scale]]
    environment = {**child_environment(), "PYTHONPATH": str(folder), "JAX_PLATFORMS": jax.default_backend()}
    child = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, cwd=folder, env=environment
    )
    if child.returncode:
        raise RuntimeError(child.stderr[-4000:])
    return {"title": model, "version": version, "seed": seed, **json.loads(child.stdout.splitlines()[-1])}
