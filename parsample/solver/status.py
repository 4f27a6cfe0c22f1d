"""How a solve ended, and how a user is told."""

import enum

from parsample.internal.user_warnings import warn_user


class ParallelStallWarning(UserWarning):
    """The chain cannot be, or was not, evaluated in parallel. It is evaluated step by step, and is right.

    Examples
    --------
    Whoever knows that a chain is too short, or not predictable, may silence it:

    >>> import warnings, parsample
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", parsample.ParallelStallWarning)
    """


class UncertifiedChainWarning(UserWarning):
    """The returned path is not the chain's own: it was stopped early on request, or is not finite.

    It is no `ParallelStallWarning`, so that ignoring "this runs sequentially" never hides "this path is wrong".

    Examples
    --------
    Two sweeps do not suffice for this recursion without derivatives; the warning is made an error:

    >>> import warnings, jax.numpy as jnp, parsample
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", parsample.UncertifiedChainWarning)
    ...     try:
    ...         parsample.deer(
    ...             lambda s, u: s + u, jnp.zeros(()), jnp.ones(64), linearization=parsample.Zero(), max_iters=2
    ...         )
    ...     except parsample.UncertifiedChainWarning:
    ...         print("not certified")
    not certified
    """


class Status(enum.IntEnum):
    """How the evaluation of a path ended. Values are what solutions carry under jit.

    Examples
    --------
    >>> import parsample
    >>> parsample.Status.STALLED.is_exact, parsample.Status.MAX_ITERS.is_exact
    (True, False)
    """

    CONVERGED = 0
    SEQUENTIAL = 1
    STALLED = 2
    MAX_ITERS = 3
    NON_FINITE = 4

    @property
    def message(self) -> str:
        """The meaning for the path, in a sentence."""
        return _MESSAGES[self]

    @property
    def is_exact(self) -> bool:
        """Whether the path is the chain's own, within the tolerance asked for."""
        return self in (Status.CONVERGED, Status.SEQUENTIAL, Status.STALLED)


_MESSAGES = {
    Status.CONVERGED: "all blocks met within tolerance",
    Status.SEQUENTIAL: "evaluated step by step",
    Status.STALLED: "blocks stopped meeting; the rest was evaluated step by step from the exact prefix",
    Status.MAX_ITERS: "stopped at max_iters before all blocks met: the path is exact only up to its exact prefix",
    Status.NON_FINITE: "the path contains NaN or infinite states",
}

_REMEDIES = {
    Status.STALLED: "It is right, but cost more than a sequential run; parsample.check says why.",
    Status.MAX_ITERS: "Raise max_iters, or leave it out to have the rest evaluated step by step.",
    Status.NON_FINITE: "Check the step function and its inputs from the first non-finite state on.",
}


def warn_of(status: Status, detail: str = "") -> None:
    """Warn, once, of a path that was not found in parallel, or is not the chain's own."""
    if status not in _REMEDIES:
        return
    category = ParallelStallWarning if status.is_exact else UncertifiedChainWarning
    warn_user(f"{status.message}{detail}. {_REMEDIES[status]}", category)
