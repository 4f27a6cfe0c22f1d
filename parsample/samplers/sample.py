"""`sample`: from a log density to certified draws."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.store import Store, checked_scratch_dir
from parsample.internal.processes import is_first
from parsample.internal.validation import checked_flag
from parsample.kernels.whitening import Coordinates
from parsample.lanes.program import PERIOD
from parsample.lanes.segments import Segment, evaluate_segment, step_by_step
from parsample.planning.report import Report
from parsample.samplers.prepare import Prepared, prepare, single_step_program
from parsample.samplers.progress_bar import Progress
from parsample.samplers.result import SampleResult
from parsample.samplers.settings import SamplerMethod, SamplerSettings
from parsample.solver.status import Status, report

# Segments that take so many times as many rows as a step-by-step evaluation is expected to take are given up.
PATIENCE = 2.0


def sample(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
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
        One key; the draws depend on it, the log density, the start, the kernel and the number of lanes, not on
        `method`.
    logdensity_fn
        ``logdensity_fn(position) -> scalar``, up to a constant, in JAX. Where it is NaN or infinite a proposal is
        rejected. It is compiled once: what it reads besides its argument is taken as it is at the first call.
    initial_position
        Pytree of floating-point arrays; lanes start near it, dispersed by uniform noise on (-1, 1).
    num_samples, num_chains
        Draws per chain, and chains.
    num_warmup
        Most steps of the warm-up (at least 100; not returned), which ends as soon as all has settled.
    kernel
        "hmc" (trajectory lengths that vary in a fixed cycle), "nuts", "mala" (one leapfrog step), or "metropolis"
        (coordinate by coordinate, for log densities without gradients); all in whitened coordinates.
    method
        "auto": in blocks if pairs of lanes meet soon enough for that to pay; "deer": in blocks; "sequential" or
        `parsample.Sequential`: step by step.
    target_acceptance_rate
        What the step size is tuned to. None: 0.8 for hmc and nuts, 0.574 for mala, 0.44 for metropolis.
    exact_meeting
        Whether hmc, nuts and mala contain a multishift move in one step of four, so that blocks meet exactly and the
        path is bitwise one chain. Without it, blocks are joined within a tolerance.
    num_lanes
        Lanes that run side by side: the ensemble of the warm-up, and blocks of all chains together. None: 64 on a CPU,
        512 elsewhere, and at least one for each chain.
    progress_bar
        Whether to show progress. An interrupt (Ctrl-C) ends the run and returns what is finished.
    devices
        JAX devices that share the lanes; None: all local ones. A CPU is one device, all cores of which share its lanes.
        If they belong to several processes, each must make this call and gets all draws, those of the first one's
        arguments.
    scratch_dir
        A directory on disk for draws of more than 64 MiB: they are still numpy arrays, but lie in unnamed files, which
        vanish with them, so that memory does not grow with the number of draws (nor does it in
        `parsample.draws.datatree.save`). None: all draws are in memory.

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

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), num_samples=500, progress_bar=False
    ... )
    >>> result.positions.shape, result.defect
    ((4, 500, 2), 0.0)
    """
    scratch = checked_scratch_dir(scratch_dir)
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
        prepared = prepare(rng_key, logdensity_fn, initial_position, settings, progress)
        if prepared.report is not None and method == "auto":
            prepared.report.warn()
        store = Store(num_chains, num_samples, scratch)
        segments, interrupted = _run_segments(prepared, store, progress)
    prepared.clock.lap("sampling")
    layout = prepared.program.dynamics.layout
    result = SampleResult(
        positions=layout.unravel(store.arrays["position"]),
        sample_stats={name: store.arrays[name] for name in settings.kernel.statistics},
        adaptation=prepared.adaptation,
        report=prepared.report,
        segments=segments,
        settings=settings.as_dict(np.dtype(layout.dtype)),
        seconds=prepared.clock.seconds,
        interrupted=interrupted,
        scratch_dir=scratch,
    )
    report(result.status, f" (largest defect {result.defect:.2g})")
    return result


def _run_segments(prepared: Prepared, store: Store, progress: Progress) -> tuple[list[Segment], bool]:
    """Run all segments, and store their draws."""
    records: list[Segment] = []
    kernel, parameters = prepared.settings.kernel, prepared.adaptation.parameters
    coordinates = Coordinates(parameters.center, parameters.factor)
    try:
        for segment in _segments(prepared, progress):
            kept = {name: getattr(segment.outputs, name) for name in kernel.statistics}
            store.put(segment.first, {"position": coordinates.position(segment.path), **kept})
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
    """Segments of all chains, in blocks as long as that goes well, then step by step."""
    settings, run = prepared.settings, prepared.run
    in_blocks = settings.method == "deer" or (prepared.report is not None and prepared.report.parallelizable)
    num_blocks = settings.num_lanes // settings.num_chains
    guesses = prepared.guesses
    if in_blocks and num_blocks > 1:
        progress.phase("sampling in blocks")
        max_rows = math.inf
        if settings.method == "auto" and prepared.report is not None:
            share = max(prepared.report.measured.share_of_chains, 1 / num_blocks)
            max_rows = PATIENCE * share * num_blocks * prepared.block_size
        while run.first < settings.num_samples:
            segment, guesses = evaluate_segment(
                prepared.program, run, guesses, prepared.block_size, prepared.atol, max_rows
            )
            yield segment
            run = run.after(segment)
            if segment.status is Status.STALLED:
                break
    if run.first < settings.num_samples:
        progress.phase("sampling step by step")
        yield from _step_by_step(prepared, run)


def _step_by_step(prepared: Prepared, run: Any) -> Iterator[Segment]:
    settings, program = prepared.settings, prepared.program
    if settings.num_lanes > settings.num_chains:
        program = prepared.single_steps or single_step_program(program, settings)
    while run.first < settings.num_samples:
        left = -(-(settings.num_samples - run.first) // PERIOD) * PERIOD
        segment = step_by_step(program, run, min(program.num_rows, left))
        yield segment
        run = run.after(segment)


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
    exact_meeting: bool = True,
    lyapunov: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Report:
    """What `sample` would do after its warm-up: how soon its lanes meet, and the plan that follows.

    Parameters
    ----------
    rng_key, logdensity_fn, initial_position, num_samples, num_warmup, num_chains, kernel
        As for `sample`.
    target_acceptance_rate, exact_meeting, devices
        As for `sample`.
    lyapunov
        Whether to estimate the Lyapunov exponent by tangents, which takes another compiled program: that of the kernel
        without its multishift moves, each of which makes one path of nearby ones.

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

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> report = parsample.check_sampler(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> report.parallelizable
    True
    """
    settings = SamplerSettings.of(
        num_samples=num_samples,
        num_warmup=num_warmup,
        num_chains=num_chains,
        kernel=kernel,
        target_acceptance_rate=target_acceptance_rate,
        exact_meeting=exact_meeting,
        devices=devices,
    )
    if checked_flag("lyapunov", lyapunov) and not settings.kernel.uses_gradient:
        raise ValueError(f"lyapunov=True: kernel={kernel!r} either jumps or stays, and has no exponent of use.")
    with Progress(0, is_shown=False) as progress:
        found = prepare(rng_key, logdensity_fn, initial_position, settings, progress, lyapunov=lyapunov).report
    if found is None:
        raise ValueError(
            f"num_chains={num_chains}: so many chains fill all lanes, each step by step; nothing to check."
        )
    found.warn()
    return found
