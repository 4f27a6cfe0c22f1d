"""What predictability says of parallel evaluation: the merit function, its conditioning, and the sweeps to expect.

Solving ``s_t = f_t(s_{t-1})`` minimises the merit function ``L(s) = 1/2 sum |s_t - f_t(s_{t-1})|^2``, whose residual
has the Jacobian J: identities on the diagonal and -A_t below it. Its smallest singular value squared is the
Polyak-Lojasiewicz constant mu of L, which the largest Lyapunov exponent bounds (Gonzalez et al., arXiv 2508.16817,
theorem 2): constant in T where the exponent is negative, exponentially small where it is positive.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample.compilation import outermost_jit
from parsample.solution import Solution
from parsample.status import Status
from parsample.transition import as_inputs
from parsample.validation import checked_count, checked_recursion


class Conditioning(NamedTuple):
    """How well conditioned the merit function of a path is.

    Attributes
    ----------
    log_mu_lower, log_mu_upper
        Bounds of the logarithm of the Polyak-Lojasiewicz constant.
    log_condition
        Upper bound of the logarithm of the condition number of J.
    """

    log_mu_lower: float
    log_mu_upper: float
    log_condition: float


def conditioning(
    lle: float, num_steps: int, *, overshoot: float = 1.0, undershoot: float = 1.0, largest_norm: float = 1.0
) -> Conditioning:
    """Bounds from the largest Lyapunov exponent, by theorem 2 of arXiv 2508.16817.

    For Jacobians whose products over k steps have norms between ``undershoot e^(lle k)`` and ``overshoot e^(lle k)``:
    ``1/a (e^lle - 1) / (e^(lle T) - 1) <= sqrt(mu) <= min(1, e^(-lle (T - 1)) / b)``.

    Parameters
    ----------
    lle
        Nats per step.
    num_steps
        T.
    overshoot, undershoot
        a >= 1 (`LyapunovExponent.overshoot`) and 0 < b <= 1.
    largest_norm
        Largest spectral norm of a Jacobian (`spectral_norms`): the largest singular value of J is at most 1 more.

    Returns
    -------
    Conditioning
        Logarithms, since mu underflows where the exponent is positive.

    Raises
    ------
    ValueError
        If the constants are out of range.
    """
    checked_count("num_steps", num_steps)
    if not np.isfinite(lle):
        raise ValueError(f"lle must be finite; got {lle!r}.")
    if not overshoot >= 1 or not 0 < undershoot <= 1 or not largest_norm >= 0:
        raise ValueError(
            "overshoot must be at least 1, undershoot within (0, 1], largest_norm not negative; got "
            f"{overshoot!r}, {undershoot!r}, {largest_norm!r}."
        )
    log_series = float(np.logaddexp.reduce(lle * np.arange(num_steps)))
    lower = -2 * (np.log(overshoot) + log_series)
    upper = min(0.0, -2 * (np.log(undershoot) + lle * (num_steps - 1)))
    return Conditioning(float(lower), float(upper), float(np.log1p(largest_norm) - lower / 2))


def merit(step: Callable, initial_state: PyTree, inputs: PyTree, states: PyTree) -> Float[Array, ""]:
    """The merit function of a guessed path, half the sum of its squared residuals; 0 only for the path itself.

    Parameters
    ----------
    step, initial_state, inputs
        The recursion, as for `parsample.deer`.
    states
        Guess of the states after each step: like `initial_state` with leading axis T.

    Returns
    -------
    Scalar, in squared units of the state.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit each other, naming them.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    wanted = jax.tree.map(lambda leaf: (entries.num_steps, *jnp.shape(leaf)), initial_state)
    if (found := jax.tree.map(jnp.shape, states)) != wanted:
        raise ValueError(f"states have shapes {found}; they must have those of the path, {wanted}.")
    return _merit(step, initial_state, entries.sequence, states)


@outermost_jit(0)
def _merit(step: Callable, initial_state: PyTree, inputs: PyTree, states: PyTree) -> Array:
    before = jax.tree.map(lambda first, path: jnp.concatenate([first[None], path[:-1]]), initial_state, states)
    residuals = jax.tree.map(jnp.subtract, states, jax.vmap(step)(before, inputs))
    return jnp.square(ravel_pytree(residuals)[0]).sum() / 2


def predicted_sweeps(solution: Solution, num_steps: int) -> float:
    """Sweeps that a path of `num_steps` steps will take, from a solve of a shorter one.

    Sweeps grow with a power of the length, which is fitted to the leading parts of the solve: near 0 for predictable
    chains, whose sweeps grow as the logarithm, and near 1 for chaotic ones.

    Parameters
    ----------
    solution
        Of the same recursion with the same settings and a given ``scale``, converged.
    num_steps
        T.

    Returns
    -------
    Sweeps; inf if the solve did not converge.

    Raises
    ------
    ValueError
        If the solve was too short to see growth: fewer than 16 steps; or kept no histories, as with windows.
    """
    checked_count("num_steps", num_steps)
    if Status(int(solution.status)) is not Status.CONVERGED:
        return float("inf")
    solved = int(solution.exact_prefix)
    if solved < 16:
        raise ValueError(f"solution has {solved} steps; at least 16 are needed to see how sweeps grow.")
    lengths = np.unique(np.geomspace(solved / 16, solved, 9).astype(int))
    slope = np.polyfit(np.log(lengths), np.log(solution.sweeps_for(lengths)), 1)[0]
    return float(solution.sweeps_for([solved])[0] * (num_steps / solved) ** np.clip(slope, 0, 1))
