"""Timing in interleaved rounds, compilation apart: median and quartiles, with certificate and peak memory."""

import contextlib
import gc
import importlib.metadata
import importlib.util
import math
import os
import platform
import resource
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.backend import clear_backends

import parsample

# JAX's events of tracing, lowering and compiling; loading a cached program counts as well.
COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

PACKAGES = ("jax", "jaxlib", "blackjax", "numpy", "arviz", "parsample", "numpyro", "nutpie")


def use_cores(number: int) -> None:
    """Make `number` CPU cores JAX devices, in a process that holds no arrays yet."""
    clear_backends()  # importing BlackJAX has started JAX with one device
    jax.config.update("jax_num_cpu_devices", number)


class CompileTime:
    """Seconds spent compiling since the process began, as JAX itself reports them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._record)

    def _record(self, event: str, duration: float, **_: Any) -> None:
        if event in COMPILE_EVENTS:
            self.seconds += duration


compile_time = CompileTime()


# A round counts as compiled if compiling took less than this share of its time, or less than this many seconds.
COMPILED_SHARE, COMPILED_SECONDS = 0.02, 2e-3

# Largest number of attempts at a round that compiles again because its plan came out differently.
MAX_ATTEMPTS = 3


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of `run`, its seconds, and seconds of compiling (summed over threads, so possibly more)."""
    gc.collect()
    begin, compiled = time.perf_counter(), compile_time.seconds
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - begin, compile_time.seconds - compiled


def steadily(run: Callable[[], Any]) -> tuple[Any, float, bool]:
    """The result and seconds of the first call that does not compile; and whether even the last attempt compiled."""
    for _ in range(MAX_ATTEMPTS):
        result, seconds, compiling = timed(run)
        if compiling <= max(COMPILED_SHARE * seconds, COMPILED_SECONDS):
            return result, seconds, False
    return result, seconds, True


def better_of_two(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `run`, and the shorter of two times after a call that compiles: for searches."""
    timed(run)
    _, first, _ = steadily(run)
    result, second, _ = steadily(run)
    return result, min(first, second)


def measure(
    runs: dict[str, Callable[[], Any]],
    repeats: int,
    seconds: float = math.inf,
    deadline: float = math.inf,
    apart: Callable[[Any], float] = lambda _: 0.0,
) -> dict[str, dict[str, Any]]:
    """Seconds, compile time, peak memory and certificate of each run, keyed like `runs`.

    The first round compiles; each timed round then calls every run once, so that changes of the machine's load affect
    all runs alike. There is at least one timed round; no other begins once they have taken `seconds`, or after
    `deadline` (by `time.perf_counter`). ``apart(result)`` is subtracted from the seconds of a call. Compile time is the
    excess of the first call over the median.
    """
    records: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        reset_peak()
        result, once, _ = timed(run)
        records[name] = {"first_call_seconds": once - apart(result), "peak_bytes": peak_bytes(), "recompiled": 0}
    begin = time.perf_counter()
    for done in range(repeats):
        if done and time.perf_counter() > min(begin + seconds, deadline):
            break
        for name, run in runs.items():
            result, once, recompiled = steadily(run)
            times[name].append(once - apart(result))
            records[name].update(certificate(result), recompiled=records[name]["recompiled"] + recompiled)
    for name, record in records.items():
        record["seconds"] = quartiles(times[name])
        record["compile_seconds"] = max(record["first_call_seconds"] - record["seconds"]["median"], 0.0)
    return records


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number of measurements."""
    first, median, third = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "quartile_1": first, "quartile_3": third, "repeats": len(values)}


def extrapolated(record: dict[str, Any], num_steps: int, measured_steps: int) -> dict[str, Any]:
    """The record of a run of `measured_steps` steps, scaled to `num_steps` and marked as extrapolated."""
    if measured_steps == num_steps:
        return record
    factor = num_steps / measured_steps
    seconds = {name: value * (1 if name == "repeats" else factor) for name, value in record["seconds"].items()}
    return {**record, "seconds": seconds, "extrapolated_from": measured_steps}


def certificate(result: Any) -> dict[str, Any]:
    """Status, defect, sweeps and work of a run's result; results of other types count as evaluated step by step.

    For several solutions, in a list or as chains side by side: the worst values, and the mean work.
    """
    if isinstance(result, parsample.SampleResult):
        num_iters = max(segment.num_sweeps for segment in result.segments)
        status, defect, work = int(result.status), result.defect, result.evals_per_step
    elif isinstance(result, parsample.Solution):
        status, num_iters = int(np.max(result.status)), int(np.max(result.num_iters))
        defect, work = float(np.max(result.defect)), float(np.mean(result.evals_per_step))
    elif isinstance(result, list) and result and isinstance(result[0], parsample.Solution):
        found = [certificate(one) for one in result]
        status = max(parsample.Status[one["status"]] for one in found)
        num_iters, defect = max(one["num_iters"] for one in found), max(one["defect"] for one in found)
        work = float(np.mean([one["evals_per_step"] for one in found]))
    else:
        status, num_iters, defect, work = int(parsample.Status.SEQUENTIAL), 0, 0.0, 1.0
    return {
        "status": parsample.Status(status).name,
        "defect": defect,
        "num_iters": num_iters,
        "evals_per_step": work,
    }


def reset_peak() -> None:
    """Reset the high-water mark of this process's memory, where the kernel permits it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Peak memory: of the accelerator since the process began, or of this process on a CPU since `reset_peak`."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    return resident_peak()


def resident_peak() -> int:
    """The high-water mark of this process's memory in bytes."""
    listing = Path("/proc/self/status")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        # `getrusage` would include the memory of the process before it executed this program.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment() -> dict[str, Any]:
    """Device, precision and versions of a measurement."""
    device = jax.devices()[0]
    installed = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    return {
        "device": f"{device.device_kind} ({os.cpu_count()} cores, {device_name(device)})"
        if device.platform == "cpu"
        else device.device_kind,
        "platform": device.platform,
        "num_devices": jax.local_device_count(),
        "dtype": str(jax.numpy.result_type(float)),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in installed},
    }


@cache
def device_name(device: jax.Device) -> str:
    """JAX's name of the kind of device; for a CPU, the model name that the operating system gives."""
    if device.platform != "cpu":
        return device.device_kind
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
