"""Marks of parameters, shared by all tests."""

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Parameters of a case that is tested in the slow run only."""
    return pytest.param(*values, marks=pytest.mark.slow)
