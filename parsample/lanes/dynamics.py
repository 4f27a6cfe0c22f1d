"""The protocol of what lanes evaluate: one step, and when two states or records have met."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Vector


@runtime_checkable
class LaneDynamics(Protocol):
    """The dynamics of the lanes: hashable, and without arrays except those in closures of the user's functions."""

    def step(
        self, parameters: Any, inputs: PyTree, state: PyTree, row: Int[Array, ""], needs_evaluation: Bool[Array, ""]
    ) -> tuple[PyTree, Vector, PyTree]:
        """One row of one lane: its next state, the position there, and the output to record."""
        ...

    def met(self, parameters: Any, atol: Any, new: tuple[Any, PyTree], old: tuple[Any, PyTree]) -> tuple[Any, Any]:
        """Distance of new records (position, output) from old ones, in standard deviations, and whether they met."""
        ...

    def joined(
        self, parameters: Any, atol: float, one: PyTree, other: PyTree
    ) -> tuple[Float[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """The same for states on the host; tells which blocks start where the previous block ended."""
        ...

    def with_estimated_scale(self, parameters: Any, path: Callable[[], np.ndarray]) -> Any:
        """Parameters whose unit of distance is the standard deviation of the path; unchanged if the unit is fixed.

        `path` is called only if needed.
        """
        ...
