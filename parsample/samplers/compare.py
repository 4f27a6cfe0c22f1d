"""Compare kernels before a long run by their predicted effective sample size (ESS) per second.

The ESS per draw of a kernel comes from a pilot: the first draws that `sample` would return. The predicted time comes
from a plan of the long run, made from the check of the pilot.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.draws.layout import Layout
from parsample.internal.compilation import refuse_transformations
from parsample.internal.validation import checked_count, checked_position, checked_rate
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import num_rows_kept
from parsample.models.model import Model, as_model
from parsample.planning.report import Report
from parsample.samplers.diagnostics import SamplingWarning
from parsample.samplers.result import SampleResult
from parsample.samplers.sample import sample
from parsample.solver.status import ParallelStallWarning

# Draws of a pilot, all chains together, and minimum number of draws per chain.
PILOT_DRAWS, MIN_PILOT_LENGTH = 16_000, 256

# Kernels with trajectories; only these use the target acceptance rate of a model or user.
WITH_TRAJECTORIES = ("hmc", "nuts")

# Minimum ESS of a reliable pilot; Vehtari et al. (2021) require it for their diagnostics.
RELIABLE_ESS = 400


@dataclass(frozen=True)
class KernelForecast:
    """Predicted performance of one kernel.

    Attributes
    ----------
    kernel
        Name of the kernel.
    report
        Report of the pilot's check, with the plan for `num_draws` draws; None if the pilot failed or was not checked.
    num_draws
        Draws of the planned run, all chains together.
    num_pilot_draws
        Draws of the pilot, all chains together.
    ess_per_draw
        Smallest bulk ESS of any coordinate of the position, per draw of the pilot; NaN if the pilot failed.
    slowest
        Name of the coordinate with the smallest bulk ESS.
    gradients_per_draw
        Evaluations of the log density, or of its gradient, per draw.
    diverging
        Share of divergent draws in the pilot.
    failure
        Why the kernel cannot be used; empty if it can.
    sequential_seconds
        Predicted seconds of a step-by-step run, scaled up from the pilot; NaN if the pilot was checked or failed.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> comparison = parsample.compare_kernels(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), kernels=("hmc",), num_samples=500
    ... )
    >>> comparison["hmc"].ess_per_second > 0
    True
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
        """Failure or caveat of the forecast in words; empty if there is none."""
        if self.failure:
            return f"failed: {self.failure}"
        if (ess := self.ess_per_draw * self.num_pilot_draws) >= RELIABLE_ESS:
            return ""
        return f"a rough estimate: {self.num_pilot_draws:,} draws of the pilot have an ESS of {ess:.0f}"

    @property
    def seconds(self) -> float:
        """Predicted seconds of the run after the warm-up; NaN if the pilot failed."""
        return self.sequential_seconds if self.report is None else self.report.plan.seconds

    @property
    def ess_per_second(self) -> float:
        """Predicted smallest bulk ESS of the run per second; NaN if the pilot failed."""
        return self.ess_per_draw * self.num_draws / self.seconds


@dataclass(frozen=True)
class KernelComparison:
    """Forecasts of several kernels; ``str(comparison)`` is a table.

    Attributes
    ----------
    forecasts
        One forecast per kernel, in the order of the arguments.
    num_samples, num_chains
        Draws per chain, and number of chains, of the planned run.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> comparison = parsample.compare_kernels(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), kernels=("hmc",), num_samples=500
    ... )
    >>> comparison.best.kernel
    'hmc'
    """

    forecasts: tuple[KernelForecast, ...]
    num_samples: int
    num_chains: int

    def __getitem__(self, kernel: str) -> KernelForecast:
        """Forecast of the kernel with this name."""
        return {forecast.kernel: forecast for forecast in self.forecasts}[kernel]

    @property
    def best(self) -> KernelForecast | None:
        """Forecast with the largest ESS per second; None if every kernel failed."""
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


