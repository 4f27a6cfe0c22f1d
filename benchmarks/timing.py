"""One way to time things: interleaved, compilation apart, median and quartiles, with device and versions."""

import gc
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from parsample.conditions import device_name

RESULTS = Path(__file__).parent / "results"

# What JAX reports of tracing, lowering and compiling; loading a cached programme counts as well.
COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class CompileTime:
    """Seconds spent compiling since the last `reset`, as JAX itself reports them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._record)

    def _record(self, event: str, duration: float, **_: Any) -> None:
        if event in COMPILE_EVENTS:
            self.seconds += duration

    def reset(self) -> None:
        """Forget what was spent so far."""
        self.seconds = 0.0


compile_time = CompileTime()


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of `run`, its seconds without compilation, and the seconds of compilation."""
    gc.collect()
    compile_time.reset()
    begin = time.perf_counter()
    result = jax.block_until_ready(run())
    total = time.perf_counter() - begin
    return result, total - compile_time.seconds, compile_time.seconds


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and quartiles of each run's seconds, after one round that compiles; the rounds alternate."""
    first = {name: timed(run)[1:] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run)[1])
    return {
        name: {
            "median": float(np.median(values)),
            "quartile_1": float(np.quantile(values, 0.25)),
            "quartile_3": float(np.quantile(values, 0.75)),
            "first_compile": first[name][1],
        }
        for name, values in seconds.items()
    }


def environment() -> dict[str, Any]:
    """Device and versions that a figure belongs to."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "blackjax", "numpy", "parsample")
    return {
        "device": f"{device.device_kind} ({os.cpu_count()} cores, {device_name(device)})"
        if device.platform == "cpu"
        else device.device_kind,
        "num_devices": jax.local_device_count(),
        "dtype": str(jax.numpy.result_type(float)),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the rows of a table, with the environment they were measured in."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    return path
