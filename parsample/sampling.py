"""`sample`: from a log density to certified draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.check import Report
from parsample.costs import StepCosts
from parsample.grid import first_devices
from parsample.kernels import STATISTICS
from parsample.plan import Plan
from parsample.prepare import planned, prepare
from parsample.processes import is_first
from parsample.run import Method
from parsample.status import Status, report
from parsample.store import Store, checked_scratch_dir
from parsample.warmup import Adaptation
from parsample.windows import WindowRecord, run_windows


@dataclass(frozen=True)
class SampleResult:
    """Draws, what is known of them, and their certificate.

    Attributes
    ----------
    positions
        The user's pytree, every leaf with leading axes (chain, draw).
    sample_stats
        Statistics of each draw under ArviZ's names, each of shape (chain, draw).
    adaptation
        What the warm-up found.
    report
        What the check found; None if none was run.
    plan
        The evaluation that was planned.
    windows
        What happened, window by window.
    settings
        The arguments of `sample`, and versions.
    seconds
        Wall time of warm-up, check and sampling, compilation included.
    interrupted
        Whether the run was stopped early; the draws are those finished by then.
    scratch_dir
        Where large arrays lie; None: in memory.
    """

    positions: PyTree
    sample_stats: dict[str, np.ndarray]
    adaptation: Adaptation
    report: Report | None
    plan: Plan
    windows: list[WindowRecord]
    settings: dict[str, Any]
    seconds: dict[str, float]
    interrupted: bool = field(default=False)
    scratch_dir: Path | None = field(default=None)

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return self.sample_stats["lp"].shape[1]

    @property
    def status(self) -> Status:
        """The worst status of any window and chain."""
        return max(Status(int(status)) for window in self.windows for status in window.status)

    @property
    def defect(self) -> float:
        """Largest jump of any chain off its own recursion, in posterior standard deviations."""
        return max((float(window.defect.max()) for window in self.windows), default=math.nan)

    @property
    def evals_per_step(self) -> float:
        """Evaluations of the transition per step, over all windows."""
        return float(np.mean([window.evals_per_step.mean() for window in self.windows]))

    @property
    def certificate(self) -> str:
        """One line that says whether these are the kernel's own chains."""
        work = f"{self.evals_per_step:.2f} evaluations per step"
        if self.status is Status.NON_FINITE:
            return f"NOT certified: {self.status.message}"
        if not self.status.is_exact:
            return f"NOT certified: {self.status.message}; largest defect {self.defect:.1e} posterior sd"
        if all((window.status == Status.SEQUENTIAL).all() for window in self.windows):
            return "certified: evaluated step by step, 1 evaluation per step"
        if self.defect == 0:
            what = "largest defect 0: bitwise one chain"
        else:
            what = f"largest defect {self.defect:.1e} posterior sd"
        how = "in part step by step, " if self.status is Status.STALLED else ""
        return f"certified: every step is the kernel's own, {what}, {how}{work}"

    def to_arviz(
        self,
        *,
        dims: dict[str, list[str]] | None = None,
        coords: dict[str, Any] | None = None,
        constrain: Callable | None = None,
    ) -> Any:
        """The draws as an ArviZ `xarray.DataTree`; see `parsample.export.to_arviz`."""
        from parsample.export import to_arviz  # noqa: PLC0415 - ArviZ takes a second to import

        return to_arviz(self, dims=dims, coords=coords, constrain=constrain)


