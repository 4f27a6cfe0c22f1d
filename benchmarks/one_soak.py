"""The children of group "soak": members of a run over several processes, and a process that never stops fitting.

``python -m benchmarks.one_soak member PORT RANK NUM_PROCESSES STORE MODEL ARGUMENTS`` begins the run in STORE, or goes
on with it; ``python -m benchmarks.one_soak refits SECONDS SEED`` prints a line of JSON after every fit.
"""

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

DEVICES_PER_PROCESS = 2

# Rows and columns of the data of each fit: 2 MB in float32.
SHAPE = (25_000, 20)


def member(port: str, rank: str, num_processes: str, store: str, model_file: str, arguments: str) -> None:
    """Sample with the other processes, if there are others."""
    settings = json.loads(arguments)
    jax.config.update("jax_enable_x64", settings.pop("x64"))
    jax.config.update("jax_num_cpu_devices", DEVICES_PER_PROCESS)
    if int(num_processes) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(num_processes), int(rank))
    # Not before: importing BlackJAX asks for JAX's devices.
    import parsample  # noqa: PLC0415
    from parsample.models.files import load_model  # noqa: PLC0415

    warnings.simplefilter("ignore")
    model, shared = load_model(model_file), {"progress_bar": False, "devices": jax.devices()}
    if settings.pop("is_begun"):
        parsample.resume(store, model, **shared)
    else:
        key = jax.random.key(settings.pop("seed"))
        parsample.sample(key, model, out=store, **{**model.settings, **settings}, **shared)


def refits(seconds: str, seed: str) -> None:
    """Fit one model after another, each with new data in its closure, and say what the process holds after each."""
    import numpy as np  # noqa: PLC0415

    warnings.simplefilter("ignore")
    rng, begin, turns = np.random.default_rng(int(seed)), time.perf_counter(), 0
    while not turns or time.perf_counter() < begin + float(seconds):
        FITS[rng.integers(len(FITS))](regression(rng), rng)
        turns += 1
        print(json.dumps({"turn": turns, **held()}), flush=True)


def regression(rng: Any) -> Callable:
    """The log density of a linear regression on random data."""
    import numpy as np  # noqa: PLC0415

    features = rng.normal(size=SHAPE).astype(np.float32)
    target = features @ rng.normal(size=SHAPE[1]).astype(np.float32)
    scale = float(np.sqrt(len(features)))

    def logdensity(beta: jax.Array) -> jax.Array:
        return -0.5 * jax.numpy.sum(((target - features @ beta) / scale) ** 2)

    return logdensity


def _steps(rng: Any) -> int:
    return int(rng.choice([200, 300, 500]))


def _sample(logdensity: Callable, rng: Any) -> None:
    import parsample  # noqa: PLC0415

    parsample.sample(
        jax.random.key(0),
        logdensity,
        jax.numpy.zeros(SHAPE[1]),
        num_samples=_steps(rng),
        num_warmup=100,
        num_chains=int(rng.integers(1, 4)),
        num_lanes=8,
        kernel=str(rng.choice(["hmc", "nuts", "mala", "metropolis"])),
        method=str(rng.choice(["auto", "sequential"])),
        progress_bar=False,
    )


def _check(logdensity: Callable, rng: Any) -> None:
    import parsample  # noqa: PLC0415

    kernel = str(rng.choice(["hmc", "mala", "metropolis"]))
    start = jax.numpy.zeros(SHAPE[1])
    parsample.check_sampler(jax.random.key(0), logdensity, start, num_warmup=100, kernel=kernel, num_lanes=8)


def _run(logdensity: Callable, rng: Any) -> None:
    import blackjax  # noqa: PLC0415

    import parsample  # noqa: PLC0415

    algorithm = blackjax.mala(logdensity, float(rng.uniform(0.05, 0.1)))
    start = jax.numpy.zeros(SHAPE[1])
    parsample.run_inference_algorithm(jax.random.key(0), algorithm, _steps(rng), initial_position=start)


FITS = (_sample, _check, _run)


def held() -> dict[str, int]:
    """What this process holds; Linux only.

    Memory that the allocator keeps though nobody uses it is given back first: it grows with the number of programs that
    were compiled, by JAX alone as well, and would hide what is held by someone. `peak_bytes` includes it.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident_bytes": int(status["VmRSS"].split()[0]) * 1024,
        "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
        "objects": len(gc.get_objects()),
        "threads": int(status["Threads"]),
        "open_files": len(os.listdir("/proc/self/fd")),
    }


if __name__ == "__main__":
    {"member": member, "refits": refits}[sys.argv[1]](*sys.argv[2:])
