"""The result of `sample`: draws, statistics and certificate."""

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.mapping import map_draws
from parsample.internal.validation import checked_key
from parsample.lanes.segments import Segment
from parsample.models.model import Model
from parsample.planning.report import Report, html_table, text_lines
from parsample.samplers.certificate import certificate_of, defect_of, evals_per_step_of, status_of
from parsample.samplers.diagnostics import NO_DIAGNOSTICS, Diagnostics
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
        Pytree with the structure of the initial position; every leaf has leading axes (chain, draw). None if `sample`
        was called with `keep`, or with `reduce` alone, or if the draws are in a store.
    sample_stats
        Statistics of each draw under ArviZ's names, each of shape (chain, draw); empty if they are in a store.
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
    num_draws
        Draws per chain that are kept.
    diagnostics
        What the draws are worth; see `Diagnostics`.
    variables
        The variables that `keep` named or computed, by name, with leading axes (chain, draw); None without it.
    store
        The zarr directory that holds the draws, read by `to_arviz` and continued by `resume`; None: they are here.
    reductions
        Results of `reduce`: of a single reduction its result, of several a dict; None without.
    warmup
        With ``keep_warmup=True``: a dict with the "positions" and "sample_stats" of the warm-up.
    stopped_early
        Whether the run ended because `stop_at` was met.

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
    interrupted: bool = False
    scratch_dir: Path | None = None
    num_draws: int = 0
    diagnostics: Diagnostics = NO_DIAGNOSTICS
    variables: dict[str, np.ndarray] | None = None
    store: Path | None = None
    reductions: Any = None
    warmup: dict[str, Any] | None = None
    stopped_early: bool = False

    @property
    def status(self) -> Status:
        """Worst status of all segments."""
        return status_of(self.segments)

    @property
    def defect(self) -> float:
        """Largest jump where blocks join, in posterior standard deviations; 0: the draws are bitwise one chain."""
        return defect_of(self.segments)

    @property
    def evals_per_step(self) -> float:
        """Evaluations of the kernel per step, over all segments."""
        return evals_per_step_of(self.segments)

    @property
    def certificate(self) -> str:
        """One line that states whether every step is the kernel's own, with accuracy and cost."""
        return certificate_of(self.segments)

    @property
    def _heading(self) -> str:
        run = f"{self.settings['num_chains']} chains x {self.num_draws} draws, kernel {self.settings['kernel']}"
        thin = self.settings.get("thin", 1)
        run += f", {thin} steps per draw" if thin > 1 else ""
        return run + (" (interrupted)" if self.interrupted else " (stopped early)" if self.stopped_early else "")

    @property
    def _rows(self) -> list[tuple[str, str]]:
        rows = [] if self.report is None else self.report.rows
        rows.append(("took", ", ".join(f"{phase} {duration:.1f} s" for phase, duration in self.seconds.items())))
        if num_diverging := sum(self.diagnostics.num_diverging):
            num_steps = self.settings["num_chains"] * self.num_draws * self.settings.get("thin", 1)
            rows.append(("divergences", f"{num_diverging} of {num_steps} steps: mistrust the tails"))
        if self.store is not None:
            rows.append(("stored in", str(self.store)))
        return [*rows, ("path", self.certificate), ("draws", str(self.diagnostics))]

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

        Its groups are posterior and sample_stats, observed_data and constant_data if the model has them,
        warmup_posterior and warmup_sample_stats if the warm-up was kept, and those asked for. Of a store it is read
        from the disk when its values are used.

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
            If ArviZ or files could not hold these names, dimensions or labels; if the model lacks a function that is
            needed; or if the positions were not kept from which something is computed.
        TypeError
            If `constrain` does not return a dict.
        """
        from parsample.draws.datatree import datatree, opened  # noqa: PLC0415 - ArviZ takes a second to import

        model = self.model
        if self.store is not None:
            if dims or coords or constrain or log_likelihood or posterior_predictive is not None:
                raise ValueError(
                    "draws in a store have the variables and labels of the model with which the run began; "
                    "log_likelihood and posterior_predictive need positions, which are in results without a store."
                )
            return opened(self.store)
        groups = self._groups(constrain)
        if log_likelihood:
            groups["log_likelihood"] = model.log_likelihoods(self._positions, self.scratch_dir)
        if posterior_predictive is not None:
            key = checked_key(posterior_predictive, "posterior_predictive")
            groups["posterior_predictive"] = model.predictions(key, self._positions, self.scratch_dir)
        for name, arrays in (("observed_data", model.observed_data), ("constant_data", model.constant_data)):
            if arrays:
                groups[name] = {key: np.asarray(values) for key, values in arrays.items()}
        known = {name for arrays in groups.values() for name in arrays}
        is_whole = constrain is None and self.variables is None
        own_dims = {name: labels for name, labels in model.dims.items() if is_whole or name in known}
        return datatree(groups, self._attributes(), {**own_dims, **(dims or {})}, {**model.coords, **(coords or {})})

    @property
    def _positions(self) -> PyTree:
        if self.positions is None:
            raise ValueError("the positions of the draws were not kept: call sample without keep= and reduce=.")
        return self.positions

    def _groups(self, constrain: Callable | None) -> dict[str, dict[str, np.ndarray]]:
        """Variables and statistics of draws, and of the warm-up if it was kept."""
        statistics = dict(self.sample_stats)
        if statistics:
            step_size = np.float32(np.mean(self.adaptation.parameters.step_size))
            shape = next(iter(statistics.values())).shape
            statistics["step_size"] = np.broadcast_to(step_size, shape)
        if self.variables is not None and constrain is None:
            variables = self.variables
        else:
            variables = self._mapped(self._positions, constrain)
        groups = {"posterior": variables}
        if statistics:
            groups["sample_stats"] = statistics
        if self.warmup is not None:
            groups["warmup_posterior"] = self._mapped(self.warmup["positions"], constrain)
            groups["warmup_sample_stats"] = self.warmup["sample_stats"]
        return groups

    def _mapped(self, positions: PyTree, constrain: Callable | None) -> dict[str, np.ndarray]:
        """The variables of some draws, with leading axes (chain, draw)."""
        from parsample.draws.datatree import named_leaves  # noqa: PLC0415 - ArviZ takes a second to import

        model = self.model
        if constrain is not None:
            return map_draws(constrain, positions, scratch_dir=self.scratch_dir)
        if model.constrain is None:
            return named_leaves(positions, model.names)
        return map_draws(model.constrain, positions, data=model.data_arguments, scratch_dir=self.scratch_dir)

    def _attributes(self) -> dict[str, str | float]:
        """Attributes of the DataTree."""
        own = attributes_of(self.segments, self.report, self.adaptation, self.settings, self.seconds)
        return {**own, **self.diagnostics.as_attributes(self.num_draws)}


def attributes_of(
    segments: Sequence[Segment],
    report: Report | None,
    adaptation: Adaptation | None,
    settings: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, str | float]:
    """Attributes of a DataTree: certificate, settings and versions, as strings and numbers."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "blackjax", "arviz")}
    return {
        "inference_library": "parsample",
        "inference_library_version": __version__,
        "certificate": certificate_of(segments),
        "status": status_of(segments).name,
        "defect": float(defect_of(segments)),
        "evals_per_step": float(evals_per_step_of(segments)),
        "plan": "step by step" if report is None else str(report.plan),
        "sampling_time": float(seconds.get("sampling", 0.0)),
        "tuning_steps": 0 if adaptation is None else adaptation.num_steps,
        "settings": json.dumps({**settings, "versions": versions, "seconds": seconds}),
    }
