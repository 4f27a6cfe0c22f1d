"""Which kernel to take: predicted effective draws per second of each, before a long run.

A kernel's effective draws per draw come from the first draws that `sample` would return, seconds from the plan that
follows from its check.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.draws.layout import Layout
from parsample.internal.devices import mesh_of
from parsample.internal.validation import checked_count, checked_position, checked_rate
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import PERIOD, LaneProgram
from parsample.planning.plan import block_size_of, make_plan
from parsample.planning.report import Report
from parsample.samplers.result import SampleResult
from parsample.samplers.sample import sample
from parsample.solver.status import ParallelStallWarning

# Draws of all chains together in a pilot, and least draws of each.
PILOT_DRAWS, MIN_PILOT_LENGTH = 16_000, 256

# Kernels with trajectories: a target acceptance rate that models or users state is theirs.
WITH_TRAJECTORIES = ("hmc", "nuts")

# Below this ESS of the pilot an estimate is a guess: the size that Vehtari et al. (2021) want for their diagnostics.
RELIABLE_ESS = 400


@dataclass(frozen=True)
class KernelForecast:
    """What to expect of one kernel.

    Attributes
    ----------
    kernel
        Its name.
    report
        What the check of its pilot found; None if it failed, or if there was nothing to check.
    num_draws
        Draws of the run that is planned, all chains together.
    num_pilot_draws
        Draws of the pilot, all chains together.
    ess_per_draw
        Smallest bulk ESS of any coordinate of the position, per draw of the pilot; NaN if that failed.
    slowest
        Name of that coordinate.
    gradients_per_draw
        Gradients or values of the log density that a draw takes.
    diverging
        Share of divergent draws.
    failure
        Why the kernel cannot be used; empty if it can.
    sequential_seconds
        Predicted time of the run step by step, in proportion to the pilot's; NaN if that was checked.
    """

    kernel: str
    report: Report | None
    num_draws: int
    num_pilot_draws: int
    ess_per_draw: float
    slowest: str
    gradients_per_draw: float
    diverging: float
    failure: str
    sequential_seconds: float = math.nan

    @property
    def note(self) -> str:
        """What to know beside the numbers; empty: nothing."""
        if self.failure:
            return f"failed: {self.failure}"
        if (ess := self.ess_per_draw * self.num_pilot_draws) >= RELIABLE_ESS:
            return ""
        return f"a rough estimate: {self.num_pilot_draws:,} draws of the pilot have an ESS of {ess:.0f}"

    @property
    def seconds(self) -> float:
        """Predicted time of the run after the warm-up; NaN if the pilot failed."""
        return self.sequential_seconds if self.report is None else self.report.plan.seconds

    @property
    def ess_per_second(self) -> float:
        """Predicted smallest bulk ESS of the run per second; NaN if the pilot failed."""
        return self.ess_per_draw * self.num_draws / self.seconds


@dataclass(frozen=True)
class KernelComparison:
    """Kernels side by side; ``str(comparison)`` is a table for people.

    Attributes
    ----------
    forecasts
        One for each kernel, in the order asked for.
    num_samples, num_chains
        Draws per chain, and chains, of the run that is planned.
    """

    forecasts: tuple[KernelForecast, ...]
    num_samples: int
    num_chains: int

    def __getitem__(self, kernel: str) -> KernelForecast:
        """The forecast of the kernel of this name."""
        return {forecast.kernel: forecast for forecast in self.forecasts}[kernel]

    @property
    def best(self) -> KernelForecast | None:
        """The forecast of the most effective draws per second; None if every kernel failed."""
        usable = [forecast for forecast in self.forecasts if not forecast.failure]
        return max(usable, key=lambda forecast: forecast.ess_per_second, default=None)

    def __str__(self) -> str:
        rows = [HEADER, *(_row(forecast) for forecast in self.forecasts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{forecast.kernel}: {forecast.note}" for forecast in self.forecasts if forecast.note]
        verdict = "none can be used" if self.best is None else f"best: {self.best.kernel}"
        run = f"{self.num_chains} x {self.num_samples} draws" if self.num_chains > 1 else f"{self.num_samples} draws"
        return "\n".join([*lines, f"{verdict} (predicted for {run}, warm-up and compilation apart)"])


HEADER = ("kernel", "ESS/s", "ESS/draw", "slowest", "gradients/draw", "divergent", "seconds", "evaluation")


def _row(forecast: KernelForecast) -> tuple[str, ...]:
    if forecast.failure:
        return (forecast.kernel, *["-"] * (len(HEADER) - 1))
    plan = None if forecast.report is None else forecast.report.plan
    return (
        forecast.kernel,
        f"{forecast.ess_per_second:,.0f}",
        f"{forecast.ess_per_draw:.2g}",
        forecast.slowest,
        f"{forecast.gradients_per_draw:.1f}",
        f"{100 * forecast.diverging:.2g} %",
        f"{forecast.seconds:.3g}",
        "sequential" if plan is None or not plan.is_parallel else f"{plan.num_blocks} blocks per chain",
    )


def compare_kernels(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    *,
    kernels: Sequence[str] = ("hmc", "nuts"),
    num_samples: int = 10_000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    target_acceptance_rate: float | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> KernelComparison:
    """Predicted effective draws per second of each kernel of `sample`, on this device.

    Parameters
    ----------
    rng_key
        One key, the same for every kernel: pilots are the first draws that `sample` would return for it.
    logdensity_fn, initial_position, num_samples, num_warmup, num_chains, devices
        As for `sample`.
    kernels
        Different names of kernels of `sample`.
    target_acceptance_rate
        What the step sizes of hmc and nuts are tuned to; None: 0.8. The other kernels are always tuned to their own.

    Returns
    -------
    KernelComparison
        A kernel whose pilot fails is part of it, with the reason.

    Raises
    ------
    ValueError, TypeError
        For unusable arguments.

    Notes
    -----
    Each kernel is warmed up and checked as by `check_sampler`, and run for 16,000 draws of all chains together, or
    `num_samples` if that is less.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> comparison = parsample.compare_kernels(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), kernels=("hmc", "metropolis")
    ... )
    >>> [forecast.kernel for forecast in comparison.forecasts]
    ['hmc', 'metropolis']
    """
    names = tuple(kernels) if not isinstance(kernels, str) and np.iterable(kernels) else ()
    if not names or not all(name in tuple(KERNELS) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"kernels must be different names out of {', '.join(map(repr, KERNELS))}; got {kernels!r}.")
    checked_rate("target_acceptance_rate", target_acceptance_rate, KERNELS["hmc"].target_acceptance_rate)
    checked_count("num_samples", num_samples)
    length = min(num_samples, max(PILOT_DRAWS // checked_count("num_chains", num_chains), MIN_PILOT_LENGTH))

    def forecast(kernel: str) -> KernelForecast:
        with warnings.catch_warnings():
            # Part of the table.
            warnings.simplefilter("ignore", ParallelStallWarning)
            pilot = sample(
                rng_key,
                logdensity_fn,
                initial_position,
                num_samples=length,
                num_warmup=num_warmup,
                num_chains=num_chains,
                kernel=kernel,
                target_acceptance_rate=target_acceptance_rate if kernel in WITH_TRAJECTORIES else None,
                progress_bar=False,
                devices=devices,
            )
        dynamics = KernelLanes(logdensity_fn, Layout.of(checked_position(initial_position)), KERNELS[kernel])
        program = LaneProgram(dynamics, pilot.settings["num_lanes"], mesh_of(devices), dynamics.records)
        return _forecast(program, pilot, num_samples)

    return KernelComparison(tuple(forecast(kernel) for kernel in names), num_samples, num_chains)


def _forecast(program: LaneProgram[KernelLanes], pilot: SampleResult, num_samples: int) -> KernelForecast:
    import arviz  # noqa: PLC0415 - takes a second

    draws = np.concatenate(
        [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(pilot.positions)], axis=-1
    ).astype(float)
    ess = np.asarray(arviz.ess(draws, method="bulk"))
    failure, slowest = _failure(draws, ess), int(np.argmin(ess))
    stats = pilot.sample_stats
    is_checked = failure or pilot.report is not None
    return KernelForecast(
        kernel=program.dynamics.kernel.name,
        report=None if failure or pilot.report is None else _planned(pilot.report, program.num_rows, num_samples),
        num_draws=stats["lp"].shape[0] * num_samples,
        num_pilot_draws=stats["lp"].size,
        ess_per_draw=math.nan if failure else float(ess[slowest]) / stats["lp"].size,
        slowest=coordinate_names(program.dynamics.layout)[slowest],
        gradients_per_draw=float(stats["n_steps"].mean()),
        diverging=float(stats["diverging"].mean()) if "diverging" in stats else 0.0,
        failure=failure,
        sequential_seconds=math.nan if is_checked else pilot.seconds["sampling"] * num_samples / pilot.num_draws,
    )


def _planned(report: Report, num_rows: int, num_samples: int) -> Report:
    """The report of a pilot with the plan of the longer run; `num_rows` is the most steps of a block."""
    num_chains, num_lanes = report.plan.num_chains, report.num_lanes
    block_size = block_size_of(num_samples, num_lanes // num_chains, num_rows, PERIOD)
    plan = make_plan(report.meeting, num_lanes, num_chains, num_samples, block_size, report.measured)
    return replace(report, plan=plan)


def _failure(draws: Float[np.ndarray, "K n D"], ess: Float[np.ndarray, " D"]) -> str:
    """Why these draws tell nothing; empty if they do."""
    if not np.isfinite(draws).all():
        return "its states are not finite"
    if stuck := int((np.ptp(draws, axis=1) == 0).any(axis=1).sum()):
        return f"{stuck} of {len(draws)} chains do not move: every proposal is rejected"
    return "" if np.isfinite(ess).all() else "its effective sample size is not finite"


def coordinate_names(layout: Layout) -> list[str]:
    """Names of the entries of the flat vector, such as beta[2]."""
    from parsample.draws.datatree import named_leaves  # noqa: PLC0415 - ArviZ takes a second to import

    leaves = named_leaves(layout.unravel(np.zeros(layout.dimension))).items()
    return [name + (str(list(index)) if index else "") for name, leaf in leaves for index in np.ndindex(leaf.shape)]
