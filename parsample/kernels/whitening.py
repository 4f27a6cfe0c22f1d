"""Centred and whitened coordinates ``x = center + factor u``, with one step size and one tolerance for all."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Up to this dimension, sums of products are cheaper than calls of a matrix library, which would also keep XLA from
# compiling a chain's whole loop into one function on CPUs.
MAX_INLINE_DIMENSION = 4

# Beyond this dimension a dense covariance costs more than it gains.
MAX_DENSE_DIMENSION = 100


class KernelParameters(NamedTuple):
    """Parameters of a kernel, tuned by the warm-up.

    Attributes
    ----------
    center
        Posterior mean, shape (D,).
    factor
        Cholesky factor of the posterior covariance, shape (D, D), or standard deviations, shape (D,).
    step_size
        In whitened coordinates: a scalar; for metropolis, standard deviations of the proposals, shape (D,).
    num_integration_steps
        From `Kernel.num_integration_steps`, shape (16,): number of leapfrog steps in each step of a period (hmc, mala),
        their maximum (nuts), or zeros that nothing reads (metropolis).
    move_scales
        Standard deviation of the multishift move at each step of a period, shape (16,); 0: no move.
    data
        Further arguments of the log density, the same for all lanes.
    """

    center: Float[Any, " D"]
    factor: Float[Any, "D D"] | Float[Any, " D"]
    step_size: Float[Any, "..."]
    num_integration_steps: Int[Any, " P"]
    move_scales: Float[Any, " P"]
    data: tuple[Any, ...] = ()

    def position(self, whitened: Float[Array, " D"]) -> Float[Array, " D"]:
        """Whitened coordinates u to a position x, in JAX."""
        if self.factor.ndim == 1:
            return self.center + self.factor * whitened
        if self.center.shape[0] <= MAX_INLINE_DIMENSION:
            return self.center + jnp.sum(self.factor * whitened[None], axis=-1)
        return self.center + jnp.einsum("ij,j->i", self.factor, whitened, precision="highest")


class Coordinates(NamedTuple):
    """The coordinates of `KernelParameters` on the host, in float64.

    Attributes
    ----------
    center, factor
        As in `KernelParameters`.
    """

    center: Float[np.ndarray, " D"]
    factor: Float[np.ndarray, "D D"] | Float[np.ndarray, " D"]

    def position(self, whitened: Float[np.ndarray, "*batch D"]) -> Float[np.ndarray, "*batch D"]:
        """Whitened coordinates u to positions x."""
        moved = whitened * self.factor if self.factor.ndim == 1 else whitened @ self.factor.T
        return self.center + moved

    def whiten(self, position: Float[np.ndarray, "*batch D"]) -> Float[np.ndarray, "*batch D"]:
        """Positions x to whitened coordinates u."""
        centred = position - self.center
        if self.factor.ndim == 1:
            return centred / self.factor
        flat = centred.reshape(-1, centred.shape[-1])
        return np.linalg.solve(self.factor, flat.T).T.reshape(centred.shape)

    def gradient(self, whitened_gradient: Float[np.ndarray, "*batch D"]) -> Float[np.ndarray, "*batch D"]:
        """Gradients in u to gradients in x."""
        if self.factor.ndim == 1:
            return whitened_gradient / self.factor
        flat = whitened_gradient.reshape(-1, whitened_gradient.shape[-1])
        return np.linalg.solve(self.factor.T, flat.T).T.reshape(whitened_gradient.shape)


def identity(center: Float[np.ndarray, " D"]) -> Coordinates:
    """Coordinates of unit scale around a point; the factor has the shape that the warm-up returns."""
    dimension = center.shape[0]
    return Coordinates(center, np.eye(dimension) if dimension <= MAX_DENSE_DIMENSION else np.ones(dimension))


def from_draws(draws: Float[np.ndarray, "n D"], num_effective: int, former: Coordinates) -> Coordinates:
    """Centre and factor from draws with an effective sample size of `num_effective`.

    In the former whitened coordinates, the correlation matrix is shrunk towards the identity, which counts as five
    draws. As the former coordinates already contain the correlations found so far, strong ones are still learnt, over
    several rounds. If there are too few draws for correlations, only the scales of the former coordinates change.
    """
    dimension = draws.shape[1]
    center, whitened = draws.mean(0), former.whiten(draws)
    scale = whitened.std(0)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    if dimension > MAX_DENSE_DIMENSION or num_effective <= dimension:
        return Coordinates(center, former.factor * scale)
    # Correlations, not covariances, are factored: scales may differ by many orders of magnitude.
    scaled = (whitened - whitened.mean(0)) / scale
    correlations = scaled.T @ scaled / len(draws)
    np.fill_diagonal(correlations, 1)
    shrunk = (num_effective * correlations + 5 * np.eye(dimension)) / (num_effective + 5)
    return Coordinates(center, former.factor @ (scale[:, None] * np.linalg.cholesky(shrunk)))


def from_gradients(
    positions: Float[np.ndarray, "n D"], gradients: Float[np.ndarray, "n D"], center: Float[np.ndarray, " D"]
) -> Coordinates:
    """Scales from the ratio of the spread of states to the spread of their gradients, wherever the states are.

    For a Gaussian, this ratio is the variance of each coordinate, for any states (the diagonal that minimises the
    Fisher divergence; Seyboldt, Carlson and Carpenter, arXiv 2603.18845). Medians make it robust to outliers.
    """

    def spread(values: np.ndarray) -> np.ndarray:
        return np.median(np.abs(values - np.median(values, 0)), 0)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = np.sqrt(spread(positions) / spread(gradients))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    return Coordinates(center, np.diag(scale) if len(center) <= MAX_DENSE_DIMENSION else scale)


def kernel_parameters(
    coordinates: Coordinates, step_size: Float[Any, "..."], lengths: np.ndarray, scales: np.ndarray, dtype: np.dtype
) -> KernelParameters:
    """Parameters in the dtype of the chain, rounded on the host, so that nothing is compiled."""
    return KernelParameters(
        np.asarray(coordinates.center, dtype),
        np.asarray(coordinates.factor, dtype),
        np.asarray(step_size, dtype),
        np.asarray(lengths, np.int32),
        np.asarray(scales, dtype),
    )


def rounded_to(parameters: KernelParameters, dtype: np.dtype) -> KernelParameters:
    """The same parameters in the dtype of a chain, without data."""
    coordinates = Coordinates(parameters.center, parameters.factor)
    lengths, scales = parameters.num_integration_steps, parameters.move_scales
    return kernel_parameters(coordinates, parameters.step_size, lengths, scales, dtype)
