"""The result of `sample`: draws, statistics and certificate."""

import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.mapping import map_draws
from parsample.draws.store import pieces
from parsample.lanes.segments import Segment
from parsample.models.model import Model
from parsample.planning.report import Report, html_table, text_lines
from parsample.solver.status import Status
from parsample.version import __version__
from parsample.warmup.adaptation import Adaptation


@dataclass(frozen=True, repr=False)
class SampleResult:
    """Draws of `sample`, with their statistics and their certificate.

    ``str(result)`` shows the report of the check, times, divergences and the certificate.

    Attributes
    ----------
    positions
        Pytree with the structure of the initial position; every leaf has leading axes (chain, draw).
    sample_stats
        Statistics of each draw under ArviZ's names, each of shape (chain, draw).
    adaptation
        Result of the warm-up.
    report
        Report of the check; None if there was no check.
    segments
        Records of the segments, in order and without draws; see `parsample.lanes.segments.Segment`.
    settings
        Arguments of `sample`, with data type and devices.
    seconds
        Wall time in seconds of compilation, warm-up, check and sampling.
    model
        The model that was sampled.
    interrupted
        Whether the run was interrupted; only draws finished by then are included.
    scratch_dir
        Directory of the files that hold large arrays; None: all arrays are in memory.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), num_samples=500, progress_bar=False
    ... )
    >>> result.status.name, result.defect, result.num_draws
    ('CONVERGED', 0.0, 500)
    """

    positions: PyTree
    sample_stats: dict[str, np.ndarray]
    adaptation: Adaptation
    report: Report | None
    segments: list[Segment]
    settings: dict[str, Any]
    seconds: dict[str, float]
    model: Model
    interrupted: bool = field(default=False)
    scratch_dir: Path | None = field(default=None)

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return self.sample_stats["lp"].shape[1]

    @property
    def status(self) -> Status:
        """Worst status of all segments."""
        return max(segment.status for segment in self.segments)

    @property
    def defect(self) -> float:
        """Largest jump where blocks join, in posterior standard deviations; 0: the draws are bitwise one chain."""
        return max((segment.defect for segment in self.segments), default=math.nan)

    @property
    def evals_per_step(self) -> float:
        """Evaluations of the kernel per step, averaged over all segments."""
        steps = np.array([segment.num_steps for segment in self.segments])
        return float(np.average([segment.evals_per_step for segment in self.segments], weights=steps))

    @property
    def certificate(self) -> str:
        """One line that states whether every step is the kernel's own, with accuracy and cost."""
        work = f"{self.evals_per_step:.2f} evaluations per step"
        if self.status is Status.NON_FINITE:
            return f"NOT certified: {self.status.message}"
        if all(segment.status is Status.SEQUENTIAL for segment in self.segments):
            return "certified: evaluated step by step, 1 evaluation per step"
        accuracy = "bitwise one chain" if self.defect == 0 else f"largest defect {self.defect:.1e} posterior sd"
        fallback = "in part step by step, " if self.status is Status.STALLED else ""
        return f"certified: every step is the kernel's own, {accuracy}, {fallback}{work}"

    @property
    def _heading(self) -> str:
        run = f"{self.settings['num_chains']} chains x {self.num_draws} draws, kernel {self.settings['kernel']}"
        return run + " (interrupted)" if self.interrupted else run

    @property
    def _rows(self) -> list[tuple[str, str]]:
        rows = [] if self.report is None else self.report.rows
        rows.append(("took", ", ".join(f"{phase} {duration:.1f} s" for phase, duration in self.seconds.items())))
        is_diverging = self.sample_stats.get("diverging", np.zeros((1, 1), bool))
        diverging = sum(int(is_diverging[:, piece].sum()) for piece in pieces(is_diverging))
        if diverging:
            rows.append(("divergences", f"{diverging} of {is_diverging.size} draws: mistrust the tails"))
        return [*rows, ("certificate", self.certificate)]

    def __repr__(self) -> str:
        return f"{self._heading}\n{text_lines(self._rows)}"

    def _repr_html_(self) -> str:
        return html_table([("run", self._heading), *self._rows])

    def save(self, path: str | Path, **arguments: Any) -> None:
        """Write the draws to a file that ArviZ and xarray read, piece by piece, so that large results need no memory.

        Parameters
        ----------
        path
            A netCDF file (``.nc``) or a zarr directory (``.zarr``); an existing one is replaced.
        **arguments
            Arguments of `to_arviz`.

        Raises
        ------
        ValueError
            If the path has another ending.
        ImportError
            If zarr is needed and not installed: ``pip install 'parsample[zarr]'``.
        """
        from parsample.draws.datatree import save  # noqa: PLC0415 - ArviZ takes a second to import

        save(self.to_arviz(**arguments), Path(path))

    def summary(self, *, full: bool = False) -> str:
        """Table of mean, sd, 89 % interval, effective sample sizes and R-hat of every variable.

        Parameters
        ----------
        full
            Whether to compute effective sample sizes and R-hat of more than five million values as well, which takes
            longer than five seconds.
        """
        from parsample.draws.summary import summary_table  # noqa: PLC0415 - ArviZ takes a second to import

        return summary_table(self.to_arviz(), full=full)

    def plot(self) -> dict[str, Any]:
        """Plot the run in matplotlib figures.

        Returns
        -------
        dict
            Figures by name: "traces" and "ranks" of the first variables, by ArviZ; "coalescence", distances of pairs of
            lanes, if there was a check; "front", defects at block starts after each sweep, if there were blocks.

        Raises
        ------
        ImportError
            If matplotlib is not installed: ``pip install 'parsample[plots]'``.
        """
        from parsample.samplers.plots import figures  # noqa: PLC0415 - matplotlib is an extra

        return figures(self.to_arviz(), self.report, self.segments)

    def to_arviz(
        self,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        constrain: Callable | None = None,
        log_likelihood: bool = False,
        posterior_predictive: Array | None = None,
    ) -> Any:
        """Convert the draws to an ArviZ `xarray.DataTree`.

        Its groups are posterior and sample_stats, observed_data and constant_data if the model has them, and those
        asked for.

        Parameters
        ----------
        dims
            Names of the dimensions of each variable, chain and draw excluded; added to those of the model.
        coords
            Coordinate labels of those dimensions; added to those of the model.
        constrain
            ``constrain(position) -> dict of arrays`` computes the variables to store. None: that of the model, or the
            leaves of the position.
        log_likelihood
            Whether to compute the log likelihood of each observation, for `arviz.loo` and `arviz.compare`.
        posterior_predictive
            Random key for replicated observations; None: none are drawn.

        Returns
        -------
        xarray.DataTree
            Draws and statistics; the attributes hold the certificate, and settings and versions as JSON.

        Raises
        ------
        ValueError
            If `dims` names an unknown variable, or a wrong number of dimensions; or if the model lacks a function that
            is needed.
        TypeError
            If `constrain` does not return a dict.
        """
        from parsample.draws.datatree import datatree  # noqa: PLC0415 - ArviZ takes a second to import

        model, scratch = self.model, self.scratch_dir
        step_size = np.float32(np.mean(self.adaptation.parameters.step_size))
        groups = {
            "posterior": self._variables(constrain),
            "sample_stats": {
                **self.sample_stats,
                "step_size": np.broadcast_to(step_size, self.sample_stats["lp"].shape),
            },
        }
        if log_likelihood:
            groups["log_likelihood"] = model.log_likelihoods(self.positions, scratch)
        if posterior_predictive is not None:
            groups["posterior_predictive"] = model.predictions(posterior_predictive, self.positions, scratch)
        for name, arrays in (("observed_data", model.observed_data), ("constant_data", model.constant_data)):
            if arrays:
                groups[name] = {key: np.asarray(values) for key, values in arrays.items()}
        known = {name for arrays in groups.values() for name in arrays}
        own_dims = {name: labels for name, labels in model.dims.items() if constrain is None or name in known}
        return datatree(groups, self._attributes(), {**own_dims, **(dims or {})}, {**model.coords, **(coords or {})})

    def _variables(self, constrain: Callable | None) -> dict[str, np.ndarray]:
        """The variables to present, with leading axes (chain, draw)."""
        from parsample.draws.datatree import named_leaves  # noqa: PLC0415 - ArviZ takes a second to import

        if constrain is not None:
            return map_draws(constrain, self.positions, scratch_dir=self.scratch_dir)
        model = self.model
        if model.constrain is None:
            return named_leaves(self.positions, model.names)
        return map_draws(model.constrain, self.positions, data=model.data_arguments, scratch_dir=self.scratch_dir)

    def _attributes(self) -> dict[str, str | float]:
        """Attributes of the DataTree: certificate, settings and versions, as strings and numbers."""
        versions = {name: importlib.metadata.version(name) for name in ("jax", "blackjax", "arviz")}
        return {
            "inference_library": "parsample",
            "inference_library_version": __version__,
            "certificate": self.certificate,
            "status": self.status.name,
            "defect": float(self.defect),
            "evals_per_step": float(self.evals_per_step),
            "plan": "step by step" if self.report is None else str(self.report.plan),
            "sampling_time": float(sum(self.seconds.values())),
            "settings": json.dumps({**self.settings, "versions": versions, "seconds": self.seconds}),
        }
