"""Everything on a GPU in under nine minutes: ``python -m benchmarks.gpu [GROUP ...] [--tiny] [--out DIR]``.

Every group runs in its own process, within its share of the time; unused time passes to the groups after it. A group
that fails or is cut off does not affect the others: its rows so far are kept, and ``DIR/gpu_summary.json`` says how it
ended. The exit code is 1 if anything failed. ``--tiny`` runs small sizes on any device; ``--resume`` runs only jobs
that were skipped, cut off or failed before.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Nothing here imports JAX before the groups are done: this process would take the GPU's memory from them.
ROOT = Path(__file__).parent.parent

# Seconds for each group, the most valuable groups first.
SHARES = {
    "reference": 150.0,
    "limit": 65.0,
    "profile": 60.0,
    "scaling": 85.0,
    "end_to_end": 45.0,
    "models": 25.0,
}
TOTAL = 520.0

# In this last fraction of its time a group begins no job, so that most groups end by themselves.
RESERVE = 0.2


def run_group(group: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run one group for at most `seconds`; returns how it ended, its seconds and the end of its stderr."""
    command = [sys.executable, "-m", "benchmarks.run", group, "--out", str(options.out.resolve())]
    command += ["--budget", str((1 - RESERVE) * seconds), "--repeats", str(options.repeats), "--job-seconds", "8"]
    command += ["--tiny"] * options.tiny + ["--x64"] * options.x64 + ["--resume"] * options.resume
    begin = time.perf_counter()
    # A session of its own, so that children of the group end with it.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=max(seconds, 0))
        ended = "done" if process.returncode == 0 else f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        ended = f"cut off after {seconds:.0f} s"
    return {"ended": ended, "seconds": time.perf_counter() - begin, "stderr": errors[-4000:]}


def draw(out: Path) -> str:
    """Draw the figures of all results in the folder; returns "done" or the error."""
    try:
        from benchmarks.figures import draw as draw_all  # noqa: PLC0415 - imports JAX
        from benchmarks.tables import load  # noqa: PLC0415

        for path in draw_all(load(out), out / "figures"):
            print(path)
    except Exception as error:  # figures can be drawn elsewhere
        return f"{type(error).__name__}: {error}"
    return "done"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(SHARES)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, only to test that everything runs")
    parser.add_argument("--x64", action="store_true", help="float64")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds after the one that compiles")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="seconds for all groups")
    parser.add_argument("--resume", action="store_true", help="only jobs that were skipped, cut off or failed before")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    groups = options.groups or list(SHARES)
    if unknown := set(groups) - set(SHARES):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    begin, planned, scale = time.perf_counter(), 0.0, options.seconds / sum(SHARES[group] for group in groups)
    summary: dict[str, Any] = {}
    for group in groups:
        planned += SHARES[group] * scale
        seconds = planned - (time.perf_counter() - begin)
        print(f"{group}: at most {seconds:.0f} s", flush=True)
        summary[group] = run_group(group, seconds, options)
        print(f"{group}: {summary[group]['ended']}", flush=True)
        (options.out / "gpu_summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    summary["figures"] = {"ended": draw(options.out)}
    (options.out / "gpu_summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return 0 if all(entry["ended"] == "done" for entry in summary.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
