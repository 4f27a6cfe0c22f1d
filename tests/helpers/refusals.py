"""Calls that must be refused: one error, whose message names the argument, its value and the remedy."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxtyping
import pytest
from chains import gaussian, gaussian_start

from parsample import sample

KEY = jax.random.key(0)

# Invalid values of a count.
COUNTS = [0, -1, True, 2.0, "3", None]


def refuses(error: type[Exception], *words: str) -> Any:
    """An error whose message holds these words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


def quietly(logdensity_fn: Callable, position: Any, **settings: Any) -> Any:
    settings = {"num_samples": 10, "num_warmup": 100, "num_chains": 1, "progress_bar": False} | settings
    return sample(KEY, logdensity_fn, position, **settings)


@contextlib.contextmanager
def type_checks_off() -> Iterator[None]:
    """Disable run-time type checks, because users run without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def refused(logdensity_fn: Any = gaussian, position: Any = None, **kwargs: Any) -> None:
    with type_checks_off():
        sample(KEY, logdensity_fn, gaussian_start() if position is None else position, progress_bar=False, **kwargs)
