"""Rules that correct the block starts, from linearized block maps and defects.

Each rule maps operators A_c and defects d_c = e_{c-1} - x_c of all blocks to corrections delta_c of their starts. The
solver overrides every rule in one place: the block after the exact prefix starts where that prefix ends, so that C
sweeps always suffice.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from parsample.chain.transition import Vector
from parsample.solver import affine
from parsample.solver.operators import Operator


@dataclass(frozen=True)
class Newton:
    """``delta_c = (1 - damping) A_{c-1} delta_{c-1} + d_c``: Newton's method, the default.

    Attributes
    ----------
    damping
        From 0, no damping, to 1, which ignores A (scale-ELK, Gonzalez et al., arXiv 2407.19115).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(
    ...     lambda s, u: 0.5 * jnp.sin(s) + u, jnp.zeros(3), jnp.ones((100, 3)), block_size=10,
    ...     correction=parsample.Newton(damping=0.1),
    ... )
    >>> parsample.Status(int(solution.status)).name
    'CONVERGED'
    """

    damping: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping must lie between 0 and 1; got {self.damping!r}.")

    def __call__(self, operators: Operator, defects: Float[Array, "C D"], _scale: Vector) -> Float[Array, "C D"]:
        """Corrections of all block starts."""
        return affine.solve((1 - self.damping) * operators if self.damping else operators, defects)


@runtime_checkable
class Correction(Protocol):
    """A rule that corrects block starts; instances are hashable."""

    def __call__(self, operators: Operator, defects: Float[Array, "C D"], scale: Vector, /) -> Float[Array, "C D"]:
        """Corrections of all block starts; `scale` is the standard deviation of the chain."""
        ...
