"""Predictability and parallel evaluation: the merit function, its conditioning, and the expected sweeps.

Solving ``s_t = f_t(s_{t-1})`` minimises the merit function ``L(s) = 1/2 sum |s_t - f_t(s_{t-1})|^2``, whose residual
has the Jacobian J: identities on the diagonal and -A_t below it. Its smallest singular value squared is the
Polyak-Lojasiewicz constant mu of L, which the largest Lyapunov exponent bounds (Gonzalez et al., arXiv 2508.16817,
theorem 2): constant in T where the exponent is negative, exponentially small where it is positive.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from parsample import LyapunovExponent, Solution, Status
from parsample.chain.transition import Inputs, as_inputs, from_step, rollout
from parsample.internal.compilation import jit_with_xla_options
from parsample.internal.validation import checked_count, checked_recursion
from parsample.predictability.lyapunov import batch_means, check_batches, check_dt
from parsample.solver.linearization import push_forward


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
        a >= 1 (`overshoot`) and 0 < b <= 1.
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


@jit_with_xla_options(1)
def _merit(step: Callable, initial_state: PyTree, inputs: PyTree, states: PyTree) -> Array:
    before = jax.tree.map(lambda first, path: jnp.concatenate([first[None], path[:-1]]), initial_state, states)
    residuals = jax.tree.map(jnp.subtract, states, jax.vmap(step)(before, inputs))
    return jnp.square(ravel_pytree(residuals)[0]).sum() / 2


def predicted_sweeps(solution: Solution, num_steps: int) -> float:
    """Sweeps that a path of `num_steps` steps will take, from a solve of a shorter one.

    Sweeps are taken to grow as a power of the length. Its exponent is fitted to the leading parts of the solve: near 0
    for predictable chains, whose sweeps grow as the logarithm, and near 1 for chaotic ones.

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
        If the solve has fewer than 16 steps, too few to see growth, or kept no histories, as with windows.
    """
    checked_count("num_steps", num_steps)
    if Status(int(solution.status)) is not Status.CONVERGED:
        return float("inf")
    solved = int(solution.exact_prefix)
    if solved < 16:
        raise ValueError(f"solution has {solved} steps; at least 16 are needed to see how sweeps grow.")
    lengths = np.unique(np.geomspace(solved / 16, solved, 9).astype(int))
    slope = np.polyfit(np.log(lengths), np.log(sweeps_for(solution, lengths)), 1)[0]
    return float(sweeps_for(solution, [solved])[0] * (num_steps / solved) ** np.clip(slope, 0, 1))


def sweeps_for(solution: Solution, lengths: Any) -> Any:
    """Sweeps after which the first `lengths` steps were within tolerance; inf: not in this solve.

    In each sweep, states depend on earlier states only. With a given ``scale``, one long solve therefore has the sweeps
    of every shorter path from the same guesses. Exceptions: gradient descent, which looks ahead; and Jacobians that
    were bounded because of a diverging far end (not with ``clip=None``).

    Parameters
    ----------
    solution
        From `parsample.deer`.
    lengths
        Numbers of steps, any shape.

    Returns
    -------
    Array of the same shape.

    Raises
    ------
    ValueError
        If the solve kept no histories.
    """
    if not solution.prefix_history.shape[-1]:
        raise ValueError("this solution kept no prefix_history: solve it whole, and not sequentially.")
    done = np.asarray(solution.prefix_history)[..., None] >= np.ravel(lengths)
    sweeps = np.where(done.any(-2), done.argmax(-2) + 1, np.inf)
    return sweeps.reshape((*sweeps.shape[:-1], *np.shape(lengths)))


def overshoot(exponent: LyapunovExponent) -> float:
    """The least a >= 1 with ``growth over k steps <= log(a) + k lle dt``, over every stretch of the tangents' path.

    Norms of products of Jacobians may exceed this bound, since no single tangent always grows fastest. NaN if the
    exponent is not finite.
    """
    if not np.isfinite(exponent.lle):
        return float("nan")
    detrended = np.asarray(exponent.growth)[:, exponent.num_discarded :] - float(exponent.lle) * exponent.dt
    level = np.concatenate([np.zeros_like(detrended[:, :1]), np.cumsum(detrended, axis=1)], axis=1)
    return float(np.exp((level - np.minimum.accumulate(level, axis=1)).max()))


class LyapunovSpectrum(NamedTuple):
    """Lyapunov exponents, in the order of the QR decomposition: descending, if the path is long.

    Attributes
    ----------
    exponents
        Shape (K,), nats per step, or per unit of time.
    se
        Their standard errors by batch means, shape (K,).
    growth
        Log growth of each direction in each step, nats, shape (T, K).
    """

    exponents: Float[Array, " K"]
    se: Float[Array, " K"]
    growth: Float[Array, "T K"]


def lyapunov_spectrum(
    step: Callable,
    initial_state: PyTree,
    inputs: PyTree,
    *,
    num_exponents: int | None = None,
    num_discarded: int = 0,
    num_batches: int = 20,
    dt: float = 1.0,
) -> LyapunovSpectrum:
    """The largest Lyapunov exponents of ``state = step(state, input)`` along its path.

    Tangents are carried along and made orthogonal in every step by a QR decomposition (Benettin et al. 1980), in
    O(T D K^2).

    Parameters
    ----------
    step, initial_state, inputs, num_discarded, num_batches, dt
        As for `lyapunov_exponent`.
    num_exponents
        K; None: all D.

    Returns
    -------
    LyapunovSpectrum

    Raises
    ------
    ValueError
        If fewer steps than batches are left, more exponents asked for than there are dimensions, or `inputs` do not
        share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    check_batches(entries.num_steps, num_discarded, num_batches)
    check_dt(dt)
    dimension = sum(np.size(leaf) for leaf in jax.tree.leaves(initial_state))
    number = dimension if num_exponents is None else checked_count("num_exponents", num_exponents)
    if number > dimension:
        raise ValueError(f"num_exponents={number} exceeds the {dimension} dimensions of the state.")
    growth = _spectrum(step, number, initial_state, entries)
    means, errors = jax.vmap(lambda values: batch_means(values, num_batches))(growth[num_discarded:].T)
    return LyapunovSpectrum(means / dt, errors / dt, growth)


