"""A run at the end of a segment, as bytes: all that is needed to go on exactly as if it had not been interrupted.

Steps are a function of key, parameters and the number of the step, so that keys, parameters and the states of the
chains, with the cached log densities and gradients, decide everything that follows. Before the warm-up has ended, the
checkpoint holds the arguments of the run, which is then begun anew.
"""

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from parsample.draws.layout import Layout
from parsample.draws.reductions import RunningReductions
from parsample.draws.run_store import checkpoint_of
from parsample.internal.processes import broadcast_from_first
from parsample.internal.random_keys import as_words
from parsample.internal.records import from_bytes, packed, to_bytes, unpacked
from parsample.internal.validation import checked_key
from parsample.kernels.base import LaneState, Statistics
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.program import LaneProgram
from parsample.lanes.segments import Run
from parsample.models.fingerprint import fingerprint
from parsample.models.model import Model
from parsample.planning.report import Report
from parsample.samplers.certificate import as_arrays, from_arrays
from parsample.samplers.driver import Driver
from parsample.samplers.kept import Kept
from parsample.samplers.prepare import Clock, Prepared, Start, chain_inputs
from parsample.samplers.recorder import Recorder
from parsample.samplers.schedule import Schedule
from parsample.samplers.settings import SamplerSettings
from parsample.version import CHAIN_VERSION
from parsample.warmup.adaptation import Adaptation

# Identities of the code and the device that decide the bits of a chain, and what to do if they have changed.
REMEDIES = {
    "model": "pass the model and the data that the run began with",
    "position": "pass the model and the data that the run began with",
    "variables": "pass the same keep=",
    "dtype": "set jax_enable_x64 (--x64) as in the run",
    "chain version": "use the version of parsample that began the run",
    "jax": "use the version of JAX that began the run",
    "jaxlib": "use the version of JAX that began the run",
    "device": "go on with a device of the same kind",
}


def identity(model: Model, kept: Kept) -> dict[str, str]:
    """What must be the same when a run goes on."""
    layout = kept.layout
    position = layout.unravel(np.zeros(layout.dimension, layout.dtype))
    variables = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in kept.variables.example.items()}
    # What the others depend on comes first, because the first difference is named.
    return {
        "dtype": str(np.dtype(layout.dtype)),
        "position": f"{layout.treedef} {layout.shapes}",
        "model": fingerprint(model, position),
        "variables": str(variables),
        "chain version": str(CHAIN_VERSION),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "device": jax.devices()[0].device_kind,
    }


# Stands for a function among the arguments, which must be passed again.
FUNCTION = "a function"


