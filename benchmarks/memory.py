"""Peak memory of a million draws of ten parameters, over what importing the library takes.

``python -m benchmarks.memory [--num-samples 1000000]`` runs the sampler on models/eight_schools.py (one chain, in
blocks) in a process of its own and writes ``benchmarks/results/memory_<platform>.json``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, resource, sys
import jax
import parsample
from parsample.model import load_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

model = load_model(sys.argv[1])
jax.block_until_ready(jax.numpy.zeros(1) + 1)
baseline = peak()
result = parsample.sample(
    jax.random.key(0), model.logdensity, model.initial_position,
    num_samples=int(sys.argv[2]), num_chains=1, method="deer", progress_bar=False,
)
output = sum(array.nbytes for array in jax.tree.leaves((result.positions, result.sample_stats)))
print(json.dumps({
    "num_draws": result.num_draws, "windows": len(result.windows), "baseline_bytes": baseline,
    "peak_bytes": peak(), "output_bytes": output, "status": result.status.name,
}))
"""


def main() -> None:
    from benchmarks.timing import write  # noqa: PLC0415 - the parent needs JAX only to name the device

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=1_000_000)
    options = parser.parse_args()
    model = Path(__file__).parent.parent / "models" / "eight_schools.py"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), str(options.num_samples)], check=True, capture_output=True, text=True
    )
    row = json.loads(child.stdout.splitlines()[-1])
    row["over_baseline_mib"] = (row["peak_bytes"] - row["baseline_bytes"]) / 2**20
    print(row)
    print(write("memory_cpu", [row]))


if __name__ == "__main__":
    main()
