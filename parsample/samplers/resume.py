"""Go on with a run whose draws are in a store, exactly as if it had not been interrupted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from parsample.draws.outputs import check_extra, is_own_zarr
from parsample.draws.reductions import Reductions
from parsample.draws.run_store import RunStore, checkpoint_of
from parsample.internal.compilation import refuse_transformations
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first, is_first, on_first
from parsample.internal.trees import on_device
from parsample.internal.validation import checked_count, checked_path
from parsample.models.model import Model, as_model
from parsample.models.traced import as_traced
from parsample.models.variables import Keep
from parsample.samplers.checkpoint import FUNCTION, Beginning, identity, read, restore_records, restored
from parsample.samplers.kept import Kept
from parsample.samplers.prepare import Prepared, Start
from parsample.samplers.progress_bar import Progress
from parsample.samplers.recorder import Recorder
from parsample.samplers.result import SampleResult
from parsample.samplers.running import RunningStore, begin, finish
from parsample.samplers.settings import SamplerSettings
from parsample.samplers.stopping import StopAt


def resume(  # noqa: PLR0913
    store: str | Path,
    logdensity_fn: Callable | Model,
    initial_position: PyTree = None,
    *,
    num_samples: int | None = None,
    keep: Keep | None = None,
    reduce: Reductions | None = None,
    stop_at: StopAt | None = None,
    progress_bar: bool = True,
    devices: Sequence[jax.Device] | None = None,
) -> SampleResult:
    """Go on with a run of ``sample(out="run.zarr")`` that was killed or interrupted, or extend a finished one.

    The draws are bitwise those of a run that was not interrupted. Neither warm-up nor check are repeated; a run that
    ended before its warm-up did begins anew, from its key. A run of `num_samples` that is extended has the draws of a
    longer run, bitwise if its lanes meet exactly (``exact_meeting=True``, or kernel "metropolis"), else within the
    tolerance at which they meet.

    Parameters
    ----------
    store
        The zarr directory of the run.
    logdensity_fn, initial_position
        As for `sample`; the same as those with which the run began.
    num_samples
        Draws per chain in the end, at least as many as there are; None: as many as the run was begun with.
    keep, reduce
        As for `sample`, if the run was begun with functions or reductions, which a store cannot hold.
    stop_at
        Another criterion; None: that of the run, or none if `num_samples` is another number.
    progress_bar, devices
        As for `sample`.

    Returns
    -------
    SampleResult
        The whole run, with all its draws in the store.

    Raises
    ------
    ValueError
        If there is no such run, or if the model, its data, its dtype, the variables, the device, or the version of JAX
        or of the steps differ from those with which the run began; the first difference is named.
    BlockingIOError
        If another process is writing to the store.

    Warns
    -----
    ParallelStallWarning
        If the chains were not evaluated in parallel.
    UncertifiedChainWarning
        If a chain contains NaN or infinite states.
    SamplingWarning
        If the draws have problems; see `Diagnostics`.

    Examples
    --------
    >>> import pathlib, tempfile, jax, jax.numpy as jnp, parsample
    >>> def logdensity(x):
    ...     return -0.5 * jnp.sum(x**2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     out = pathlib.Path(directory, "run.zarr")
    ...     result = parsample.sample(
    ...         jax.random.key(0), logdensity, jnp.zeros(2), num_samples=500, out=out, progress_bar=False
    ...     )
    ...     longer = parsample.resume(out, logdensity, jnp.zeros(2), num_samples=800, progress_bar=False)
    ...     longer.to_arviz()["posterior"]["x"].shape
    (4, 800, 2)
    """
    refuse_transformations("resume", "one call goes on with all chains of a store")
    path, mesh = checked_path("store", store), mesh_of(devices)
    check_extra("zarr", "zarr", f"resume({str(path)!r})")
    opened = on_first(mesh, lambda: _opened(path))
    try:
        header, arrays = read(checkpoint_of(path) if is_first(mesh) else None, mesh)
        beginning = Beginning.of(header, arrays)
        arguments = _arguments(path, beginning, header, num_samples, stop_at)
        settings = _settings(arguments, header, beginning, devices)
        model = as_model(logdensity_fn, initial_position)
        start = Start(beginning.adaptation, arguments["starts_per_chain"])
        positions = start.positions(model, settings.num_chains)
        model = model.replace(data=on_device(model.data))
        kept = _kept(path, model, positions[0], settings, arguments, keep, reduce)
        beginning.check(path, identity(model, kept))
        running = RunningStore(replace(beginning, arguments=arguments), opened, model)
        key = jax.random.wrap_key_data(on_device(beginning.key_data))
        if "keys" not in arrays:
            return begin(key, model, settings, kept, start, running, progress_bar=progress_bar)
        traced = as_traced(model.replace(initial_position=positions[0]))
        prepared = restored(header, arrays, settings, traced, kept.layout)
        return _continued(prepared, header, arrays, model, kept, running, progress_bar)
    finally:
        if opened is not None:
            opened.close()


def _opened(path: Path) -> RunStore:
    if not is_own_zarr(path):
        raise ValueError(f"{path} is not the zarr directory of a run, by sample(out=...).")
    return RunStore(path)


def _arguments(
    path: Path, beginning: Beginning, header: dict[str, Any], num_samples: int | None, stop_at: StopAt | None
) -> dict[str, Any]:
    """The arguments of the run, with another number of draws or another criterion."""
    arguments = dict(beginning.arguments)
    if num_samples is not None:
        if checked_count("num_samples", num_samples) < header.get("num_draws", 0):
            raise ValueError(f"num_samples={num_samples}: {path} already holds {header['num_draws']} draws per chain.")
        if num_samples != arguments["num_samples"]:
            arguments |= {"num_samples": num_samples, "stop_at": None}
    if stop_at is not None:
        arguments["stop_at"] = stop_at.as_dict()
    return arguments


def _settings(
    arguments: dict[str, Any],
    header: dict[str, Any],
    beginning: Beginning,
    devices: Sequence[jax.Device] | None,
) -> SamplerSettings:
    names = ("num_samples", "num_warmup", "num_chains", "kernel", "target_acceptance_rate", "exact_meeting", "thin")
    return SamplerSettings.of(
        **{name: arguments[name] for name in names},
        method=header.get("method", arguments["method"]),
        num_lanes=header.get("num_lanes", arguments["num_lanes"]),
        devices=devices,
        adaptation=beginning.adaptation,
    )


def _kept(
    path: Path,
    model: Model,
    position: PyTree,
    settings: SamplerSettings,
    arguments: dict[str, Any],
    keep: Keep | None,
    reduce: Reductions | None,
) -> Kept:
    """What the run keeps; functions and reductions must be passed again."""
    if arguments["keep"] == FUNCTION and not callable(keep):
        raise ValueError(f"{path}: the run was begun with a function as keep=; pass it again.")
    if arguments["reduces"] != (reduce is not None):
        state = "with reduce=; pass it again" if arguments["reduces"] else "without reduce=; leave it out"
        raise ValueError(f"{path}: the run was begun {state}.")
    stop_at = arguments["stop_at"]
    return Kept.of(
        model,
        position,
        settings.kernel,
        keep=arguments["keep"] if keep is None else keep,
        statistics=arguments["statistics"],
        reduce=reduce,
        out=path,
        log_likelihood=arguments["log_likelihood"],
        stop_at=None if stop_at is None else StopAt(**stop_at),
    )


def _continued(
    prepared: Prepared,
    header: dict[str, Any],
    arrays: dict[str, Any],
    model: Model,
    kept: Kept,
    running: RunningStore,
    progress_bar: bool,
) -> SampleResult:
    """Run what is left of a run that has draws."""
    settings = prepared.settings
    recorder = Recorder(kept, settings, prepared.adaptation.parameters)
    restore_records(header, arrays, recorder, kept)
    if recorder.rule is not None and recorder.num_draws:
        shapes = kept.invented_variables(settings.num_chains)
        empty = {
            name: np.zeros((len(like), recorder.num_draws, *like.shape[2:]), like.dtype)
            for name, like in shapes.items()
        }
        found = empty if running.store is None else running.store.draws("posterior")
        recorder.rule.add(broadcast_from_first(settings.mesh, {name: np.asarray(found[name]) for name in empty}))
    shown = progress_bar and is_first(settings.mesh)
    with Progress(settings.num_chains * settings.num_samples, shown) as progress:
        progress.add(settings.num_chains * recorder.num_draws)
        return finish(prepared, recorder, model, kept, running, progress)
