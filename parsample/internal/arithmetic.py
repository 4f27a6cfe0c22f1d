"""Integer arithmetic, for Python numbers and arrays alike."""

from typing import Any


def ceil_div(numerator: Any, denominator: Any) -> Any:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple
