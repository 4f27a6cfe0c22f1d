"""Warnings that point at the line of the user who called a public function."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def warns_here(category: type[Warning], match: str | None = None) -> Iterator[Any]:
    """Like ``pytest.warns``, and assert that every such warning names a line of the caller's file."""
    caller = inspect.stack()[2].filename
    with pytest.warns(category, match=match) as caught:
        yield caught
    assert {warning.filename for warning in caught if issubclass(warning.category, category)} == {caller}
