"""NumPyro models: log density on the unconstrained space, variables, labels and predictions by NumPyro itself."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.internal.compilation import jit_with_xla_options
from parsample.models.model import Model, all_dims

# NumPyro starts chains uniformly within this distance of 0 on the unconstrained space (`init_to_uniform`).
UNIFORM_START_RADIUS = 2.0

# Errors that JAX raises where a program needs values of its arguments.
JAX_NEEDS_VALUES = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


def from_numpyro(model: Callable, *args: Any, **kwargs: Any) -> "NumPyroModel":
    """A NumPyro model as a `Model`.

    Parameters
    ----------
    model
        Function with NumPyro's primitives.
    *args, **kwargs
        Its arguments. Arrays among them become arguments of the compiled program, so that other data of the same
        shapes (``.with_data(*args, **kwargs)``) need no compilation; a model that computes with their values in Python
        has them as constants instead.

    Returns
    -------
    NumPyroModel
        A model whose lanes start as NumPyro's chains do, uniformly on (-2, 2) in each unconstrained coordinate; with
        deterministic sites among its variables, dimensions named by plates, log likelihood and posterior predictive.

    Raises
    ------
    ImportError
        If NumPyro is not installed: ``pip install 'parsample[numpyro]'``.
    ValueError
        If the model has discrete latent sites, or no latent sites.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, parsample
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     numpyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> model = parsample.from_numpyro(coin, jnp.array([1, 1, 0, 1]))
    >>> result = parsample.sample(jax.random.key(0), model, num_samples=500, progress_bar=False)
    >>> sorted(result.to_arviz()["posterior"].data_vars)
    ['p']
    """
    program, sites = _examined(model, args, kwargs)
    return _model_of(program, sites, args, kwargs)


def _examined(model: Callable, args: tuple, kwargs: dict) -> "tuple[_Program, _Sites]":
    """The program of a model and its sites, with arrays as data unless the model computes with their values."""
    try:
        program = _Program.of(model, args, kwargs, are_data=True)
        return program, program.sites(program.data_of(args, kwargs))
    except JAX_NEEDS_VALUES:
        program = _Program.of(model, args, kwargs, are_data=False)
        return program, program.sites(program.data_of(args, kwargs))


@dataclass(frozen=True)
class _Sites:
    """Sites of a model.

    Attributes
    ----------
    start
        Zeros on the unconstrained space, by name of the latent site.
    observed
        Values of observed sites, by name.
    """

    start: dict[str, np.ndarray]
    observed: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Constant:
    """A static argument of a model; arrays are equal to themselves only."""

    value: Any

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant):
            return NotImplemented
        same = self.value is other.value
        return same or (not _is_array(self.value) and bool(self.value == other.value))


@dataclass(frozen=True)
class _Program:
    """A NumPyro model with those of its arguments that are not data.

    Attributes
    ----------
    model
        The user's function.
    structure
        Structure of its arguments.
    constants
        For every leaf of the arguments its value, or None if it is data.
    """

    model: Callable
    structure: Any
    constants: tuple[_Constant | None, ...]

    @classmethod
    def of(cls, model: Callable, args: tuple, kwargs: dict, *, are_data: bool) -> "_Program":
        """The program of a model; with `are_data`, arrays among the arguments are data."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        constants = (None if are_data and _is_array(leaf) else _Constant(leaf) for leaf in leaves)
        return cls(model, structure, tuple(constants))

    def data_of(self, args: tuple, kwargs: dict) -> list[Any]:
        """The data among the arguments."""
        pairs = zip(jax.tree.leaves((args, kwargs)), self.constants, strict=True)
        return [leaf for leaf, constant in pairs if constant is None]

    def arguments(self, data: list[Any]) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the model."""
        remaining = iter(data)
        leaves = [next(remaining) if constant is None else constant.value for constant in self.constants]
        return jax.tree.unflatten(self.structure, leaves)

    def sites(self, data: list[Any]) -> _Sites:
        """The sites of the model: latent shapes without evaluation; observed values by one run.

        Raises
        ------
        ValueError
            If a latent site is discrete, or there is none.
        """
        from numpyro.distributions import biject_to  # noqa: PLC0415 - an extra

        def start(data: list[Any]) -> dict[str, Array]:
            latent = {name: site for name, site in self._sample_sites(data).items() if not site["is_observed"]}
            if discrete := [name for name, site in latent.items() if site["fn"].support.is_discrete]:
                raise ValueError(
                    f"latent sites {discrete} are discrete and have no gradient: sum them out, for example "
                    "by numpyro.distributions.MixtureSameFamily, or by enumeration in NumPyro itself."
                )
            return {name: biject_to(site["fn"].support).inv(site["value"]) for name, site in latent.items()}

        shapes = jax.eval_shape(start, data)
        if not shapes:
            raise ValueError(f"the model {self.name} has no latent sites; there is nothing to sample.")
        return _Sites(
            {name: np.zeros(leaf.shape, float) for name, leaf in shapes.items()},
            {name: np.asarray(values) for name, values in _observed(self, data).items()},
        )

    def _sample_sites(self, data: list[Any]) -> dict[str, dict[str, Any]]:
        """Sites with a distribution, each with a value from it."""
        from numpyro import handlers  # noqa: PLC0415 - an extra
        from numpyro.infer.initialization import init_to_sample  # noqa: PLC0415

        args, kwargs = self.arguments(data)
        sites = handlers.trace(handlers.substitute(self.seeded, substitute_fn=init_to_sample)).get_trace(
            *args, **kwargs
        )
        return {name: site for name, site in sites.items() if site["type"] == "sample"}

    @property
    def name(self) -> str:
        """Name of the user's function; "model" for callables without one, such as ``functools.partial``."""
        return getattr(self.model, "__name__", "model")

    @property
    def seeded(self) -> Callable:
        """The model with a fixed key, for sites whose values are replaced anyway."""
        from numpyro import handlers  # noqa: PLC0415 - an extra

        return handlers.seed(self.model, jax.random.key(0))

    def logdensity(self, position: PyTree, data: list[Any]) -> Array:
        """Log density on the unconstrained space, with the Jacobian."""
        from numpyro.infer.util import potential_energy  # noqa: PLC0415 - an extra

        return -potential_energy(self.seeded, *self.arguments(data), position)

    def constrain(self, position: PyTree, data: list[Any]) -> dict[str, Array]:
        """Values of latent and deterministic sites."""
        from numpyro.infer.util import constrain_fn  # noqa: PLC0415 - an extra

        return constrain_fn(self.seeded, *self.arguments(data), position, return_deterministic=True)

    def log_likelihood(self, position: PyTree, data: list[Any]) -> dict[str, Array]:
        """Log likelihood of every observed value."""
        from numpyro.infer import log_likelihood  # noqa: PLC0415 - an extra

        args, kwargs = self.arguments(data)
        return log_likelihood(self.seeded, self.constrain(position, data), *args, batch_ndims=0, **kwargs)

    def posterior_predictive(self, rng_key: Array, position: PyTree, data: list[Any]) -> dict[str, Array]:
        """New values of the observed sites."""
        from numpyro import handlers  # noqa: PLC0415 - an extra

        args, kwargs = self.arguments(data)
        latent = {name: value for name, value in self.constrain(position, data).items() if name in position}
        replicated = handlers.substitute(handlers.uncondition(self.model), latent)
        sites = handlers.trace(handlers.seed(replicated, rng_key)).get_trace(*args, **kwargs)
        return {
            name: site["value"]
            for name, site in sites.items()
            if site["type"] == "sample" and site["infer"].get("was_observed")
        }


