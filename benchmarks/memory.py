"""Group "memory": peak memory of one ``parsample`` command: a long run of ten parameters, its file and its summary.

Every job starts a child process, ``python -m benchmarks.memory ARGUMENTS``, which runs the command ``parsample
ARGUMENTS``: the peak of a process includes all that it did before.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.suite import Job, Options, Row

ROOT = Path(__file__).parent.parent
FORMATS = {".nc": "h5netcdf", ".zarr": "zarr"}


def jobs(options: Options) -> Iterator[Job]:
    """Eight schools in blocks, by length and format."""
    for num_samples in (2048,) if options.scale == "tiny" else (1_000_000, 10_000_000):
        for suffix in (".nc",) if options.scale == "tiny" else FORMATS:
            yield Job("memory", f"{num_samples} draws, {suffix[1:]}", partial(memory_row, num_samples, suffix))


def memory_row(num_samples: int, suffix: str, _options: Options) -> Row:
    """One run: its peak memory, also above the baseline after imports, and the size and attributes of its file."""
    import xarray  # noqa: PLC0415 - only this group reads files

    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        out = Path(directory) / f"run{suffix}"
        arguments = ["sample", str(ROOT / "models" / "eight_schools.py"), "--num-samples", str(num_samples)]
        # In blocks, which takes more memory than step by step.
        arguments += ["--num-chains", "1", "--method", "deer", "--no-progress", "--out", str(out)]
        arguments += ["--no-compilation-cache"]  # so that the peak includes compilation in every run
        begin = time.perf_counter()
        found = _child(arguments)
        seconds = time.perf_counter() - begin
        with xarray.open_datatree(out, engine=FORMATS[suffix]) as tree:
            num_draws = tree["posterior"].sizes["draw"]
            status, plan = tree.attrs["status"], tree.attrs["plan"]
        file_bytes = sum(path.stat().st_size for path in [out, *out.rglob("*")] if path.is_file())
    once = {"median": seconds, "quartile_1": seconds, "quartile_3": seconds, "repeats": 1}
    return {
        "x": num_samples,
        "title": "eight_schools",
        "work": {"T": num_draws, "num_chains": 1, "format": suffix},
        "runs": {"command": {"seconds": once, "status": status, "peak_bytes": found["peak_bytes"]}},
        "plan": plan,
        **found,
        "over_baseline_mib": (found["peak_bytes"] - found["baseline_bytes"]) / 2**20,
        "file_bytes": file_bytes,
    }


def _child(arguments: list[str]) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments], check=False, capture_output=True, text=True, cwd=ROOT
    )
    if child.returncode:
        raise RuntimeError(child.stderr[-4000:])
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> None:
    """Run the command; print its exit code, baseline and peak memory as JSON."""
    from benchmarks.timing import resident_peak  # noqa: PLC0415 - as the command itself would begin
    from parsample.cli.main import main as command  # noqa: PLC0415

    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    baseline = resident_peak()
    code = command(arguments, owns_process=True)
    print(json.dumps({"exit_code": code, "baseline_bytes": baseline, "peak_bytes": resident_peak()}))


if __name__ == "__main__":
    main(sys.argv[1:])