def spectral_norms(step: Callable, initial_state: PyTree, inputs: PyTree) -> Float[Array, " T"]:
    """Largest singular value of the Jacobian of each step of ``state = step(state, input)`` along its path.

    Parameters
    ----------
    step, initial_state, inputs
        As for `lyapunov_exponent`.

    Returns
    -------
    Array, shape (T,).

    Raises
    ------
    ValueError
        If `inputs` do not share a leading axis.
    """
    entries = as_inputs(inputs)
    checked_recursion(step, initial_state, entries.sequence)
    return _spectral_norms(step, initial_state, entries)


@jit_with_xla_options(2)
def _spectrum(step: Callable, number: int, initial_state: PyTree, inputs: Inputs) -> Float[Array, "T K"]:
    transition, start = from_step(step, initial_state)

    def advance(loop: tuple, t: Array) -> tuple[tuple, Array]:
        state, directions = loop
        after, output_tangents, _ = push_forward(
            lambda x: (transition.reduced_step(x, inputs.at(t)), None), state, [directions]
        )
        orthogonal, triangle = jnp.linalg.qr(output_tangents[0].T)
        return (after, orthogonal.T), jnp.log(jnp.abs(jnp.diagonal(triangle)))

    # Axes in general position, so that no direction starts out orthogonal to the leading ones.
    general = jax.random.normal(jax.random.key(0), (start.size, number), start.dtype)
    return jax.lax.scan(advance, (start, jnp.linalg.qr(general)[0].T), jnp.arange(inputs.num_steps))[1]


@jit_with_xla_options(1)
def _spectral_norms(step: Callable, initial_state: PyTree, inputs: Inputs) -> Float[Array, " T"]:
    transition, start = from_step(step, initial_state)
    _, path, _ = rollout(transition, start, inputs)
    before = jnp.concatenate([start[None], path[:-1]])

    def norm(place: tuple) -> Array:
        state, t = place
        return jnp.linalg.norm(jax.jacfwd(lambda x: transition.reduced_step(x, inputs.at(t)))(state), ord=2)

    return jax.lax.map(norm, (before, jnp.arange(inputs.num_steps)), batch_size=64)
