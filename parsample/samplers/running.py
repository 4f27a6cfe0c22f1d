"""Run the chains of `sample` from their beginning or from a checkpoint, and keep what they draw."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Array

from parsample.draws.run_store import RunStore, checkpoint_of
from parsample.internal.processes import is_first, on_first
from parsample.internal.records import from_bytes
from parsample.models.model import Model
from parsample.samplers.checkpoint import Beginning, moment, restore_records
from parsample.samplers.diagnostics import NO_DIAGNOSTICS, Diagnostics, diagnose
from parsample.samplers.driver import Driver
from parsample.samplers.kept import Kept
from parsample.samplers.prepare import Prepared, Start, prepare
from parsample.samplers.progress_bar import Progress
from parsample.samplers.recorder import POSITION, Recorder
from parsample.samplers.result import SampleResult, attributes_of
from parsample.samplers.schedule import expected_segment
from parsample.samplers.settings import SamplerSettings
from parsample.solver.status import warn_of

# Diagnostics in a store are computed anew once there are this many times as many draws.
DIAGNOSIS_GROWTH = 1.5


class Diagnosis(NamedTuple):
    """Diagnostics, and the number of draws per chain that they are of."""

    num_draws: int
    found: Diagnostics


@dataclass
class RunningStore:
    """The store of a run, with what its checkpoints have in common.

    Attributes
    ----------
    beginning
        The arguments of the run.
    store
        The store; None in all processes but the first.
    model
        The model that is sampled.
    diagnosis
        The last diagnostics that were written.
    """

    beginning: Beginning
    store: RunStore | None
    model: Model
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis(0, NO_DIAGNOSTICS))

    def close(self, *, discard: bool = False) -> None:
        """Let other processes write to the store; with `discard`, delete it."""
        if self.store is not None:
            self.store.close(discard=discard)
            self.store = None

    def write(self, draws: dict[str, np.ndarray], prepared: Prepared, driver: Driver, recorder: Recorder) -> None:
        """Write the draws of a segment, the certificate of all draws, and the checkpoint."""
        settings = prepared.settings
        is_complete = recorder.is_met or recorder.num_draws >= settings.num_samples
        attributes = {
            **attributes_of(
                recorder.segments,
                prepared.report,
                prepared.adaptation,
                settings.as_dict(prepared.program.dtype),
                prepared.clock.with_lap("sampling"),
            ),
            **self._diagnosed(prepared, recorder, is_complete=is_complete),
            "complete": int(is_complete),
        }
        checkpoint = moment(self.beginning, prepared, driver, recorder)
        on_first(settings.mesh, lambda: self._append(draws, recorder.num_draws, attributes, checkpoint))

    def _diagnosed(self, prepared: Prepared, recorder: Recorder, *, is_complete: bool) -> dict[str, str]:
        """Diagnostics as attributes; of a run that goes on, those of most of its draws."""
        if is_complete or recorder.num_draws >= DIAGNOSIS_GROWTH * self.diagnosis.num_draws:
            found = diagnosed(prepared, recorder, self.model)
            self.diagnosis = Diagnosis(recorder.num_draws, found)
        return self.diagnosis.found.as_attributes(self.diagnosis.num_draws)

    def _append(
        self, draws: dict[str, np.ndarray], num_draws: int, attributes: dict[str, Any], checkpoint: bytes
    ) -> None:
        """Write to the store, in the first process."""
        store = cast(RunStore, self.store)
        try:
            store.append(draws, num_draws - store.num_draws, attributes, checkpoint)
        except OSError as error:
            kept = "the former draws stay"
            if store.is_in_place:
                kept = (
                    f"the {store.num_draws} draws per chain that were finished before are in it: make room, and go on "
                )
                kept += "by parsample.resume (--resume)"
            raise OSError(f"{store.target}: {error.strerror or error}; {kept}.") from error


@contextmanager
def opened(
    beginning: Beginning | None, model: Model, settings: SamplerSettings, kept: Kept
) -> Iterator[RunningStore | None]:
    """A new store without draws, open while the run goes on; None if draws go elsewhere."""
    if beginning is None or kept.out is None:
        yield None
        return
    store = on_first(settings.mesh, lambda: _created(beginning, model, settings, kept))
    running = RunningStore(beginning, store, model)
    try:
        yield running
    except (ValueError, TypeError):
        # Bad arguments, which `resume` could not mend either, leave nothing behind.
        running.close(discard=store is not None and not store.num_draws)
        raise
    finally:
        running.close()


def _created(beginning: Beginning, model: Model, settings: SamplerSettings, kept: Kept) -> RunStore:
    """A new store, with names and labels of two invented draws."""
    from parsample.draws.datatree import datatree  # noqa: PLC0415 - ArviZ takes a second to import

    groups: dict[str, Any] = {
        "posterior": kept.invented_variables(settings.num_chains),
        "sample_stats": kept.invented_statistics(settings.num_chains),
        "log_likelihood": kept.invented_log_likelihood(settings.num_chains),
        "observed_data": model.observed_data,
        "constant_data": model.constant_data,
    }
    arrays = {group: {name: np.asarray(values) for name, values in found.items()} for group, found in groups.items()}
    attributes = {**attributes_of([], None, None, settings.as_dict(kept.layout.dtype), {}), "complete": 0}
    with warnings.catch_warnings():
        # ArviZ suspects two draws of many chains to be the wrong way round.
        warnings.filterwarnings("ignore", "Found chain dimension to be longer")
        tree = datatree(arrays, attributes, kept.variables.dims, kept.variables.coords)
    segment_size = max(1, expected_segment(settings, kept.layout) // settings.thin)
    return RunStore.create(cast(Path, kept.out), tree, beginning.to_bytes(), segment_size)


def begin(
    rng_key: Array,
    model: Model,
    settings: SamplerSettings,
    kept: Kept,
    start: Start,
    store: RunningStore | None,
    *,
    progress_bar: bool,
) -> SampleResult:
    """Warm up, check and run."""
    with Progress(settings.num_chains * settings.num_samples, progress_bar and is_first(settings.mesh)) as progress:
        prepared = prepare(rng_key, model, settings, progress, start=start)
        if prepared.report is not None and settings.method == "auto":
            prepared.report.warn()
        recorder = Recorder(kept, prepared.settings, prepared.adaptation.parameters)
        return finish(prepared, recorder, model, kept, store, progress)


def finish(
    prepared: Prepared, recorder: Recorder, model: Model, kept: Kept, store: RunningStore | None, progress: Progress
) -> SampleResult:
    """Run all segments that are left; returns the result of the whole run."""
    driver, interrupted = Driver(prepared, progress), False
    try:
        draws = {} if recorder.is_met else recorder.add_tail(driver.num_steps_done)
        if store is not None and recorder.segments:
            store.write(draws, prepared, driver, recorder)
        while driver.num_steps_done < prepared.settings.num_steps and not recorder.is_met:
            segment, before = driver.next_segment(), recorder.num_draws
            draws = recorder.add(segment)
            if store is not None:
                store.write(draws, prepared, driver, recorder)
            progress.note(f"{segment.num_sweeps} sweeps, defect {segment.defect:.1e}")
            progress.add(prepared.settings.num_chains * (recorder.num_draws - before))
    except KeyboardInterrupt:
        if not recorder.num_draws:
            raise
        interrupted = True
        if store is not None and store.store is not None:
            _as_on_disk(store.store, recorder, kept)
    prepared.clock.lap("sampling")
    result = replace(
        result_of(prepared, recorder, model, kept),
        interrupted=interrupted,
        stopped_early=recorder.is_met and recorder.num_draws < prepared.settings.num_samples,
    )
    warn_of(result.status, f" (largest defect {result.defect:.2g})")
    result.diagnostics.warn()
    if kept.out is not None and not kept.in_store and is_first(prepared.settings.mesh):
        result.save(kept.out)
    return result


def diagnosed(prepared: Prepared, recorder: Recorder, model: Model) -> Diagnostics:
    """What the draws so far are worth."""
    names = prepared.program.dynamics.layout.coordinate_names(model.names)
    settings = prepared.settings
    return diagnose(recorder.watch, names, settings.kernel, settings.target_acceptance_rate, prepared.adaptation)


def _as_on_disk(store: RunStore, recorder: Recorder, kept: Kept) -> None:
    """Forget a segment whose draws were not written before the interrupt."""
    header, arrays = from_bytes(checkpoint_of(store.path))
    if "num_draws" not in header:
        raise KeyboardInterrupt
    restore_records(header, arrays, recorder, kept)


def result_of(prepared: Prepared, recorder: Recorder, model: Model, kept: Kept) -> SampleResult:
    """The result of the draws so far."""
    recorder.close()
    arrays = {} if recorder.memory is None else recorder.memory.arrays
    positions, variables = None, None
    if kept.keeps_positions:
        positions = kept.layout.unravel(arrays[POSITION])
    elif recorder.memory is not None:
        variables = {name: arrays[name] for name in kept.variables.example}
    return SampleResult(
        positions=positions,
        sample_stats={name: arrays[name] for name in kept.statistics if name in arrays},
        adaptation=prepared.adaptation,
        report=prepared.report,
        segments=recorder.segments,
        settings=prepared.settings.as_dict(prepared.program.dtype),
        seconds=prepared.clock.seconds,
        model=model,
        scratch_dir=kept.scratch_dir,
        num_draws=recorder.num_draws,
        diagnostics=diagnosed(prepared, recorder, model),
        variables=variables,
        store=kept.out if kept.in_store else None,
        reductions=None if recorder.reductions is None else recorder.reductions.results(),
        warmup=recorder.warmup(prepared.history),
    )
