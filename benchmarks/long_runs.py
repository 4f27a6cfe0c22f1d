"""Group "long_runs": memory, time and disk of long runs, by where their draws go.

Every row is a process of its own, ``python -m benchmarks.long_runs CASE NUM_SAMPLES DIRECTORY``, which samples eight
schools: of the models here the one whose steps take least beside what a draw takes on the disk (ten values in three
variables, and six statistics), so that writing weighs most.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.end_to_end import ROOT, child_environment
from benchmarks.suite import Job, Options, Row
from benchmarks.timing import resident_peak

MODEL, NUM_CHAINS = "eight_schools", 4

# Draws per chain: memory that grows shows as a difference.
LENGTHS = {"tiny": (2048,), "cpu": (200_000, 2_000_000), "gpu": (200_000, 2_000_000)}

# Probabilities of the quantiles.
PROBABILITIES = (0.05, 0.5, 0.95)


def _reductions(with_quantiles: bool) -> Any:
    import parsample  # noqa: PLC0415 - as the user's program would begin

    moments = parsample.Moments()
    return {"moments": moments, "quantiles": parsample.Quantiles(*PROBABILITIES)} if with_quantiles else moments


# Arguments of `parsample.sample` by the title of a case.
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "in memory": lambda _: {},
    "run.zarr": lambda folder: {"out": folder / "run.zarr"},
    "run.zarr, thin=10": lambda folder: {"out": folder / "run.zarr", "thin": 10},
    "draws.nc": lambda folder: {"out": folder / "draws.nc"},
    "Moments": lambda _: {"reduce": _reductions(False)},
    "Moments and Quantiles": lambda _: {"reduce": _reductions(True)},
}


def jobs(options: Options) -> Iterator[Job]:
    """Every case in every length."""
    for num_steps in LENGTHS[options.scale]:
        for case in CASES:
            yield Job("long_runs", f"{case}, {num_steps} steps", partial(case_row, case, num_steps))


def case_row(case: str, num_steps: int, options: Options) -> Row:
    """One process: its seconds, its peak memory, also above what imports take, and what it leaves on the disk.

    A process that takes more than the limit of `options` is stopped; one that fails, for want of memory for example,
    says so in the row.
    """
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        command = [sys.executable, "-m", "benchmarks.long_runs", case, str(num_steps), directory]
        # No cache of compiled programs, so that every peak includes compilation.
        environment = {**child_environment(), "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}
        begin = time.perf_counter()
        child = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=options.run_limit,
        )
        seconds = time.perf_counter() - begin
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}: {child.stderr[-4000:]}")
        found = json.loads(child.stdout.splitlines()[-1])
        disk_bytes = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
    return {
        "title": MODEL,
        "case": case,
        "work": {"T": num_steps, "num_chains": NUM_CHAINS},
        "wall_seconds": seconds,
        "disk_bytes": disk_bytes,
        "over_baseline_mib": (found["peak_bytes"] - found["baseline_bytes"]) / 2**20,
        **found,
    }


def main(case: str, num_steps: str, directory: str) -> None:
    """Sample; print draws, seconds, certificate, and peak memory before and after, as JSON."""
    import parsample  # noqa: PLC0415 - what follows is the user's program
    from parsample.models.files import load_model  # noqa: PLC0415

    model = load_model(str(ROOT / "models" / f"{MODEL}.py"))
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    baseline, begin = resident_peak(), time.perf_counter()
    arguments = {**model.settings, **CASES[case](Path(directory))}
    arguments["num_samples"] = int(num_steps) // arguments.get("thin", 1)
    result = parsample.sample(jax.random.key(0), model, num_chains=NUM_CHAINS, progress_bar=False, **arguments)
    found = {
        "num_draws": result.num_draws,
        "sample_seconds": time.perf_counter() - begin,
        "sampling_seconds": result.seconds["sampling"],
        "status": result.status.name,
        "plan": str(result.report and result.report.plan),
        "baseline_bytes": baseline,
        "peak_bytes": resident_peak(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
