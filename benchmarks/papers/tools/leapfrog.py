"""One Hamiltonian trajectory evaluated in parallel over its own leapfrog steps.

The steps of a trajectory are a recursion of (position, momentum). Its Jacobian couples each position to its own
momentum most, so that 2 x 2 blocks approximate it well: block quasi-DEER (Zoltowski et al., arXiv 2508.18413). This is
the second axis along which HMC can be parallelised; `parsample.sample` uses the first, the steps of the chain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float


class PhasePoint(NamedTuple):
    """Position, and the momentum half a step ahead of it.

    Attributes
    ----------
    position
        Flat, shape (D,).
    momentum
        Shape (D,).
    """

    position: Float[Array, " D"]
    momentum: Float[Array, " D"]


def leapfrog_step(
    logdensity_fn: Callable, step_size: float, inverse_mass_matrix: Float[Array, " D"]
) -> Callable[[PhasePoint, object], PhasePoint]:
    """The leapfrog integrator as ``step(state, input)`` with one gradient a step; the input is not used.

    Parameters
    ----------
    logdensity_fn
        Of a flat position, shape (D,).
    step_size
        epsilon.
    inverse_mass_matrix
        Its diagonal, shape (D,).

    Returns
    -------
    Function that moves a position by a whole step along the momentum, and then the momentum by a whole step along
    the gradient there: leapfrog, where momenta are half a step ahead.
    """
    gradient = jax.grad(logdensity_fn)

    def step(state: PhasePoint, _: object) -> PhasePoint:
        position = state.position + step_size * inverse_mass_matrix * state.momentum
        return PhasePoint(position, state.momentum + step_size * gradient(position))

    return step
