"""The tolerance within which two states count as equal."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from parsample.chain.transition import Vector

# Differences of up to this many units of rounding of the state count as zero.
ROUNDINGS = 8


class Tolerance(NamedTuple):
    """Two states count as the same if ``|difference| <= atol * scale + rtol * |state|`` in every coordinate.

    Attributes
    ----------
    scale
        Standard deviation of the chain in each coordinate.
    atol
        In units of `scale`.
    rtol
        In units of the state itself: a few units of its rounding, the smallest tolerance that can be met.
    """

    scale: Float[Any, " D"]
    atol: Float[Any, ""]
    rtol: Float[Any, ""]

    def accepts(self, difference: Float[Any, "*C D"], state: Float[Any, "*C D"]) -> Bool[Any, "*C"]:
        """Whether each difference is within tolerance in all coordinates (never if it is NaN)."""
        return self._bounds(difference, state, self.scale[None])

    def accepts_capped(self, difference: Float[Array, "C D"], state: Float[Array, "C D"]) -> Bool[Array, " C"]:
        """Like `accepts`, but caps `scale` at 10 |state|, because early estimates of the scale can be far too large."""
        return self._bounds(difference, state, self.scale[None] * jnp.minimum(10 * self.size(state)[:, None], 1))

    def _bounds(self, difference: Any, state: Any, unit: Any) -> Bool[Any, "*C"]:
        # Operators, not functions of JAX or NumPy, so that the same rule also compares states on the host.
        limit = self.atol * unit + self.rtol * abs(state)
        return ((abs(difference) <= limit) & (abs(difference) < math.inf)).all(-1)

    def size(self, difference: Float[Any, "*C D"]) -> Float[Any, "*C"]:
        """Largest coordinate of each difference in units of the scale."""
        return largest_coordinate(difference, self.scale)


def largest_coordinate(difference: Float[Any, "*C D"], scale: Float[Any, " D"]) -> Float[Any, "*C"]:
    """Largest coordinate of each difference in units of `scale`."""
    return (abs(difference) / scale[None]).max(-1)


def default_tolerance(scale: Vector, atol: float | None = None, rtol: float | None = None) -> Tolerance:
    """The tolerance within which two states of a chain of this scale count as the same.

    Defaults: `atol` 1e-10 in float64 and 1e-5 in float32, in units of `scale`; `rtol` 8 units of rounding.
    """
    if atol is None:
        atol = 1e-10 if scale.dtype == jnp.float64 else 1e-5
    if rtol is None:
        rtol = ROUNDINGS * float(jnp.finfo(scale.dtype).eps)
    return Tolerance(scale, jnp.asarray(atol, scale.dtype), jnp.asarray(rtol, scale.dtype))
