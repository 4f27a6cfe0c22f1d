"""One run of the sampler in its own process, with the versions of parsample and models on the Python path.

``python -P benchmarks/one_sample.py MODEL SEED DTYPE NUM_SAMPLES`` prints one line of JSON. Chains are evaluated step
by step, since only the quality of the warm-up is measured. The process imports nothing else from this folder, so that
the same script can measure a checkout of an earlier version.
"""

import importlib
import inspect
import json
import resource
import sys
import time
import warnings

import jax
import numpy as np


def main(model: str, seed: str, dtype: str, num_samples: str) -> None:
    """Sample, and print effective sample sizes, diagnostics and seconds."""
    started = time.perf_counter()
    jax.config.update("jax_enable_x64", dtype == "float64")
    import parsample  # noqa: PLC0415 - not before the precision is chosen

    problem = importlib.import_module(f"models.{model}")
    warnings.simplefilter("ignore", parsample.ParallelStallWarning)
    result = parsample.sample(
        jax.random.key(int(seed)),
        problem.logdensity,
        problem.initial_position,
        num_samples=int(num_samples),
        method="sequential",
        progress_bar=False,
        **getattr(problem, "settings", {}),
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    wall_seconds = time.perf_counter() - started
    import arviz  # noqa: PLC0415 - takes a second that is not the sampler's

    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(result.positions)]
    draws = np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)
    num_draws, ess = draws.shape[0] * draws.shape[1], float(np.min(arviz.ess(draws, method="bulk")))
    # Versions with multishift moves evaluate the log density once more in one step of four.
    has_moves = "exact_meeting" in inspect.signature(parsample.sample).parameters
    gradients = float(result.sample_stats["n_steps"].sum()) + 0.25 * num_draws * has_moves
    row = {
        "ess_per_draw": ess / num_draws,
        "ess_per_gradient": ess / gradients,
        "num_diverging": int(result.sample_stats["diverging"].sum()),
        "r_hat": float(np.max(arviz.rhat(draws))),
        "wall_seconds": wall_seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
