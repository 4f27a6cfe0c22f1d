"""One Hamiltonian trajectory evaluated in parallel over its own leapfrog steps.

The steps of a trajectory are a recursion of (position, momentum). Its Jacobian couples each position to its own
momentum most, so that 2 x 2 blocks say nearly all of it: block quasi-DEER (Zoltowski et al., arXiv 2508.18413). Beside
the axis of the chain, which `parsample.sample` uses, this is the other one along which HMC can be parallelised.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample.linearize import BlockDiagonal
from parsample.recursion import deer, rollout
from parsample.solution import DEER, Sequential, Solution, sequential_solution
from parsample.validation import checked_count, checked_position


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


def integrate(
    logdensity_fn: Callable,
    position: PyTree,
    momentum: PyTree,
    *,
    step_size: float,
    inverse_mass_matrix: Float[Array, " D"],
    num_integration_steps: int,
    method: DEER | Sequential | None = None,
    rng_key: Array | None = None,
) -> tuple[PyTree, PyTree, Solution]:
    """The end of one Hamiltonian trajectory: BlackJAX's ``velocity_verlet``, so many times.

    Every call outside ``jax.jit`` compiles anew.

    Parameters
    ----------
    logdensity_fn
        Log density of a position.
    position, momentum
        Pytrees of the same shapes.
    step_size
        epsilon.
    inverse_mass_matrix
        Its diagonal in the order of the flattened position, shape (D,).
    num_integration_steps
        Leapfrog steps L.
    method
        `parsample.DEER` or `parsample.Sequential` settings; None: one-step blocks linearised by `BlockDiagonal`.
    rng_key
        Key of Hutchinson's probes.

    Returns
    -------
    position, momentum, solution
        At the end, and the certificate; its states are a `PhasePoint` after every step.

    Raises
    ------
    ValueError, TypeError
        For unusable arguments.

    Warns
    -----
    ParallelStallWarning
        If the trajectory was finished step by step.
    """
    checked_count("num_integration_steps", num_integration_steps)
    if not isinstance(method, DEER | Sequential | None):
        raise TypeError(f"method must be parsample.DEER(...), parsample.Sequential() or None; got {method!r}.")
    if not step_size > 0:
        raise ValueError(f"step_size must be positive; got {step_size!r}.")
    start, unravel = ravel_pytree(checked_position(position, "position"))
    kick, _ = ravel_pytree(checked_position(momentum, "momentum"))
    if jnp.shape(inverse_mass_matrix) != start.shape or kick.shape != start.shape:
        raise ValueError(
            f"position, momentum and inverse_mass_matrix have {start.size}, {kick.size} and "
            f"{jnp.shape(inverse_mass_matrix)} entries; give a momentum and a diagonal for each of the position."
        )

    def of_vector(vector: Float[Array, " D"]) -> Array:
        return logdensity_fn(unravel(vector))

    def half_kick(vector: Float[Array, " D"]) -> Float[Array, " D"]:
        return step_size / 2 * jax.grad(of_vector)(vector)

    step = leapfrog_step(of_vector, step_size, jnp.asarray(inverse_mass_matrix, start.dtype))
    path = (step, PhasePoint(start, kick + half_kick(start)), jnp.arange(num_integration_steps))
    if isinstance(method, Sequential):
        states = rollout(*path)
        ends = jnp.concatenate(states, axis=1)
        solution = sequential_solution(ends[-1], jnp.isfinite(ends).all(), len(ends), None, None)
        solution = solution._replace(states=states)
    else:
        chosen = method or DEER(linearization=BlockDiagonal(2), clip=None, max_step=None)
        settings = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
        solution = deer(*path, **settings, rng_key=rng_key)
        states = solution.states
    position, ahead = states.position[-1], states.momentum[-1]
    return unravel(position), unravel(ahead - half_kick(position)), solution
