"""How a solve ended, and how a user is told."""

import enum
import warnings


class ParallelStallWarning(UserWarning):
    """A chain cannot be, or was not, evaluated in parallel; it is still the right chain unless the message says so."""


class Status(enum.IntEnum):
    """How the evaluation of a path ended. Values are what solutions carry under jit."""

    CONVERGED = 0
    SEQUENTIAL = 1
    STALLED = 2
    MAX_ITERS = 3
    NON_FINITE = 4

    @property
    def message(self) -> str:
        """What it means for the path, in a sentence."""
        return _MESSAGES[self]

    @property
    def is_exact(self) -> bool:
        """Whether the path is the chain's own, to the tolerance asked for."""
        return self in (Status.CONVERGED, Status.SEQUENTIAL, Status.STALLED)


_MESSAGES = {
    Status.CONVERGED: "all blocks met within tolerance",
    Status.SEQUENTIAL: "evaluated step by step",
    Status.STALLED: "blocks stopped meeting; the rest was evaluated step by step from the exact prefix",
    Status.MAX_ITERS: "stopped at max_iters before all blocks met: the path is exact only up to its exact prefix",
    Status.NON_FINITE: "the path contains NaN or infinite states",
}


def report(status: Status, detail: str = "", stacklevel: int = 3) -> None:
    """Warn, once, about a path that was not found in parallel or is not the chain's own."""
    if status in (Status.CONVERGED, Status.SEQUENTIAL):
        return
    remedy = {
        Status.STALLED: "It is right, but cost more than a sequential run; parsample.check says why.",
        Status.MAX_ITERS: "Raise max_iters, or leave it out to have the rest evaluated step by step.",
        Status.NON_FINITE: "Check the step function and its inputs from the first non-finite state on.",
    }[status]
    warnings.warn(f"{status.message}{detail}. {remedy}", ParallelStallWarning, stacklevel=stacklevel)
