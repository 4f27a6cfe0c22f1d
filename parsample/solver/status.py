"""Outcomes of a solve, and the warnings that report them."""

import enum

from parsample.internal.user_warnings import warn_user


class ParallelStallWarning(UserWarning):
    """The chain cannot be, or was not, evaluated in parallel; it is evaluated step by step, and the result is right.

    Examples
    --------
    Silence it for a chain that is known to be too short or not predictable:

    >>> import warnings, parsample
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", parsample.ParallelStallWarning)
    """


class UncertifiedChainWarning(UserWarning):
    """The returned path is not the chain's own: it was stopped early on request, or is not finite.

    It does not derive from `ParallelStallWarning`: ignoring "this runs sequentially" never hides "this path is wrong".

    Examples
    --------
    Without derivatives, two sweeps do not suffice for this recursion; here the warning is turned into an error:

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
    """How the evaluation of a path ended; `Solution.status` holds the integer value.

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
        """A sentence for the user about the path."""
        return _MESSAGES[self]

    @property
    def is_exact(self) -> bool:
        """Whether the path is the chain's own, within the tolerance."""
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
    """Warn, once, of a solve that stalled, stopped at `max_iters` or is not finite; `detail` follows the message."""
    if status not in _REMEDIES:
        return
    category = ParallelStallWarning if status.is_exact else UncertifiedChainWarning
    warn_user(f"{status.message}{detail}. {_REMEDIES[status]}", category)
