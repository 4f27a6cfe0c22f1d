"""What the draws of a run are worth: convergence, divergences, energies, and what is wrong, each in one sentence."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from parsample.draws.convergence import ess_bulk, ess_mean, ess_tail, r_hat
from parsample.internal.user_warnings import warn_user
from parsample.kernels.base import Kernel
from parsample.samplers.watch import Watch
from parsample.warmup.adaptation import Adaptation

# Beyond this R-hat, or below this effective sample size, draws should not be used. A smaller R-hat than 1.01 is
# recommended for results (Vehtari et al. 2021); of a few hundred thinned draws it often exceeds 1.01 by chance.
MAX_R_HAT, MIN_ESS = 1.05, 100

# Shares of divergent steps, in all chains and in one of them, from which on they are a problem.
MAX_DIVERGING, MAX_DIVERGING_IN_CHAIN = 0.001, 0.01

# Mean acceptance rates may be this much below their target.
MAX_ACCEPTANCE_ERROR = 0.2

# A step size below this, in standard deviations of the posterior as the warm-up saw it, has collapsed.
MIN_STEP_SIZE = 1e-3

# Share of trajectories of the largest length allowed from which on they are a problem.
MAX_LONGEST = 0.01

# Smallest energy Bayesian fraction of missing information (Betancourt 2016) that is not a problem.
MIN_BFMI = 0.3

# Largest difference between neighbouring floating-point log densities that does not disturb acceptances.
MAX_RESOLUTION = 0.05

# Draws per chain below which neither R-hat nor effective sample sizes can be judged.
MIN_DRAWS = 20


class SamplingWarning(UserWarning):
    """The draws are not what they should be: chains disagree, diverge or do not move, for example.

    It says nothing against the path, which is the kernel's own; see `UncertifiedChainWarning` for that.

    Examples
    --------
    >>> import warnings, parsample
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", parsample.SamplingWarning)
    """


@dataclass(frozen=True)
class Diagnostics:
    """What the draws of a run are worth.

    The effective sample size for means is estimated from the means of at most a thousand batches, of all draws. R-hat
    and the bulk and tail effective sample sizes are estimated from at most a thousand draws per chain, evenly spaced
    over the run, so that they take no time: these sizes are lower bounds then, for `arviz.summary` to make exact.

    Attributes
    ----------
    r_hat
        Largest rank-normalised split R-hat of any coordinate of the position; NaN for too few draws.
    ess_mean
        Smallest effective sample size for the mean of any coordinate, over all chains; NaN for too few draws.
    ess_bulk, ess_tail
        Smallest bulk and tail effective sample size of any coordinate, over all chains; NaN for too few draws.
    is_thinned
        Whether R-hat and the bulk and tail sizes come from a part of the draws.
    num_diverging
        Divergent steps of each chain.
    acceptance_rate
        Mean acceptance rate of each chain.
    bfmi
        Energy Bayesian fraction of missing information of each chain; NaN for kernels without energies.
    problems
        What is wrong with the draws, a sentence each; empty if nothing was found.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), num_samples=2000, progress_bar=False
    ... )
    >>> result.diagnostics.r_hat < 1.05, result.diagnostics.problems
    (True, [])
    """

    r_hat: float
    ess_mean: float
    ess_bulk: float
    ess_tail: float
    is_thinned: bool
    num_diverging: list[int]
    acceptance_rate: list[float]
    bfmi: list[float]
    problems: list[str]

    def __str__(self) -> str:
        if math.isnan(self.r_hat):
            text = "too few to judge"
        else:
            bound = "at least " if self.is_thinned else ""
            text = f"R-hat {self.r_hat:.2f}, smallest ESS {self.ess_mean:,.0f} (tail {bound}{self.ess_tail:,.0f})"
        return f"{text}; {'; '.join(self.problems)}" if self.problems else text

    def warn(self) -> None:
        """Issue a `SamplingWarning` that names all problems, if there are any."""
        if self.problems:
            warn_user(f"Mistrust these draws: {'; '.join(self.problems)}.", SamplingWarning)

    def as_attributes(self, num_draws: int) -> dict[str, str]:
        """Attributes of a DataTree; `num_draws` is the number of draws per chain that these diagnostics describe."""
        return {"draws": str(self), "diagnostics": json.dumps({**asdict(self), "num_draws": num_draws})}


# Of a result without draws.
NO_DIAGNOSTICS = Diagnostics(math.nan, math.nan, math.nan, math.nan, False, [], [], [], [])


def diagnose(
    watch: Watch, names: Sequence[str], kernel: Kernel, target_acceptance_rate: float, adaptation: Adaptation
) -> Diagnostics:
    """The diagnostics of a run; `names` are those of the coordinates."""
    draws, totals = watch.thinned, watch.totals
    rates = totals.acceptance / np.maximum(totals.steps, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = totals.energy_squares - totals.energy**2 / totals.steps
        bfmi = totals.energy_changes / variances if "energy" in kernel.statistics else np.full(len(rates), np.nan)
    problems, values = [], (math.nan,) * 4
    if draws.shape[1] >= MIN_DRAWS:
        found, values = _convergence(watch, names)
        problems += found
    problems += _behaviour(watch, kernel, bfmi)
    step_size = float(np.mean(adaptation.parameters.step_size))
    if step_size < MIN_STEP_SIZE:
        problems.append(f"the step size is {step_size:.1g} posterior standard deviations: it has collapsed")
    if (rates < target_acceptance_rate - MAX_ACCEPTANCE_ERROR).any():
        problems.append(f"the acceptance rate is {rates.min():.2f}, its target {target_acceptance_rate:.2f}")
    if adaptation.unsettled:
        problems.append(f"the warm-up has not settled ({adaptation.unsettled})")
    resolution = float(np.spacing(np.asarray(totals.max_lp.max(), adaptation.parameters.center.dtype)))
    if resolution > MAX_RESOLUTION:
        problems.append(
            f"log densities of {totals.max_lp.max():.1g} are rounded to multiples of {resolution:.2g}: subtract a "
            "constant, or compute in float64 (jax_enable_x64)"
        )
    return Diagnostics(
        *values,
        is_thinned=watch.stride > 1,
        num_diverging=totals.diverging.astype(int).tolist(),
        acceptance_rate=rates.tolist(),
        bfmi=bfmi.tolist(),
        problems=problems,
    )


def _convergence(watch: Watch, names: Sequence[str]) -> tuple[list[str], tuple[float, float, float, float]]:
    """Problems of convergence and mixing; the largest R-hat, and the smallest ESS of means, bulk and tails."""
    draws = watch.thinned
    still = np.ptp(draws, axis=1) == 0
    if still.all(1).any():
        chains = np.flatnonzero(still.all(1)).tolist()
        return [f"chains {chains} never moved"], (math.inf, 0.0, 0.0, 0.0)
    if still.any():
        chain, coordinate = np.argwhere(still)[0]
        return [f"{names[coordinate]} never moved in chain {chain}"], (math.inf, 0.0, 0.0, 0.0)
    if not np.isfinite(draws).all():
        return ["some draws are not finite"], (math.nan,) * 4
    ratios, sizes = r_hat(draws), (ess_mean(watch.means, draws.var((0, 1), ddof=1)), ess_bulk(draws), ess_tail(draws))
    problems = []
    if (worst := float(np.nanmax(ratios))) > MAX_R_HAT:
        problems.append(f"R-hat of {names[int(np.nanargmax(ratios))]} is {worst:.2f}: chains disagree, do not use them")
    smallest = np.fmin.reduce(sizes)
    if (fewest := float(np.nanmin(smallest))) < MIN_ESS:
        problems.append(f"the draws of {names[int(np.nanargmin(smallest))]} are worth {fewest:.0f} independent ones")
    mean, bulk, tail = (float(np.nanmin(each)) for each in sizes)
    return problems, (worst, mean, bulk, tail)


def _behaviour(watch: Watch, kernel: Kernel, bfmi: np.ndarray) -> list[str]:
    """Problems with divergences, trajectories and energies."""
    totals, problems = watch.totals, []
    steps, num_diverging = totals.steps.sum(), int(totals.diverging.sum())
    shares = totals.diverging / np.maximum(totals.steps, 1)
    if num_diverging > MAX_DIVERGING * steps or (shares > MAX_DIVERGING_IN_CHAIN).any():
        where = "" if (shares > shares.max() / 10).all() else f", most of them in chain {int(shares.argmax())}"
        problems.append(
            f"{num_diverging} of {steps:.0f} steps diverged{where}: a transform of bounded or scale parameters, or "
            "another parametrisation, may help"
        )
    if kernel.uses_gradient and (longest := totals.longest.sum()) > MAX_LONGEST * steps:
        problems.append(f"{longest:.0f} of {steps:.0f} trajectories had the largest length allowed")
    if (bfmi < MIN_BFMI).any():
        problems.append(f"the energy fraction (BFMI) is {np.nanmin(bfmi):.2f}: energies mix slowly; reparametrise")
    return problems
