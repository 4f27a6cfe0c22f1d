"""`sample` draws certified samples from a log density; `check_sampler` predicts how it would evaluate them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jaxtyping import Array, PyTree

from parsample.draws.outputs import checked_out
from parsample.draws.reductions import Reductions
from parsample.internal.compilation import refuse_transformations
from parsample.internal.processes import on_first
from parsample.internal.validation import checked_flag, checked_path
from parsample.models.model import Model, as_model
from parsample.models.variables import Keep
from parsample.planning.report import Report
from parsample.samplers.checkpoint import Beginning
from parsample.samplers.kept import Kept
from parsample.samplers.prepare import Start, prepare
from parsample.samplers.progress_bar import Progress
from parsample.samplers.result import SampleResult
from parsample.samplers.running import begin, opened
from parsample.samplers.settings import SamplerMethod, SamplerSettings
from parsample.samplers.stopping import StopAt
from parsample.warmup.adaptation import Adaptation

# What to do in place of ``jax.vmap``.
SEVERAL_RUNS = "num_chains= runs several chains, and Model.with_data in a loop several data sets"


def sample(  # noqa: PLR0913
    rng_key: Array,
    logdensity_fn: Callable | Model,
    initial_position: PyTree = None,
    *,
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    kernel: str = "hmc",
    method: SamplerMethod = "auto",
    target_acceptance_rate: float | None = None,
    exact_meeting: bool = True,
    num_lanes: int | None = None,
    progress_bar: bool = True,
    devices: Sequence[jax.Device] | None = None,
    thin: int = 1,
    keep: Keep | None = None,
    statistics: Sequence[str] | None = None,
    reduce: Reductions | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    scratch_dir: str | Path | None = None,
    stop_at: StopAt | None = None,
    adaptation: Adaptation | None = None,
    starts_per_chain: bool = False,
    keep_warmup: bool = False,
    log_likelihood: bool = False,
) -> SampleResult:
    """Draw samples from a log density.

    Parameters
    ----------
    rng_key
        One key. The draws depend on it, the log density, the start, the kernel and the number of lanes, but not on
        `method`.
    logdensity_fn
        ``logdensity_fn(position) -> scalar``, up to a constant, in JAX. A proposal where it is NaN or infinite is
        rejected. What else it reads (attributes, captured arrays, globals) counts as it is at the time of the call,
        but functions inside it that are compiled by ``jax.jit`` keep what they read first. A function that is defined
        anew alike compiles nothing, also if its arrays (not its numbers) have other values. Or a `Model`.
    initial_position
        Pytree of floating-point arrays. Lanes start near it, dispersed by uniform noise on (-1, 1). None: that of the
        model.
    num_samples, num_chains
        Draws per chain that are kept, and number of chains.
    num_warmup
        Maximum number of warm-up steps, at least 100; a last round of 64 steps may follow. The warm-up ends as soon as
        it has settled. With `adaptation`: 0, or at least 64.
    kernel
        "hmc" (trajectory lengths that vary in a fixed cycle), "nuts", "mala" (one leapfrog step), or "metropolis" (one
        coordinate at a time, for log densities without gradients); all in whitened coordinates.
    method
        "auto": in blocks if pairs of lanes meet soon enough for that to pay, else step by step; "deer": in blocks;
        "sequential" or ``parsample.Sequential()``: step by step.
    target_acceptance_rate
        Acceptance rate to which the step size is tuned. None: 0.8 for hmc and nuts, 0.574 for mala, 0.44 for
        metropolis.
    exact_meeting
        Whether one step in four of hmc, nuts and mala begins with a multishift move, so that blocks meet exactly and
        the path is bitwise one chain. Without it, blocks are joined within a tolerance.
    num_lanes
        Lanes that run side by side: the ensemble of the warm-up, then the blocks of all chains together. None: 64 on a
        CPU, 512 elsewhere, or about 16 if the log density is expensive. Rounded down to a multiple of `num_chains`, but
        to at least one lane per chain.
    progress_bar
        Whether to show progress.
    devices
        JAX devices that share the lanes; None: all local ones. A CPU is one device, and all its cores share its lanes.
        If the devices belong to several processes, each process must make this call; the arguments of the first process
        are used, and each process gets all draws.
    thin
        Steps per draw: each chain takes ``num_samples * thin`` steps, and every `thin`-th is kept.
    keep
        Names of the variables to keep, or ``keep(variables) -> dict of arrays`` for quantities derived from the
        variables of one draw, a dict by name. Without it all variables are kept.
    statistics
        Names of the statistics to keep; None: all that the kernel has.
    reduce
        `Moments`, `Covariance`, `Quantiles`, or the user's own `Reduction`, or a dict of these: summaries of the
        variables in all steps, also those that `thin` leaves out. Without `out`, nothing else is kept, so that the
        memory does not grow with the number of draws.
    out
        Where the draws go: a zarr directory (``.zarr``), into which every segment is written as soon as it is
        finished, and from which `resume` goes on if the process ends for any reason; or a netCDF file (``.nc``),
        written at the end.
    overwrite
        Whether to replace draws that are already at `out`. They stay until the first new ones are written.
    scratch_dir
        Directory on disk for draws of more than 64 MiB. They are numpy arrays in unnamed files, which are deleted with
        the arrays, so the memory of sampling and of `SampleResult.save` does not grow with the number of
        draws. None: the directory of `out`, or else all draws are in memory.
    stop_at
        `StopAt`, to stop early, once the draws are worth enough.
    adaptation
        `SampleResult.adaptation` of a former run with the same kernel, or `Adaptation.load` of a file or a store: its
        step size and coordinates are used, and chains start at its states.
    starts_per_chain
        Whether every leaf of `initial_position` has a leading axis of chains, with one start for each. The lanes of
        the chains start there exactly. Without warm-up steps these are the states before the first draws.
    keep_warmup
        Whether the warm-up of the lanes that become chains is kept, for the groups warmup_posterior and
        warmup_sample_stats of `SampleResult.to_arviz`.
    log_likelihood
        Whether a store also holds the log likelihood of each observation, for `arviz.loo`; draws in memory need it not,
        because `SampleResult.to_arviz` computes it.

    Returns
    -------
    SampleResult
        Draws, statistics and certificate. After an interrupt (Ctrl-C) it holds the draws finished by then.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable; raised before the warm-up.
    FileExistsError
        If there is something at `out` that may not be replaced.
    OSError
        If a disk has no space for the draws; those in a store stay there.
    KeyboardInterrupt
        If the run is interrupted before any draws are finished.

    Warns
    -----
    ParallelStallWarning
        If the chains will not be, or were not, evaluated in parallel.
    UncertifiedChainWarning
        If a chain contains NaN or infinite states.
    SamplingWarning
        If the draws have problems, such as chains that disagree; see `Diagnostics`.

    References
    ----------
    Multishift moves: D. B. Wilson, *Layered multishift coupling for use in perfect sampling algorithms*, 2000.
    Acceptance rate of mala: Roberts and Rosenthal (1998).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), num_samples=500, progress_bar=False
    ... )
    >>> result.positions.shape, result.defect
    ((4, 500, 2), 0.0)
    """
    refuse_transformations("sample", SEVERAL_RUNS)
    model, start = as_model(logdensity_fn, initial_position), Start(adaptation, starts_per_chain, keep_warmup)
    settings = SamplerSettings.of(
        num_samples=num_samples,
        num_warmup=num_warmup,
        num_chains=num_chains,
        kernel=kernel,
        method=method,
        target_acceptance_rate=target_acceptance_rate,
        exact_meeting=exact_meeting,
        num_lanes=num_lanes,
        devices=devices,
        thin=thin,
        adaptation=adaptation,
    )
    path = None if out is None else checked_path("out", out)
    checked_flag("overwrite", overwrite)
    checked_flag("progress_bar", progress_bar)
    on_first(settings.mesh, lambda: checked_out(path, overwrite=overwrite))
    kept = Kept.of(
        model,
        start.positions(model, settings.num_chains)[0],
        settings.kernel,
        keep=keep,
        statistics=statistics,
        reduce=reduce,
        out=path,
        scratch_dir=scratch_dir,
        stop_at=stop_at,
        keep_warmup=keep_warmup,
        log_likelihood=log_likelihood,
    )
    on_first(settings.mesh, lambda: kept.check_space(settings.num_chains, settings.num_samples))
    beginning = Beginning.of_run(rng_key, model, settings, kept, start, num_lanes) if kept.in_store else None
    with opened(beginning, model, settings, kept) as store:
        return begin(rng_key, model, settings, kept, start, store, progress_bar=progress_bar)


def check_sampler(  # noqa: PLR0913
    rng_key: Array,
    logdensity_fn: Callable | Model,
    initial_position: PyTree = None,
    *,
    num_samples: int = 10_000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    kernel: str = "hmc",
    target_acceptance_rate: float | None = None,
    exact_meeting: bool = True,
    num_lanes: int | None = None,
    lyapunov: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Report:
    """Predict how `sample` evaluates its chains: warm up, measure how soon lanes meet, and plan.

    Parameters
    ----------
    rng_key, logdensity_fn, initial_position, num_samples, num_warmup, num_chains, kernel
        As for `sample`.
    target_acceptance_rate, exact_meeting, num_lanes, devices
        As for `sample`.
    lyapunov
        Whether to estimate the Lyapunov exponent from tangents, which compiles another program. It is the exponent of
        the kernel without multishift moves, because each move merges nearby paths.

    Returns
    -------
    Report
        Meeting times, warm-up and plan.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable, if `lyapunov` is combined with the kernel "metropolis", or if there is nothing to
        check because chains are evaluated step by step, one per lane.

    Warns
    -----
    ParallelStallWarning
        If the chains would not be evaluated in parallel.

    References
    ----------
    Predictability of a chain by its Lyapunov exponent: Gonzalez et al., arXiv 2508.16817.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> report = parsample.check_sampler(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> report.parallelizable
    True
    """
    refuse_transformations("check_sampler", SEVERAL_RUNS)
    model = as_model(logdensity_fn, initial_position)
    settings = SamplerSettings.of(
        num_samples=num_samples,
        num_warmup=num_warmup,
        num_chains=num_chains,
        kernel=kernel,
        target_acceptance_rate=target_acceptance_rate,
        exact_meeting=exact_meeting,
        num_lanes=num_lanes,
        devices=devices,
    )
    if checked_flag("lyapunov", lyapunov) and not settings.kernel.uses_gradient:
        raise ValueError(f"lyapunov=True: kernel={kernel!r} either jumps or stays, and has no useful exponent.")
    with Progress(0, is_shown=False) as progress:
        report = prepare(rng_key, model, settings, progress, lyapunov=lyapunov).report
    if report is None:
        raise ValueError(
            f"num_chains={num_chains}: chains are evaluated step by step, one per lane, so there is nothing to check."
        )
    report.warn()
    return report
