"""Peak memory of one command: a long run of ten parameters, with its file and its summary.

``python -m benchmarks.memory [--num-samples 1000000 10000000]`` runs ``parsample sample models/eight_schools.py`` with
one chain in blocks, in a process of its own for each length and format, and writes
``benchmarks/results/memory_cpu.json``.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent.parent / "models" / "eight_schools.py"
FORMATS = {".nc": "h5netcdf", ".zarr": "zarr"}

CHILD = """
import resource, sys
import jax
from parsample.cli import main

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

jax.block_until_ready(jax.numpy.zeros(1) + 1)
baseline = peak()
code = main(sys.argv[1:], owns_process=True)
print(code, baseline, peak())
"""


def measured(num_samples: int, out: Path) -> dict[str, Any]:
    """One run: its peak, over what importing the command takes, and what the file holds."""
    import xarray  # noqa: PLC0415 - a process's peak counts for those that it starts

    arguments = ["sample", str(MODEL), "--num-samples", str(num_samples), "--num-chains", "1"]
    arguments += ["--method", "deer", "--no-progress"]  # in blocks, which takes more memory than step by step
    begin = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments, "--out", str(out)], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    code, baseline, peak = map(int, child.stdout.splitlines()[-1].split())
    with xarray.open_datatree(out, engine=FORMATS[out.suffix]) as tree:
        held = dict(tree["posterior"].sizes)
        known = {name: tree.attrs[name] for name in ("status", "plan")}
    return {
        "format": out.suffix,
        "num_draws": held["draw"],
        "exit_code": code,
        **known,
        "seconds": seconds,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "over_baseline_mib": (peak - baseline) / 2**20,
        "file_bytes": sum(path.stat().st_size for path in [out, *out.rglob("*")] if path.is_file()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, nargs="+", default=[1_000_000, 10_000_000])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        for num_samples in options.num_samples:
            for suffix in FORMATS:
                rows.append(measured(num_samples, Path(directory) / f"{num_samples}{suffix}"))
                print(rows[-1])
    from benchmarks.timing import write  # noqa: PLC0415 - JAX is needed only to name the device

    print(write("memory_cpu", rows))


if __name__ == "__main__":
    main()
