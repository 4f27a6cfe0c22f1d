"""Which kernel to take: predicted effective draws per second of each, before a long run.

A kernel's effective draws per draw come from a pilot of its own chains after the warm-up, seconds per draw from the
plan that `parsample.check` makes for it on this device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.check import Report
from parsample.grid import ceil_div, piece_length
from parsample.kernels import KERNELS, TARGET_ACCEPTANCE, Draw, Layout
from parsample.prepare import Prepared, planned, prepare
from parsample.solution import Sequential
from parsample.validation import checked_rate
from parsample.windows import roll_window

# A pilot runs pieces of so many draws of all chains together, and at least so many of each, until the smallest ESS is
# this large or it has run so many pieces. The standard error of an estimated ESS of 1000 is about a tenth of it.
PIECE_DRAWS, MIN_PIECE_LENGTH = 4000, 128
ENOUGH_ESS = 1000
MAX_PIECES = 10

# Below this ESS of the pilot an estimate is a guess: the size that Vehtari et al. (2021) want for their diagnostics.
RELIABLE_ESS = 400


@dataclass(frozen=True)
class KernelForecast:
    """What to expect of one kernel.

    Attributes
    ----------
    kernel
        "hmc", "nuts" or "mala".
    report
        What `check_sampler` finds for it; None if its pilot failed.
    num_draws
        Draws of the run that is planned, all chains together.
    num_pilot_draws
        Draws of the pilot, all chains together.
    ess_per_draw
        Smallest bulk ESS of any coordinate of the position, per draw of the pilot; NaN if that failed.
    slowest
        Name of that coordinate.
    gradients_per_draw
        Gradients of the log density that a draw takes: leapfrog steps, 1 for MALA.
    diverging
        Share of divergent draws.
    failure
        Why the kernel cannot be used; empty if it can.
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
        """Predicted time of the run, warm-up and compilation excluded; NaN if the pilot failed."""
        return math.nan if self.report is None else self.report.plan.seconds

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
    if forecast.report is None:
        return (forecast.kernel, *["-"] * (len(HEADER) - 1))
    plan = forecast.report.plan
    return (
        forecast.kernel,
        f"{forecast.ess_per_second:,.0f}",
        f"{forecast.ess_per_draw:.2g}",
        forecast.slowest,
        f"{forecast.gradients_per_draw:.1f}",
        f"{100 * forecast.diverging:.2g} %",
        f"{forecast.seconds:.3g}",
        "sequential" if isinstance(plan.method, Sequential) else f"{plan.num_blocks} blocks per chain",
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
        Different names out of "hmc", "nuts" and "mala".
    target_acceptance_rate
        What the step sizes of hmc and nuts are tuned to, None: 0.8. That of mala is always tuned to 0.574.

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
    Each kernel is warmed up and checked as by `check_sampler`, and run step by step for 4000 draws in all (at least 128
    of each chain), then more until its smallest bulk ESS is 1000: at most ten times that, or `num_samples` per chain.
    """
    names = tuple(kernels) if not isinstance(kernels, str) and np.iterable(kernels) else ()
    if not names or not all(name in KERNELS for name in names) or len(set(names)) < len(names):
        raise ValueError(f"kernels must be different names out of {', '.join(map(repr, KERNELS))}; got {kernels!r}.")
    checked_rate("target_acceptance_rate", target_acceptance_rate, TARGET_ACCEPTANCE["hmc"])

    def forecast(kernel: str) -> KernelForecast:
        target = None if kernel == "mala" else target_acceptance_rate
        prepared = prepare(
            rng_key,
            logdensity_fn,
            initial_position,
            num_samples,
            num_warmup,
            num_chains,
            kernel,
            "deer",
            target,
            devices,
            None,
        )
        return _forecast(prepared, num_samples, num_chains)

    return KernelComparison(tuple(forecast(kernel) for kernel in names), num_samples, num_chains)


def _forecast(prepared: Prepared, num_samples: int, num_chains: int) -> KernelForecast:
    draws, ess = _pilot(prepared, num_samples, num_chains)
    failure = _failure(draws, ess)
    slowest, num_pilot_draws = int(np.argmin(ess)), draws.lp.size
    return KernelForecast(
        kernel=prepared.dynamics.kernel,
        report=None if failure else planned(prepared, num_samples, num_chains)[0],
        num_draws=num_chains * num_samples,
        num_pilot_draws=num_pilot_draws,
        ess_per_draw=math.nan if failure else float(ess[slowest]) / num_pilot_draws,
        slowest=coordinate_names(prepared.dynamics.layout)[slowest],
        gradients_per_draw=float(draws.n_steps.mean()),
        diverging=float(draws.diverging.mean()),
        failure=failure,
    )


def _pilot(prepared: Prepared, num_samples: int, num_chains: int) -> tuple[Draw, Float[np.ndarray, " D"]]:
    """The first draws of all chains, and the bulk ESS of each coordinate."""
    import arviz  # noqa: PLC0415 - takes a second

    dynamics, adaptation = prepared.dynamics, prepared.adaptation
    length = piece_length(max(PIECE_DRAWS, MIN_PIECE_LENGTH * num_chains), num_chains, dynamics.period)
    chain_keys, states = jax.random.split(prepared.key_chains, num_chains), adaptation.states
    pieces: list[Draw] = []
    for piece in range(min(MAX_PIECES, ceil_div(num_samples, length))):
        first = jnp.asarray(piece * length)
        states, new = roll_window(dynamics, prepared.mesh, length, adaptation.parameters, chain_keys, states, first)
        pieces.append(jax.device_get(new))
        draws = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *pieces)
        ess = np.asarray(arviz.ess(draws.position, method="bulk"))
        if _failure(draws, ess) or ess.min() >= ENOUGH_ESS:
            break
    return draws, ess


def _failure(draws: Draw, ess: Float[np.ndarray, " D"]) -> str:
    """Why these draws tell nothing; empty if they do."""
    if not np.isfinite(draws.position).all():
        return "its states are not finite"
    if stuck := int((np.ptp(draws.position, axis=1) == 0).any(axis=1).sum()):
        return f"{stuck} of {len(draws.position)} chains do not move: every proposal is rejected"
    return "" if np.isfinite(ess).all() else "its effective sample size is not finite"


def coordinate_names(layout: Layout) -> list[str]:
    """Names of the entries of the flat vector, such as beta[2]."""
    from parsample.export import named_leaves  # noqa: PLC0415 - ArviZ takes a second to import

    numbered = named_leaves(layout.unravel(np.arange(layout.dimension, dtype=float)[None]))
    return [
        name + (str(list(index)) if index else "")
        for name, leaf in numbered.items()
        for index in np.ndindex(leaf.shape[1:])
    ]