def compare_kernels(  # noqa: PLR0913
    rng_key: Array,
    logdensity_fn: Callable | Model,
    initial_position: PyTree = None,
    *,
    kernels: Sequence[str] = ("hmc", "nuts"),
    num_samples: int = 10_000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    target_acceptance_rate: float | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> KernelComparison:
    """Predict the effective sample size (ESS) per second of kernels of `sample` on this device.

    Parameters
    ----------
    rng_key
        One key for all kernels: each pilot consists of the first draws that `sample` would return for this key.
    logdensity_fn, initial_position, num_samples, num_warmup, num_chains, devices
        As for `sample`.
    kernels
        Names of kernels of `sample`, without repetitions.
    target_acceptance_rate
        Acceptance rate to which the step sizes of hmc and nuts are tuned; None: 0.8. The other kernels always use their
        own rates.

    Returns
    -------
    KernelComparison
        One forecast per kernel; where a pilot failed, the forecast states the reason.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable.

    Warns
    -----
    UncertifiedChainWarning
        If a pilot contains NaN or infinite states.

    Notes
    -----
    Each kernel is warmed up and checked as by `check_sampler`. Its pilot has 16,000 draws of all chains together and at
    least 256 per chain, but never more than `num_samples` per chain.

    References
    ----------
    Bulk ESS: Vehtari et al. (2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> comparison = parsample.compare_kernels(
    ...     jax.random.key(0),
    ...     lambda x: -0.5 * jnp.sum(x**2),
    ...     jnp.zeros(2),
    ...     kernels=("hmc", "metropolis"),
    ...     num_samples=500,
    ... )
    >>> [forecast.kernel for forecast in comparison.forecasts]
    ['hmc', 'metropolis']
    """
    refuse_transformations("compare_kernels", "one call compares several kernels")
    model = as_model(logdensity_fn, initial_position)
    names = tuple(kernels) if not isinstance(kernels, str) and np.iterable(kernels) else ()
    if not names or not all(name in tuple(KERNELS) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"kernels must be different names out of {', '.join(map(repr, KERNELS))}; got {kernels!r}.")
    checked_rate("target_acceptance_rate", target_acceptance_rate, KERNELS["hmc"].target_acceptance_rate)
    checked_count("num_samples", num_samples)
    length = min(num_samples, max(PILOT_DRAWS // checked_count("num_chains", num_chains), MIN_PILOT_LENGTH))

    def forecast(kernel: str) -> KernelForecast:
        with warnings.catch_warnings():
            # The table states which kernels are evaluated sequentially, and what the draws are worth.
            for category in (ParallelStallWarning, SamplingWarning):
                warnings.simplefilter("ignore", category)
            pilot = sample(
                rng_key,
                model,
                num_samples=length,
                num_warmup=num_warmup,
                num_chains=num_chains,
                kernel=kernel,
                target_acceptance_rate=target_acceptance_rate if kernel in WITH_TRAJECTORIES else None,
                progress_bar=False,
                devices=devices,
            )
        dynamics = KernelLanes(model.logdensity, Layout.of(checked_position(model.initial_position)), KERNELS[kernel])
        return _forecast(dynamics, pilot, num_samples)

    return KernelComparison(tuple(forecast(kernel) for kernel in names), num_samples, num_chains)


def _forecast(dynamics: KernelLanes, pilot: SampleResult, num_samples: int) -> KernelForecast:
    """Forecast of one kernel for `num_samples` draws per chain, from its pilot."""
    import arviz  # noqa: PLC0415 - takes a second

    draws = np.concatenate(
        [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(pilot.positions)], axis=-1
    ).astype(float)
    ess = np.asarray(arviz.ess(draws, method="bulk"))
    failure, slowest = _failure(draws, ess), int(np.argmin(ess))
    stats = pilot.sample_stats
    num_rows = num_rows_kept(dynamics.records, pilot.settings["num_lanes"])
    has_plan = bool(failure) or pilot.report is not None
    return KernelForecast(
        kernel=dynamics.kernel.name,
        report=None if failure or pilot.report is None else pilot.report.planned_for(num_samples, num_rows),
        num_draws=stats["lp"].shape[0] * num_samples,
        num_pilot_draws=stats["lp"].size,
        ess_per_draw=math.nan if failure else float(ess[slowest]) / stats["lp"].size,
        slowest=dynamics.layout.coordinate_names()[slowest],
        gradients_per_draw=float(stats["n_steps"].mean()),
        diverging=float(stats["diverging"].mean()) if "diverging" in stats else 0.0,
        failure=failure,
        sequential_seconds=math.nan if has_plan else pilot.seconds["sampling"] * num_samples / pilot.num_draws,
    )


def _failure(draws: Float[np.ndarray, "K n D"], ess: Float[np.ndarray, " D"]) -> str:
    """Why no ESS can be estimated from these draws; empty if it can."""
    if not np.isfinite(draws).all():
        return "its states are not finite"
    if stuck := int((np.ptp(draws, axis=1) == 0).any(axis=1).sum()):
        return f"{stuck} of {len(draws)} chains do not move: every proposal is rejected"
    return "" if np.isfinite(ess).all() else "its effective sample size is not finite"
