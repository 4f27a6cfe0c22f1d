"""`sample` draws certified samples from a log density; `check_sampler` predicts how it would evaluate them."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.store import Store, checked_scratch_dir
from parsample.internal.arithmetic import round_up
from parsample.internal.processes import is_first
from parsample.internal.validation import checked_flag
from parsample.kernels.whitening import Coordinates
from parsample.lanes.program import PERIOD
from parsample.lanes.segments import Run, Segment, evaluate_segment, step_by_step
from parsample.models.model import Model, as_model
from parsample.planning.plan import MAX_COST_RATIO
from parsample.planning.report import Report
from parsample.samplers.prepare import Prepared, prepare, single_step_program
from parsample.samplers.progress_bar import Progress
from parsample.samplers.result import SampleResult
from parsample.samplers.settings import SamplerMethod, SamplerSettings
from parsample.solver.status import Status, warn_of


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
    scratch_dir: str | Path | None = None,
) -> SampleResult:
    """Draw samples from a log density.

    Parameters
    ----------
    rng_key
        One key. The draws depend on it, the log density, the start, the kernel and the number of lanes, but not on
        `method`.
    logdensity_fn
        ``logdensity_fn(position) -> scalar``, up to a constant, in JAX. A proposal where it is NaN or infinite is
        rejected. It is compiled once: values that it reads besides its argument are fixed at the first call. Or a
        `Model`.
    initial_position
        Pytree of floating-point arrays. Lanes start near it, dispersed by uniform noise on (-1, 1). None: that of the
        model.
    num_samples, num_chains
        Draws per chain, and number of chains.
    num_warmup
        Maximum number of warm-up steps, at least 100; a last round of 64 steps may follow. The warm-up ends as soon as
        it has settled; its draws are not returned.
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
    scratch_dir
        Directory on disk for draws of more than 64 MiB. They are numpy arrays in unnamed files, which are deleted with
        the arrays, so the memory of sampling and of `SampleResult.save` does not grow with the number of
        draws. None: all draws are in memory.

    Returns
    -------
    SampleResult
        Draws, statistics and certificate. After an interrupt (Ctrl-C) it holds the draws finished by then.

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable; raised before the warm-up.
    OSError
        If `scratch_dir` has no space for the draws.
    KeyboardInterrupt
        If the run is interrupted before any draws are finished.

    Warns
    -----
    ParallelStallWarning
        If the chains will not be, or were not, evaluated in parallel.
    UncertifiedChainWarning
        If a chain contains NaN or infinite states.

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
    model, scratch = as_model(logdensity_fn, initial_position), checked_scratch_dir(scratch_dir)
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
    )
    with Progress(num_chains * num_samples, progress_bar and is_first(settings.mesh)) as progress:
        prepared = prepare(rng_key, model, settings, progress)
        if prepared.report is not None and method == "auto":
            prepared.report.warn()
        store = Store(num_chains, num_samples, scratch)
        segments, interrupted = _run_segments(prepared, store, progress)
    prepared.clock.lap("sampling")
    result = _result(model, settings, prepared, store, segments, interrupted)
    warn_of(result.status, f" (largest defect {result.defect:.2g})")
    return result


def _result(
    model: Model,
    settings: SamplerSettings,
    prepared: Prepared,
    store: Store,
    segments: list[Segment],
    interrupted: bool,
) -> SampleResult:
    """The result of a run; `settings` are the user's, `prepared.settings` may have fewer lanes."""
    layout = prepared.program.dynamics.layout
    return SampleResult(
        positions=layout.unravel(store.arrays["position"]),
        sample_stats={name: store.arrays[name] for name in settings.kernel.statistics},
        adaptation=prepared.adaptation,
        report=prepared.report,
        segments=segments,
        settings=settings.as_dict(np.dtype(layout.dtype)),
        seconds=prepared.clock.seconds,
        interrupted=interrupted,
        scratch_dir=store.scratch_dir,
        model=model,
    )


def _run_segments(prepared: Prepared, store: Store, progress: Progress) -> tuple[list[Segment], bool]:
    """Run all segments and store their draws; returns their records, and whether the run was interrupted."""
    records: list[Segment] = []
    kernel, parameters = prepared.settings.kernel, prepared.adaptation.parameters
    coordinates = Coordinates(parameters.center, parameters.factor)
    try:
        for segment in _segments(prepared, progress):
            statistics = {name: getattr(segment.outputs, name) for name in kernel.statistics}
            store.put(segment.first, {"position": coordinates.position(segment.path), **statistics})
            records.append(segment.without_draws())
            progress.note(f"{segment.num_sweeps} sweeps, defect {segment.defect:.1e}")
            progress.add(len(segment.path) * (min(segment.num_steps, store.num_samples - segment.first)))
    except KeyboardInterrupt:
        if not records:
            raise
        store.truncate(min(store.num_samples, sum(record.num_steps for record in records)))
        return records, True
    return records, False


def _segments(prepared: Prepared, progress: Progress) -> Iterator[Segment]:
    """Segments of all chains: in blocks until a segment is given up, then step by step."""
    settings, run = prepared.settings, prepared.run
    in_blocks = settings.method == "deer" or (prepared.report is not None and prepared.report.parallelizable)
    num_blocks = settings.num_blocks
    guesses = prepared.guesses
    if in_blocks and num_blocks > 1:
        progress.phase("sampling in blocks")
        max_rows = math.inf
        if settings.method == "auto" and prepared.report is not None:
            share = max(prepared.report.measured.single_step_cost, 1 / num_blocks)
            max_rows = MAX_COST_RATIO * share * num_blocks * prepared.block_size
        while run.num_steps_done < settings.num_samples:
            segment, guesses = evaluate_segment(
                prepared.program, run, guesses, prepared.block_size, prepared.atol, max_rows
            )
            yield segment
            run = run.after(segment)
            if segment.status is Status.STALLED:
                break
    if run.num_steps_done < settings.num_samples:
        progress.phase("sampling step by step")
        yield from _step_by_step(prepared, run)


def _step_by_step(prepared: Prepared, run: Run) -> Iterator[Segment]:
    """The remaining segments of all chains, with one lane per chain."""
    settings, program = prepared.settings, prepared.program
    if settings.num_lanes > settings.num_chains:
        program = prepared.single_steps or single_step_program(program, settings)
    while run.num_steps_done < settings.num_samples:
        num_left = round_up(settings.num_samples - run.num_steps_done, PERIOD)
        segment = step_by_step(program, run, min(program.num_rows, num_left))
        yield segment
        run = run.after(segment)


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