@dataclass(frozen=True)
class Beginning:
    """The arguments of a run, which are stored before the warm-up.

    Attributes
    ----------
    arguments
        Arguments of `sample`, as plain values.
    identity
        Result of `identity`.
    key_data
        Data of the random key.
    adaptation
        Adaptation that was passed, or None.
    """

    arguments: dict[str, Any]
    identity: dict[str, str]
    key_data: np.ndarray
    adaptation: Adaptation | None = None

    @classmethod
    def of_run(
        cls,
        rng_key: Array,
        model: Model,
        settings: SamplerSettings,
        kept: Kept,
        start: Start,
        num_lanes: int | None,
    ) -> "Beginning":
        """The beginning of a run with these settings; `num_lanes` is the number that the user named, if any."""
        arguments = {
            "num_samples": settings.num_samples,
            "num_warmup": settings.num_warmup,
            "num_chains": settings.num_chains,
            "kernel": settings.kernel.name,
            "method": settings.method,
            "target_acceptance_rate": settings.target_acceptance_rate,
            "exact_meeting": settings.exact_meeting,
            "num_lanes": num_lanes,
            "thin": settings.thin,
            "keep": FUNCTION if callable(kept.keep) else kept.keep,
            "statistics": kept.statistics,
            "reduces": kept.reduce is not None,
            "stop_at": None if kept.stop_at is None else kept.stop_at.as_dict(),
            "starts_per_chain": start.per_chain,
            "log_likelihood": kept.log_likelihood is not None,
        }
        key_data = jax.device_get(as_words(checked_key(rng_key)))
        return cls(arguments, identity(model, kept), key_data, start.adaptation)

    def check(self, path: Any, now: dict[str, str]) -> None:
        """Raise unless the run at `path` may go on under the identity `now`."""
        for name, then in self.identity.items():
            if now[name] != then:
                shown = "" if name == "model" else f" ({then}, now {now[name]})"
                raise ValueError(f"{path}: the run had another {name}{shown}: {REMEDIES[name]}.")

    def to_bytes(self, header: dict[str, Any] | None = None, arrays: dict[str, np.ndarray] | None = None) -> bytes:
        """The checkpoint of the beginning, or, with further values, of a later moment."""
        given = {}
        plain = {"arguments": self.arguments, "identity": self.identity, "given": None}
        if self.adaptation is not None:
            record, found = self.adaptation.as_record()
            plain["given"], given = record, {f"given.{name}": values for name, values in found.items()}
        return to_bytes({**plain, **(header or {})}, {"key_data": self.key_data, **given, **(arrays or {})})

    @classmethod
    def of(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Beginning":
        """The beginning in a checkpoint."""
        given = {name.removeprefix("given."): values for name, values in arrays.items() if name.startswith("given.")}
        adaptation = None if header["given"] is None else Adaptation.from_record(header["given"], given)
        return cls(header["arguments"], header["identity"], arrays["key_data"], adaptation)


def read(content: bytes | None, mesh: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a checkpoint, which only the first process needs to have read."""
    size = int(broadcast_from_first(mesh, np.int64(len(content or b""))))
    mine = np.frombuffer(content or bytes(size), np.uint8)
    shared = broadcast_from_first(mesh, mine if mine.size == size else np.zeros(size, np.uint8))
    return from_bytes(np.asarray(shared).tobytes())


def moment(beginning: Beginning, prepared: Prepared, driver: Driver, recorder: Recorder) -> bytes:
    """The checkpoint of a run at the end of a segment."""
    record, adapted = prepared.adaptation.as_record()
    report, reported = ({}, {}) if prepared.report is None else prepared.report.as_record()
    header = {
        **record,
        **report,
        "num_lanes": prepared.settings.num_lanes,
        "method": prepared.settings.method,
        "num_threads": prepared.program.num_threads,
        "is_batched": prepared.program.dynamics.is_batched,
        "schedule": asdict(driver.schedule),
        "num_steps": prepared.settings.num_steps,
        "num_steps_done": driver.num_steps_done,
        "num_draws": recorder.num_draws,
        "seconds": prepared.clock.with_lap("sampling"),
        "has_tail": recorder.tail is not None,
        "has_reductions": recorder.reductions is not None and bool(recorder.reductions.values),
    }
    arrays = {
        **adapted,
        **reported,
        **as_arrays(recorder.segments),
        **recorder.watch.as_arrays(),
        "keys": prepared.keys,
        **packed("states", driver.run.states),
        **packed("guesses", driver.guesses),
        **({} if recorder.tail is None else packed("tail", recorder.tail)),
        **({} if recorder.reductions is None else packed("reductions", recorder.reductions.values)),
    }
    return beginning.to_bytes(header, arrays)


def restored(
    header: dict[str, Any], arrays: dict[str, np.ndarray], settings: SamplerSettings, model: Model, layout: Layout
) -> Prepared:
    """The chains of a checkpoint, ready to go on; if `settings` ask for more steps, these are planned anew."""
    like = LaneState(0, 0, 0 if settings.kernel.uses_gradient else None)
    dynamics = KernelLanes(model.logdensity, layout, settings.kernel, header["is_batched"])
    program = LaneProgram(
        dynamics, settings.num_lanes, settings.mesh, dynamics.records, num_threads=header["num_threads"]
    )
    adaptation = Adaptation.from_record(header, arrays)
    run = Run(
        adaptation.parameters._replace(data=model.data_arguments),
        chain_inputs(arrays["keys"]),
        unpacked("states", arrays, like),
        header["num_steps_done"],
    )
    report = Report.from_record(header, arrays, adaptation) if "report" in header else None
    schedule = Schedule(**header["schedule"])
    if settings.num_steps != header["num_steps"]:
        schedule = schedule.extended(settings, program, report, run.num_steps_done)
    clock = Clock(dict(header["seconds"]))
    guesses = unpacked("guesses", arrays, like)
    return Prepared(settings, program, run, arrays["keys"], guesses, schedule, adaptation, report, clock)


def restore_records(header: dict[str, Any], arrays: dict[str, np.ndarray], recorder: Recorder, kept: Kept) -> None:
    """Give a new recorder what it had when the checkpoint was written."""
    recorder.segments = from_arrays(arrays)
    recorder.num_draws = header["num_draws"]
    recorder.watch.restore(arrays)
    if kept.reduce is not None and recorder.reductions is not None and header["has_reductions"]:
        like = RunningReductions(kept.reduce)
        like.add(kept.invented_variables(1))
        recorder.reductions.values = unpacked("reductions", arrays, like.values)
    if header["has_tail"]:
        path, outputs = unpacked("tail", arrays, (0, Statistics(*[0] * len(Statistics._fields))))
        recorder.tail = path, outputs


def arguments_of(path: Path) -> dict[str, Any]:
    """The arguments with which the run in a store was begun."""
    return from_bytes(checkpoint_of(path))[0]["arguments"]
