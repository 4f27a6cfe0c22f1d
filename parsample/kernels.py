"""The sampler's kernels: BlackJAX's HMC, NUTS and MALA in centred and whitened coordinates.

A position is ``x = center + factor u``; chains run in u with the identity metric, where one tolerance and one step
size suit all coordinates. Step t of a chain uses the key ``fold_in(chain_key, t)``, so that its draws depend on
nothing but the kernel, the key and the start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc.hmc import HMCState
from jaxtyping import Array, Float, Int, PyTree

from parsample.nuts import nuts_step
from parsample.threefry import unrolled
from parsample.transition import Inputs, Transition, Vector

KERNELS = ("hmc", "nuts", "mala")

# Acceptance rates that step sizes are tuned to: Stan's for trajectories, the optimum of Roberts & Rosenthal (1998) for
# Langevin steps.
TARGET_ACCEPTANCE = {"hmc": 0.8, "nuts": 0.8, "mala": 0.574}

# What is kept of each draw besides the position, under ArviZ's names.
STATISTICS = {
    "hmc": ("lp", "acceptance_rate", "diverging", "n_steps", "energy"),
    "nuts": ("lp", "acceptance_rate", "diverging", "n_steps", "energy", "tree_depth"),
    "mala": ("lp", "acceptance_rate", "diverging"),
}

# One cycle of trajectory lengths, as fractions of pi: the first points of the base-2 Halton sequence.
SCHEDULE_PERIOD = 16

# A trajectory is never longer than the longest that NUTS would try at its default depth.
MAX_INTEGRATION_STEPS = 1023


# Up to this dimension, sums of products are cheaper than calls of a matrix library, which would also keep XLA from
# compiling a chain's whole loop into one function on CPUs.
MAX_INLINE_DIMENSION = 4


@dataclass(frozen=True)
class Layout:
    """How a position pytree lies in a flat vector; hashable, so that compiled code can be reused.

    Attributes
    ----------
    treedef, shapes, dtype
        Structure of the pytree, shapes of its leaves, and their common dtype.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any

    @classmethod
    def of(cls, position: PyTree) -> "Layout":
        """The layout of this position."""
        leaves, treedef = jax.tree.flatten(position)
        return cls(treedef, tuple(leaf.shape for leaf in leaves), jnp.result_type(*leaves))

    @property
    def dimension(self) -> int:
        """Length D of the flat vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def unravel(self, vector: Float[Any, "*batch D"]) -> PyTree:
        """Flat vectors, with any leading axes, as pytrees with the same leading axes; numpy stays numpy."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        leaves = [
            vector[..., end - int(np.prod(shape)) : end].reshape(*vector.shape[:-1], *shape)
            for end, shape in zip(ends, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


class KernelParameters(NamedTuple):
    """What the warm-up learns.

    Attributes
    ----------
    center
        Posterior mean, shape (D,).
    factor
        Cholesky factor of the posterior covariance, shape (D, D), or standard deviations, shape (D,).
    step_size
        In whitened coordinates.
    num_integration_steps
        HMC's leapfrog steps for one cycle of trajectories, shape (16,); one unused entry for other kernels.
    """

    center: Vector
    factor: Float[Array, "D D"] | Float[Array, " D"]
    step_size: Float[Array, ""]
    num_integration_steps: Int[Array, " P"]

    def position(self, whitened: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Whitened coordinates u to positions x."""
        if self.factor.ndim == 1:
            moved = jnp.einsum("i,...i->...i", self.factor, whitened)
        elif self.center.shape[0] <= MAX_INLINE_DIMENSION:
            moved = jnp.sum(_aligned(self.factor, whitened.ndim + 1) * whitened[..., None, :], axis=-1)
        else:
            moved = jnp.einsum("ij,...j->...i", self.factor, whitened, precision="highest")
        return _aligned(self.center, whitened.ndim) + moved

    def whiten(self, position: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Positions x to whitened coordinates u."""
        centred = position - _aligned(self.center, position.ndim)
        if self.factor.ndim == 1:
            return centred / _aligned(self.factor, position.ndim)
        flat = centred.reshape(-1, centred.shape[-1])
        return jax.scipy.linalg.solve_triangular(self.factor, flat.T, lower=True).T.reshape(centred.shape)


def _aligned(array: Array, num_axes: int) -> Array:
    """The array with leading axes of length 1, up to `num_axes` in all."""
    return array.reshape((1,) * (num_axes - array.ndim) + array.shape)


class Draw(NamedTuple):
    """What the sampler keeps of a step: the position, and statistics under ArviZ's names.

    Attributes
    ----------
    position
        Shape (D,), in the user's coordinates.
    lp
        Log density at the position.
    acceptance_rate
        Acceptance probability of the step; for NUTS its mean over the trajectory.
    diverging
        Whether the energy error exceeded 1000 or the log density was not finite; such a proposal is rejected.
    n_steps
        Leapfrog steps; 1 for MALA.
    energy
        Total energy of the state kept; minus `lp` for MALA.
    tree_depth
        Doublings of the NUTS trajectory; 0 for other kernels.
    """

    position: Vector
    lp: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    diverging: Array
    n_steps: Int[Array, ""]
    energy: Float[Array, ""]
    tree_depth: Int[Array, ""]


def schedule(step_size: Float[Array, ""]) -> Int[Array, " P"]:
    """Leapfrog steps for path lengths spread evenly over (0, pi): ``max(1, round(h_k pi / step_size))``.

    In whitened coordinates pi is half a turn of the slowest oscillation. Lengths are a function of t, never of the
    state, so each step leaves the posterior invariant; they vary because a fixed length can meet a period of the
    posterior and never forget.
    """
    bits = (np.arange(1, SCHEDULE_PERIOD + 1)[:, None] >> np.arange(5)) & 1
    fractions = (bits * 0.5 ** np.arange(1, 6)).sum(1)
    steps = jnp.round(fractions * np.pi / step_size).astype(jnp.int32)
    return jnp.clip(steps, 1, MAX_INTEGRATION_STEPS)


def guarded(logdensity_fn: Callable, layout: Layout) -> Callable[[Vector], Float[Array, ""]]:
    """The log density of a flat position, -inf wherever the user's is NaN or infinite."""

    def logdensity(vector: Vector) -> Float[Array, ""]:
        value = jnp.asarray(logdensity_fn(layout.unravel(vector)), vector.dtype)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    return logdensity


@dataclass(frozen=True)
class KernelDynamics:
    """The sampler's chains: one for every key, under given parameters.

    Attributes
    ----------
    logdensity_fn
        The user's log density, of a position pytree.
    layout
        Of that pytree.
    kernel
        "hmc", "nuts" or "mala".
    """

    logdensity_fn: Callable
    layout: Layout
    kernel: str

    @property
    def period(self) -> int:
        """Steps after which trajectory lengths repeat."""
        return SCHEDULE_PERIOD if self.kernel == "hmc" else 1

    def __call__(
        self, parameters: KernelParameters, rng_key: Array, num_steps: int, first_step: Int[Array, ""] | int = 0
    ) -> tuple[Transition, Inputs]:
        """The chain of `rng_key`, steps ``first_step`` to ``first_step + num_steps``.

        With HMC, `first_step` must be a multiple of the period.
        """
        target = guarded(self.logdensity_fn, self.layout)

        def whitened_logdensity(u: Vector) -> Float[Array, ""]:
            return target(parameters.position(u))

        advance, chain_key = _STEPS[self.kernel], unrolled(rng_key)

        def step(state: Any, entry: tuple) -> tuple[Any, Draw]:
            t, num_integration_steps = entry
            key = jax.random.fold_in(chain_key, t)
            state, statistics = advance(key, state, whitened_logdensity, parameters.step_size, num_integration_steps)
            return state, Draw(parameters.position(state.position), state.logdensity, *statistics)

        def restore(u: Vector) -> Any:
            init = blackjax.mala.init if self.kernel == "mala" else blackjax.hmc.init
            return init(u, whitened_logdensity)

        inputs = Inputs(first_step + jnp.arange(num_steps), parameters.num_integration_steps)
        return Transition(restore, step, lambda state: state.position), inputs


def _hmc_step(key: Array, state: HMCState, logdensity_fn: Callable, step_size: Array, num_steps: Array) -> tuple:
    ones = jnp.ones_like(state.position)
    kernel = blackjax.hmc.build_kernel()
    new_state, info = kernel(key, state, logdensity_fn, step_size, ones, num_steps)
    # BlackJAX reports the energy of the proposal even when it is rejected.
    before = -state.logdensity + 0.5 * jnp.sum(jnp.square(info.momentum))
    energy = jnp.where(info.is_accepted, info.energy, before)
    n_steps = jnp.asarray(num_steps, jnp.int32)
    return new_state, (info.acceptance_rate, info.is_divergent, n_steps, energy, jnp.int32(0))


def _nuts_step(key: Array, state: HMCState, logdensity_fn: Callable, step_size: Array, _: Array) -> tuple:
    return nuts_step(key, state, logdensity_fn, step_size)  # what is known of a trajectory is in the order of a draw


def _mala_step(key: Array, state: Any, logdensity_fn: Callable, step_size: Array, _: Array) -> tuple:
    new_state, info = blackjax.mala.build_kernel()(key, state, logdensity_fn, step_size)
    # MALA's info has no divergence; an acceptance probability of exactly 0 is what a non-finite proposal leaves.
    diverging = info.acceptance_rate == 0
    return new_state, (info.acceptance_rate, diverging, jnp.int32(1), -new_state.logdensity, jnp.int32(0))


_STEPS = {"hmc": _hmc_step, "nuts": _nuts_step, "mala": _mala_step}