@jit_with_xla_options(1)
def _observed(program: _Program, data: list[Any]) -> dict[str, Any]:
    """Values of the observed sites."""
    return {name: site["value"] for name, site in program._sample_sites(data).items() if site["is_observed"]}


@dataclass(frozen=True, eq=False)
class NumPyroModel(Model):
    """A model made by `from_numpyro`.

    Attributes
    ----------
    program
        The NumPyro model and its arguments that are not data.
    """

    program: _Program = field(kw_only=True)

    def with_data(self, *args: Any, **kwargs: Any) -> "NumPyroModel":
        """The model with other arguments; if only values of arrays differ, no program is compiled again.

        Parameters
        ----------
        *args, **kwargs
            Arguments of the NumPyro model.

        Returns
        -------
        NumPyroModel
            The model with these arguments, and the labels (`coords`) of this one.
        """
        program, sites = _examined(self.program.model, args, kwargs)
        # Compiled programs belong to the very object, not to one that is equal.
        program = self.program if program == self.program else program
        return replace(_model_of(program, sites, args, kwargs), coords=self.coords, settings=self.settings)


def _model_of(program: _Program, sites: _Sites, args: tuple, kwargs: dict) -> NumPyroModel:
    from arviz_base.io_numpyro import infer_dims  # noqa: PLC0415 - ArviZ takes a second to import

    data = program.data_of(args, kwargs)
    shapes = jax.eval_shape(program.constrain, sites.start, data)
    shapes = {name: leaf.shape for name, leaf in {**shapes, **sites.observed}.items()}
    named = infer_dims(program.model, args, kwargs)
    dims = {name: all_dims(name, labels, shapes[name]) for name, labels in named.items() if name in shapes}
    has_observations = bool(sites.observed)
    return NumPyroModel(
        program.logdensity,
        sites.start,
        name=program.name,
        data=data,
        initial_spread=UNIFORM_START_RADIUS,
        constrain=program.constrain,
        log_likelihood=program.log_likelihood if has_observations else None,
        posterior_predictive=program.posterior_predictive if has_observations else None,
        observed_data=sites.observed,
        constant_data=_constant_data(program.model, args, kwargs, sites.observed),
        dims=dims,
        program=program,
    )


def _constant_data(
    model: Callable, args: tuple, kwargs: dict, observed: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays among the arguments of a model that are not observed, by name of the argument."""
    arguments = inspect.signature(model).bind(*args, **kwargs).arguments
    arrays = {name: np.asarray(value) for name, value in arguments.items() if _is_array(value)}
    # Observed arrays are recognised by their values: NumPyro does not name them.
    return {
        name: values
        for name, values in arrays.items()
        if not any(np.array_equal(values.astype(other.dtype), other) for other in observed.values())
    }


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array) and leaf.dtype.kind in "biufc"
