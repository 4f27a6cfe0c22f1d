"""Marks of parameters, shared by all tests."""

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Parameters of a case that only the slow run has."""
    return pytest.param(*values, marks=pytest.mark.slow)
