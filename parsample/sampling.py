"""`sample`: from a log density to certified draws."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.check import Report, examine, preparations
from parsample.compilation import compiling
from parsample.grid import Team, ceil_div, mesh_of, round_up
from parsample.kernels import KERNELS, STATISTICS, TARGET_ACCEPTANCE, KernelDynamics, Layout
from parsample.plan import MIN_STEPS, Plan, sequential_plan
from parsample.run import Method, checked_method, parallel_method
from parsample.solution import DEER, Sequential
from parsample.status import Status, report
from parsample.validation import checked_choice, checked_count, checked_logdensity, checked_position
from parsample.warmup import MIN_WARMUP, Adaptation, warmup
from parsample.windows import Store, WindowRecord, run_windows


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
        JAX devices that share the work; None: all local ones. The draws do not depend on them.

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
    prepared = _prepare(
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
    )
    found, plan = _planned(prepared, num_samples, num_chains)
    if found is not None and method == "auto":
        found.warn()
    prepared.clock.lap("check")
    store = Store(num_chains, num_samples)
    chain_keys = jax.random.split(prepared.key_chains, num_chains)
    mesh = prepared.mesh if found is None else found.costs.mesh
    windows, interrupted = run_windows(
        prepared.dynamics,
        prepared.adaptation,
        chain_keys,
        plan,
        found,
        store,
        progress_bar,
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
) -> Report:
    """What `sample` would plan after its warm-up: `parsample.check` for the sampler's own kernels.

    Parameters
    ----------
    rng_key, logdensity_fn, initial_position, num_samples, num_warmup, num_chains, kernel
        As for `sample`.
    target_acceptance_rate, devices
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
    prepared = _prepare(
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
    )
    found, _ = _planned(prepared, num_samples, num_chains)
    assert found is not None
    found.warn()
    return found


@dataclass(frozen=True)
class _Prepared:
    """Everything that is settled before the chains run."""

    dynamics: KernelDynamics
    adaptation: Adaptation
    method: Method
    mesh: Mesh | None
    key_check: Array
    key_chains: Array
    settings: dict[str, Any]
    clock: "_Clock"


def _prepare(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    num_samples: int,
    num_warmup: int,
    num_chains: int,
    kernel: str,
    method: Method,
    target_acceptance_rate: float | None,
    devices: Sequence[jax.Device] | None,
) -> _Prepared:
    """Check the arguments of `sample`, then warm up."""
    checked_count("num_samples", num_samples)
    checked_count("num_warmup", num_warmup, MIN_WARMUP)
    checked_count("num_chains", num_chains)
    checked_choice("kernel", kernel, KERNELS)
    resolved = checked_method(method, num_samples)
    target = TARGET_ACCEPTANCE[kernel] if target_acceptance_rate is None else target_acceptance_rate
    if not 0 < target < 1:
        raise ValueError(f"target_acceptance_rate must lie between 0 and 1; got {target_acceptance_rate!r}.")
    mesh = mesh_of(devices)
    position = checked_position(initial_position)
    checked_logdensity(logdensity_fn, position)
    dynamics = KernelDynamics(logdensity_fn, Layout.of(position), kernel)
    if isinstance(resolved, DEER) and resolved.block_size % dynamics.period and resolved.block_size < num_samples:
        raise ValueError(
            f"block_size={resolved.block_size} must be a multiple of {dynamics.period}, the period of the trajectory "
            f"lengths of kernel={kernel!r}, so that all blocks take steps of the same length at the same time."
        )
    key_warmup, key_check, key_chains = jax.random.split(rng_key, 3)
    clock = _Clock()
    start = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(position)])
    warming = (dynamics, key_warmup, start, num_warmup, num_chains, target)
    checked = not isinstance(resolved, DEER | Sequential) and (resolved == "deer" or num_samples >= MIN_STEPS)
    with compiling(*_checks_ahead(warming, key_check, num_samples, mesh) if checked else ()):
        adaptation = jax.block_until_ready(warmup(*warming))
    clock.lap("warmup")
    settings = {
        "kernel": kernel,
        "num_samples": num_samples,
        "num_warmup": num_warmup,
        "num_chains": num_chains,
        "target_acceptance_rate": float(target),
        "dtype": str(start.dtype),
        "device": jax.devices()[0].device_kind,
        "num_devices": Team(mesh=mesh).num_devices,
    }
    return _Prepared(dynamics, adaptation, resolved, mesh, key_check, key_chains, settings, clock)


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def _planned(prepared: _Prepared, num_samples: int, num_chains: int) -> tuple[Report | None, Plan]:
    """The report of the check, if one is called for, and the plan that follows from it and from `method`."""
    method, dynamics, adaptation = prepared.method, prepared.dynamics, prepared.adaptation
    plan = sequential_plan(num_samples, num_chains)
    if isinstance(method, Sequential) or (method == "auto" and num_samples < MIN_STEPS):
        return None, plan
    if isinstance(method, DEER):
        return None, _with_method(plan, method)
    starts = _pilot_starts(adaptation)
    found = examine(
        dynamics,
        adaptation.parameters,
        starts,
        prepared.key_check,
        num_samples,
        num_chains=num_chains,
        period=dynamics.period,
        scale=jnp.ones_like(starts[0]),
        mesh=prepared.mesh,
    )
    if method == "auto":
        return found, found.plan
    settings = parallel_method(found.plan.fallback, num_samples)
    period = dynamics.period
    return found, _with_method(found.plan, replace(settings, block_size=round_up(settings.block_size, period)))


def _pilot_starts(adaptation: Adaptation) -> Array:
    states = adaptation.draws.reshape(-1, adaptation.draws.shape[-1])
    return states[:: max(1, states.shape[0] // 64)]


def _checks_ahead(warming: tuple, key_check: Array, num_samples: int, mesh: Mesh | None) -> list[Callable[[], None]]:
    """What compiles the check's programmes beside the warm-up, from the shapes of what that will find."""
    dynamics, _, start, _, num_chains, _ = warming
    shapes = warmup.eval_shape(*warming)
    starts = jax.eval_shape(_pilot_starts, shapes)
    return preparations(
        dynamics, shapes.parameters, starts, key_check, num_samples, num_chains=num_chains, scale=start, mesh=mesh
    )


def _with_method(plan: Plan, method: DEER) -> Plan:
    num_blocks = ceil_div(plan.num_steps, method.block_size)
    return replace(plan, method=method, num_blocks=num_blocks, seconds=math.nan)
