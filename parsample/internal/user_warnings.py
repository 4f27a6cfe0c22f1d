"""Warnings that point at the user's line."""

import warnings
from pathlib import Path

import jax
import jaxtyping

# Files whose frames lie between the user's line and a warning: this package, and libraries that call back into it.
NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    *(str(Path(str(module.__file__)).parent) for module in (jax, jaxtyping)),
)


def warn_user(message: str, category: type[Warning]) -> None:
    """Issue a warning that names the nearest line outside of `NOT_THE_USERS`."""
    warnings.warn(message, category, skip_file_prefixes=NOT_THE_USERS)