def sample(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    *,
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    kernel: str = "hmc",
    method: Method = "auto",
    target_acceptance_rate: float | None = None,
    progress_bar: bool = True,
    devices: Sequence[jax.Device] | None = None,
    costs: StepCosts | None = None,
    scratch_dir: str | Path | None = None,
) -> SampleResult:
    """Draw samples from a log density.

    Parameters
    ----------
    rng_key
        One key; the draws depend on it, the log density, the start and the kernel, not on `method`.
    logdensity_fn
        ``logdensity_fn(position) -> scalar``, up to a constant, in JAX. Where it is NaN or infinite a proposal is
        rejected.
    initial_position
        Pytree of floating-point arrays; chains start near it, dispersed by uniform noise on (-1, 1).
    num_samples, num_warmup, num_chains
        Draws per chain, warm-up steps per chain (at least 100; not returned), and chains.
    kernel
        "hmc" (trajectory lengths that vary in a fixed cycle), "nuts" or "mala"; all in whitened coordinates.
    method
        "auto": in parallel if `parsample.check` says that it pays; "deer": in parallel; "sequential"; or
        `parsample.DEER` or `parsample.Sequential` settings.
    target_acceptance_rate
        What the step size is tuned to. None: 0.8 for hmc and nuts, 0.574 for mala.
    progress_bar
        Whether to show progress. An interrupt (Ctrl-C) ends the run and returns what is finished.
    devices
        JAX devices that share the work; None: all local ones. The draws do not depend on them. If they belong to
        several processes, each must make this call and gets all draws, those of the first one's arguments.
    costs
        ``report.costs`` of an earlier run or `check_sampler`, or `parsample.StepCosts.load`, so that nothing is
        measured again; None: they are measured, and known to later runs in this process with the same `logdensity_fn`,
        kernel and numbers of draws and chains.
    scratch_dir
        A directory on disk for draws of more than 64 MiB: still numpy arrays, but in files without names, which vanish
        with them, so that memory does not grow with their number (nor does it in `parsample.export.save`). None: all
        draws are in memory.

    Returns
    -------
    SampleResult

    Raises
    ------
    ValueError, TypeError
        For unusable arguments, before anything long runs.

    Warns
    -----
    ParallelStallWarning
        If the chains will not be, or were not, evaluated in parallel.
    """
    scratch = checked_scratch_dir(scratch_dir)
    prepared = prepare(
        rng_key,
        logdensity_fn,
        initial_position,
        num_samples,
        num_warmup,
        num_chains,
        kernel,
        method,
        target_acceptance_rate,
        devices,
        costs,
    )
    found, plan = planned(prepared, num_samples, num_chains)
    if found is not None and method == "auto":
        found.warn()
    prepared.clock.lap("check")
    store = Store(num_chains, num_samples, scratch)
    chain_keys = jax.random.split(prepared.key_chains, num_chains)
    mesh = prepared.mesh if found is None else first_devices(prepared.mesh, found.costs.num_devices)
    windows, interrupted = run_windows(
        prepared.dynamics,
        prepared.adaptation,
        chain_keys,
        plan,
        found,
        store,
        progress_bar and is_first(prepared.mesh),
        mesh,
    )
    prepared.clock.lap("sampling")
    result = SampleResult(
        positions=prepared.dynamics.layout.unravel(store.arrays["position"]),
        sample_stats={name: store.arrays[name] for name in STATISTICS[kernel]},
        adaptation=jax.device_get(prepared.adaptation),
        report=found,
        plan=plan,
        windows=windows,
        settings=prepared.settings,
        seconds=prepared.clock.seconds,
        interrupted=interrupted,
        scratch_dir=scratch,
    )
    report(result.status, f" (largest defect {result.defect:.2g})")
    return result


def check_sampler(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    *,
    num_samples: int = 10_000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    kernel: str = "hmc",
    target_acceptance_rate: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    costs: StepCosts | None = None,
) -> Report:
    """What `sample` would plan after its warm-up: `parsample.check` for the sampler's own kernels.

    Parameters
    ----------
    rng_key, logdensity_fn, initial_position, num_samples, num_warmup, num_chains, kernel
        As for `sample`.
    target_acceptance_rate, devices, costs
        As for `sample`.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        For unusable arguments.

    Warns
    -----
    ParallelStallWarning
        If the chains would not be evaluated in parallel.
    """
    prepared = prepare(
        rng_key,
        logdensity_fn,
        initial_position,
        num_samples,
        num_warmup,
        num_chains,
        kernel,
        "deer",
        target_acceptance_rate,
        devices,
        costs,
    )
    found, _ = planned(prepared, num_samples, num_chains)
    assert found is not None
    found.warn()
    return found
