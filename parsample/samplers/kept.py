"""What `sample` keeps of its draws, and where; tried on two invented draws before the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import PyTree

from parsample.draws.layout import Layout
from parsample.draws.mapping import DrawFunction
from parsample.draws.outputs import check_space
from parsample.draws.reductions import Reductions, RunningReductions, checked_reductions
from parsample.draws.store import MAX_BYTES_IN_MEMORY, checked_scratch_dir
from parsample.internal.devices import physical_memory
from parsample.internal.validation import checked_flag, checked_instance
from parsample.kernels.base import Kernel
from parsample.models.model import Model
from parsample.models.variables import Keep, Variables
from parsample.samplers.stopping import StopAt

# The statistic that results have beside those of the kernel.
STEP_SIZE = "step_size"


@dataclass(frozen=True)
class Kept:
    """What is kept of the draws of a run.

    Attributes
    ----------
    layout
        Layout of the positions.
    variables
        The variables of a draw.
    statistics
        Names of the statistics that are kept.
    keep
        Names of variables, or a function of them; None: all.
    reduce
        Summaries of all draws, or None.
    out
        The file or directory of the draws; None: memory.
    scratch_dir
        Directory for large arrays; None: memory.
    stop_at
        When to stop early; None: never.
    warmup
        Whether the warm-up of the chains is kept.
    log_likelihood
        Maps positions to the log likelihood of each observation, which is kept in a store; None: it is not kept.
    """

    layout: Layout
    variables: Variables
    statistics: tuple[str, ...]
    keep: Keep | None = None
    reduce: Reductions | None = None
    out: Path | None = None
    scratch_dir: Path | None = None
    stop_at: StopAt | None = None
    warmup: bool = False
    log_likelihood: DrawFunction | None = None

    @classmethod
    def of(  # noqa: PLR0913
        cls,
        model: Model,
        position: PyTree,
        kernel: Kernel,
        *,
        keep: Keep | None = None,
        statistics: Sequence[str] | None = None,
        reduce: Reductions | None = None,
        out: Path | None = None,
        scratch_dir: str | Path | None = None,
        stop_at: StopAt | None = None,
        keep_warmup: bool = False,
        log_likelihood: bool = False,
    ) -> "Kept":
        """Validate these arguments of `sample` for a model, with a checked position of one chain."""
        keep = [keep] if isinstance(keep, str) else keep
        if stop_at is not None:
            checked_instance("stop_at", stop_at, StopAt, "a StopAt, such as parsample.StopAt(ess=400)")
        directory = out.parent if out is not None and scratch_dir is None else scratch_dir
        kept = cls(
            Layout.of(position),
            Variables.of(model, position, keep),
            _checked_statistics(statistics, kernel),
            keep,
            checked_reductions(reduce),
            out,
            checked_scratch_dir(directory),
            stop_at,
            checked_flag("keep_warmup", keep_warmup),
            model.log_likelihood_of(position) if checked_flag("log_likelihood", log_likelihood) else None,
        )
        if kept.reduce is not None:
            RunningReductions(kept.reduce).add(kept.invented_variables(1))
        if stop_at is not None:
            stop_at.check(kept.variables.example)
        if keep_warmup and not kept.keeps_positions:
            raise ValueError(
                "keep_warmup=True keeps the warm-up beside positions in memory: leave out keep=, reduce= "
                "and a zarr directory as out=."
            )
        if log_likelihood and not kept.in_store:
            raise ValueError(
                "log_likelihood=True is for draws in a store (out= a zarr directory); of draws in memory, "
                "to_arviz(log_likelihood=True) computes it."
            )
        return kept

    @property
    def in_store(self) -> bool:
        """Whether draws go to a store that grows with the run."""
        return self.out is not None and self.out.suffix == ".zarr"

    @property
    def only_reduced(self) -> bool:
        """Whether no draws are kept, only their summaries."""
        return self.reduce is not None and self.out is None

    @property
    def keeps_positions(self) -> bool:
        """Whether positions are kept in memory, from which variables are computed when they are needed."""
        return self.keep is None and not self.in_store and not self.only_reduced

    def invented_variables(self, num_chains: int) -> dict[str, np.ndarray]:
        """Two invented draws of each chain: variables by name."""
        return _invented(self.variables.function, num_chains)

    def invented_log_likelihood(self, num_chains: int) -> dict[str, np.ndarray]:
        """Two invented draws of each chain: log likelihoods by name, if they are kept."""
        return {} if self.log_likelihood is None else _invented(self.log_likelihood, num_chains)

    def invented_statistics(self, num_chains: int) -> dict[str, np.ndarray]:
        """Two invented draws of each chain: statistics by name."""
        kinds = {"diverging": bool, "n_steps": np.int32, "tree_depth": np.int32, STEP_SIZE: np.float32}
        names = (*self.statistics, STEP_SIZE) if self.statistics else ()
        return {name: np.zeros((num_chains, 2), kinds.get(name, self.layout.dtype)) for name in names}

    def check_space(self, num_chains: int, num_samples: int) -> None:
        """Raise unless the disk, or the memory, has room for the draws."""
        if self.only_reduced:
            return
        num_draws = num_chains * num_samples
        statistics = num_draws * sum(values.itemsize for values in self.invented_statistics(1).values())
        likelihoods = num_draws * sum(values[0, 0].nbytes for values in self.invented_log_likelihood(1).values())
        variables = num_draws * self.variables.bytes_per_draw
        positions = num_draws * self.layout.dimension * np.dtype(self.layout.dtype).itemsize
        held = (positions if self.keeps_positions else variables) + statistics
        if self.in_store:
            check_space(cast(Path, self.out), variables + statistics + likelihoods)
        elif self.out is not None:
            # Large draws lie in scratch files while the file is written.
            check_space(self.out, variables + statistics + (held if held > MAX_BYTES_IN_MEMORY else 0))
        elif self.scratch_dir is None and held > (memory := physical_memory()):
            raise ValueError(
                f"these draws take {held / 2**30:,.1f} GiB; this machine has {memory / 2**30:,.1f} GiB of memory. Keep "
                "them on disk (out=), or keep fewer (thin=, keep=, reduce=)."
            )


def _invented(function: DrawFunction, num_chains: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((num_chains, 2, *leaf.shape), leaf.dtype) for name, leaf in function.example.items()}


def _checked_statistics(statistics: Sequence[str] | None, kernel: Kernel) -> tuple[str, ...]:
    if statistics is None:
        return kernel.statistics
    checked_instance("statistics", statistics, Sequence, "a sequence of names")
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    unknown = [name for name in names if name not in kernel.statistics]
    if unknown:
        known = ", ".join(kernel.statistics)
        raise ValueError(f"statistics names {unknown}; those of kernel {kernel.name!r} are {known}.")
    return names
