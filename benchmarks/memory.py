"""Group "memory": peak memory of a million draws of ten parameters, over what importing the library takes.

``python -m benchmarks.memory NUM_SAMPLES`` is the child process that a job starts: a process's peak includes all that
it did before.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

from benchmarks.suite import Job, Options, Row

ROOT = Path(__file__).parent.parent


def jobs(options: Options) -> Iterator[Job]:
    """One job: eight schools, in blocks."""
    num_samples = 2048 if options.scale == "tiny" else 1_000_000
    yield Job("memory", f"eight_schools, {num_samples} draws", partial(memory_row, num_samples))


def memory_row(num_samples: int, _options: Options) -> Row:
    """The peak of a process of its own."""
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(num_samples)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if child.returncode:
        raise RuntimeError(child.stderr)
    row: Row = json.loads(child.stdout.splitlines()[-1])
    return {**row, "over_baseline_mib": (row["peak_bytes"] - row["baseline_bytes"]) / 2**20}


def main(num_samples: int) -> None:
    """What the child process does and prints."""
    from benchmarks.models import sampler  # noqa: PLC0415 - what the parent needs is less
    from benchmarks.timing import certificate, peak_bytes  # noqa: PLC0415

    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    baseline = peak_bytes()
    result = sampler("eight_schools", num_samples, method="deer")
    output = sum(array.nbytes for array in jax.tree.leaves((result.positions, result.sample_stats)))
    row = {
        "title": "eight_schools",
        "work": {"T": num_samples, "num_chains": 1},
        "runs": {"blocks": certificate(result)},
        "windows": len(result.windows),
        "baseline_bytes": baseline,
        "peak_bytes": peak_bytes(),
        "output_bytes": output,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(int(sys.argv[1]))
