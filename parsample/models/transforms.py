"""Constrained parameters: log densities of positive, bounded, ordered, ... values as models on the unconstrained space.

The maps and their Jacobians are NumPyro's (``numpyro.distributions.biject_to``), rather than TensorFlow Probability's:
less code, and released in step with JAX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from parsample.internal.trees import leaf_names
from parsample.models.model import Model


@dataclass(frozen=True)
class Constraint:
    """A set of values and their shape; see `real`, `positive`, `bounded`, `ordered`, `simplex` and the others.

    Attributes
    ----------
    kind
        Name of the set in ``numpyro.distributions.constraints``.
    shape
        Shape of the constrained value.
    bounds
        Lower and upper bound, if the set has them.
    """

    kind: str
    shape: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def bijection(self) -> Any:
        """NumPyro's map from the unconstrained space to the set.

        Raises
        ------
        ImportError
            If NumPyro is not installed: ``pip install 'parsample[numpyro]'``.
        """
        from numpyro.distributions import biject_to, constraints  # noqa: PLC0415 - an extra

        chosen = getattr(constraints, self.kind)
        return biject_to(chosen(*self.bounds) if self.bounds else chosen)


def real(shape: tuple[int, ...] | int = ()) -> Constraint:
    """Any real values of this shape."""
    return Constraint("real", _checked_shape(shape))


def positive(shape: tuple[int, ...] | int = ()) -> Constraint:
    """Positive values of this shape."""
    return Constraint("positive", _checked_shape(shape))


def bounded(low: float, high: float, shape: tuple[int, ...] | int = ()) -> Constraint:
    """Values between `low` and `high` of this shape; one of the bounds may be infinite."""
    if not low < high:
        raise ValueError(f"bounds must be in order; got low={low}, high={high}.")
    if np.isinf(low) and np.isinf(high):
        return real(shape)
    if np.isinf(high):
        return Constraint("greater_than", _checked_shape(shape), (float(low),))
    if np.isinf(low):
        return Constraint("less_than", _checked_shape(shape), (float(high),))
    return Constraint("interval", _checked_shape(shape), (float(low), float(high)))


def ordered(size: int) -> Constraint:
    """Vectors of this size with increasing entries."""
    return Constraint("ordered_vector", (_checked_size(size, 1),))


def simplex(size: int) -> Constraint:
    """Vectors of this size with positive entries that sum to 1."""
    return Constraint("simplex", (_checked_size(size, 2),))


def correlation(size: int) -> Constraint:
    """Correlation matrices of this size."""
    return Constraint("corr_matrix", (_checked_size(size, 2),) * 2)


def correlation_cholesky(size: int) -> Constraint:
    """Lower Cholesky factors of correlation matrices of this size."""
    return Constraint("corr_cholesky", (_checked_size(size, 2),) * 2)


def covariance(size: int) -> Constraint:
    """Positive definite matrices of this size."""
    return Constraint("positive_definite", (_checked_size(size, 1),) * 2)


def _checked_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return tuple(_checked_size(size, 1) for size in sizes)


def _checked_size(size: int, minimum: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < minimum:
        raise ValueError(f"a size must be a whole number of at least {minimum}; got {size!r}.")
    return int(size)


@dataclass(frozen=True)
class _Unconstrained:
    """A log density of constrained values, as functions of the unconstrained position.

    Attributes
    ----------
    logdensity_fn
        ``logdensity_fn(values, *data)``.
    constraints
        Leaves of the user's pytree of constraints.
    structure
        Structure of that pytree.
    """

    logdensity_fn: Callable
    constraints: tuple[Constraint, ...]
    structure: Any

    def values(self, position: PyTree) -> PyTree:
        """The constrained values of a position."""
        leaves = [constraint.bijection(leaf) for constraint, leaf in self._pairs(position)]
        return jax.tree.unflatten(self.structure, leaves)

    def logdensity(self, position: PyTree, *data: Any) -> Array:
        """The log density of the position: that of its values, and the log determinant of the Jacobian."""
        values = self.values(position)
        logdensity = self.logdensity_fn(values, *data)
        for (constraint, leaf), value in zip(self._pairs(position), jax.tree.leaves(values), strict=True):
            logdensity += jnp.sum(constraint.bijection.log_abs_det_jacobian(leaf, value))
        return logdensity

    def constrain(self, position: PyTree, *_data: Any) -> dict[str, Array]:
        """The constrained values by name."""
        values = self.values(position)
        return dict(zip(leaf_names(values), jax.tree.leaves(values), strict=True))

    def start(self) -> PyTree:
        """Zeros of the unconstrained shapes."""
        leaves = [np.zeros(each.bijection.inverse_shape(each.shape), float) for each in self.constraints]
        return jax.tree.unflatten(self.structure, leaves)

    def _pairs(self, position: PyTree) -> list[tuple[Constraint, Array]]:
        return list(zip(self.constraints, jax.tree.leaves(position), strict=True))


def unconstrain(logdensity_fn: Callable, constraints: PyTree, **attributes: Any) -> Model:
    """A model on the unconstrained space, from a log density of constrained values.

    Parameters
    ----------
    logdensity_fn
        ``logdensity_fn(values) -> scalar``, with ``values`` a pytree like `constraints`; with `data` among the
        attributes, ``logdensity_fn(values, data)``. Its Jacobian is added.
    constraints
        Pytree of constraints, such as ``{"mu": real(), "sigma": positive(), "weights": simplex(3)}``. The density of
        matrices is with respect to their free entries: those below the diagonal of a correlation, those on and below
        the diagonal of a covariance.
    **attributes
        Further attributes of `Model`, such as `data`, `dims` and `log_likelihood`; functions take the unconstrained
        position.

    Returns
    -------
    Model
        With the constrained values as variables. Lanes start around 0 on the unconstrained space.

    Raises
    ------
    TypeError
        If `constraints` has leaves of another type, or none.
    ImportError
        If NumPyro is not installed: ``pip install 'parsample[numpyro]'``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> from parsample import transforms
    >>> def logdensity(values):  # a Gamma(3, 1) variable
    ...     return 2 * jnp.log(values["x"]) - values["x"]
    >>> model = transforms.unconstrain(logdensity, {"x": transforms.positive()})
    >>> result = parsample.sample(jax.random.key(0), model, num_samples=2000, progress_bar=False)
    >>> bool(abs(result.to_arviz()["posterior"]["x"].mean() - 3) < 0.2)
    True
    """
    leaves, structure = jax.tree.flatten(constraints, is_leaf=lambda leaf: isinstance(leaf, Constraint))
    if not leaves or not all(isinstance(leaf, Constraint) for leaf in leaves):
        raise TypeError(f"constraints must be a pytree of constraints, such as positive(); got {constraints!r}.")
    functions = _Unconstrained(logdensity_fn, tuple(leaves), structure)
    return Model(functions.logdensity, functions.start(), **{"constrain": functions.constrain, **attributes})
