"""PyMC models: log density and variables as JAX functions, labels and predictions by PyMC itself."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.mapping import map_draws
from parsample.models.model import Model, all_dims

# PyMC disperses starts uniformly within this distance of its initial point on the unconstrained space.
JITTER_RADIUS = 1.0

# Errors of JAX and PyTensor where a program needs the values of its arguments.
JAX_OR_PYTENSOR_NEEDS_VALUES = (jax.errors.JAXTypeError, jax.errors.JAXIndexError, NotImplementedError)


def from_pymc(model: Any) -> "PyMCModel":
    """A PyMC model as a `Model`.

    Parameters
    ----------
    model
        A ``pymc.Model``. Its data (``pymc.Data``) become arguments of the compiled program, so that other data of the
        same shapes (``.with_data(name=values)``) need no compilation.

    Returns
    -------
    PyMCModel
        A model whose lanes start as PyMC's chains do, within 1 of its initial point in each unconstrained coordinate;
        with deterministic variables, the model's dims and coords, log likelihood and posterior predictive.

    Raises
    ------
    ImportError
        If PyMC is not installed: ``pip install 'parsample[pymc]'``.
    ValueError
        If the model has discrete free variables, or no free variables.

    Notes
    -----
    PyMC computes in float64 by default; without ``jax_enable_x64`` its model is evaluated in float32.

    Examples
    --------
    >>> import jax, pymc, parsample
    >>> with pymc.Model() as coin:
    ...     p = pymc.Beta("p", 1, 1)
    ...     heads = pymc.Bernoulli("heads", p, observed=[1, 1, 0, 1])
    >>> model = parsample.from_pymc(coin)
    >>> result = parsample.sample(jax.random.key(0), model, num_samples=500, progress_bar=False)
    >>> sorted(result.to_arviz()["posterior"].data_vars)
    ['p']
    """
    if discrete := [variable.name for variable in model.free_RVs if variable.dtype.startswith(("int", "uint", "bool"))]:
        raise ValueError(
            f"free variables {discrete} are discrete and have no gradient: sum them out, for example by pymc.Mixture "
            "or pymc_extras.marginalize."
        )
    if not model.free_RVs:
        raise ValueError("the model has no free variables; there is nothing to sample.")
    data = {variable.name: variable.get_value() for variable in model.data_vars}
    start = {name: np.asarray(value, float) for name, value in model.initial_point().items()}
    try:
        source = _Source(model, tuple(data))
        jax.eval_shape(source.logdensity, start, data)
    except JAX_OR_PYTENSOR_NEEDS_VALUES:
        source, data = _Source(model, ()), {}
    return _model_of(source, start, data)


class _Source:
    """A PyMC model as JAX functions of a position and its data.

    Parameters
    ----------
    model
        The PyMC model.
    data_names
        Data that are arguments of the functions; the others are constants.
    """

    def __init__(self, model: Any, data_names: Sequence[str]) -> None:
        from pymc.util import get_default_varnames  # noqa: PLC0415 - an extra

        self.model, self.data_names = model, tuple(data_names)
        shown = get_default_varnames(model.unobserved_value_vars, include_transformed=False)
        observed = model.observed_RVs
        self._variables, self._observed = [each.name for each in shown], [each.name for each in observed]
        self._logp = self._as_jax([model.logp()])
        self._constrain = self._as_jax(shown)
        self._log_likelihood = self._as_jax(model.logp(observed, sum=False) if observed else [])

    def logdensity(self, position: PyTree, data: dict[str, Any]) -> Array:
        """Log density on the unconstrained space, with the Jacobian."""
        return self._logp(position, data)[0]

    def constrain(self, position: PyTree, data: dict[str, Any]) -> dict[str, Array]:
        """Values of free and deterministic variables."""
        return dict(zip(self._variables, map(jnp.asarray, self._constrain(position, data)), strict=True))

    def log_likelihood(self, position: PyTree, data: dict[str, Any]) -> dict[str, Array]:
        """Log likelihood of every observed value."""
        return dict(zip(self._observed, self._log_likelihood(position, data), strict=True))

    def _as_jax(self, outputs: list[Any]) -> Callable:
        """Outputs of PyTensor as a JAX function of a position and data."""
        # Nothing of JAX may run inside: its CPU devices would be as many as PyMC's flag says.
        with _unchanged_process():
            from pymc.sampling.jax import get_jaxified_graph  # noqa: PLC0415 - an extra
            from pytensor.graph.replace import clone_replace  # noqa: PLC0415
            from pytensor.tensor import TensorType  # noqa: PLC0415

        shared = [self.model[name] for name in self.data_names]
        # With shapes known, more graphs can be translated to JAX.
        inputs = [TensorType(each.dtype, shape=each.get_value(borrow=True).shape)() for each in shared]
        outputs = clone_replace(outputs, replace=dict(zip(shared, inputs, strict=True)), rebuild_strict=False)
        function = get_jaxified_graph([*self.model.value_vars, *inputs], outputs)
        names = [each.name for each in self.model.value_vars]

        def evaluate(position: PyTree, data: dict[str, Any]) -> Sequence[Any]:
            with warnings.catch_warnings():  # PyTensor asks for float64, which JAX may not permit
                warnings.filterwarnings("ignore", "Explicitly requested dtype")
                return function(*(position[name] for name in names), *(data[name] for name in self.data_names))

        return evaluate


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Undo what importing PyMC's and PyTensor's JAX parts changes: x64, and the number of CPU devices in XLA_FLAGS."""
    flags, is_double = os.environ.get("XLA_FLAGS"), jax.config.jax_enable_x64
    try:
        yield
    finally:
        if jax.config.jax_enable_x64 != is_double:
            jax.config.update("jax_enable_x64", is_double)
        if flags is None:
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = flags


@dataclass(frozen=True, eq=False)
class PyMCModel(Model):
    """A model made by `from_pymc`. `posterior_predictive` is None; `predictions` calls PyMC.

    Attributes
    ----------
    source
        The PyMC model as JAX functions.
    """

    source: _Source = field(kw_only=True)

    def with_data(self, **values: Any) -> "PyMCModel":
        """The model with other data; if their shapes are the same, no program is compiled again.

        Parameters
        ----------
        **values
            New values of ``pymc.Data``, by name; the others stay.

        Returns
        -------
        PyMCModel
            The model with these data.

        Raises
        ------
        ValueError
            If the model has no data of such a name.
        """
        unknown = sorted(set(values) - set(self.source.data_names))
        if unknown:
            raise ValueError(f"{unknown} are not data of the model; these are: {list(self.source.data_names)}.")
        data = {**self.data, **{name: np.asarray(value, self.data[name].dtype) for name, value in values.items()}}
        with _temporary_data(self.source.model, data):
            return _model_of(self.source, self.initial_position, data)

    def predictions(self, rng_key: Array, positions: PyTree, scratch_dir: Path | None = None) -> dict[str, np.ndarray]:
        """Replicated observations for all draws, by ``pymc.sample_posterior_predictive``."""
        import arviz  # noqa: PLC0415 - takes a second to import
        import pymc  # noqa: PLC0415 - an extra

        variables = map_draws(self.source.constrain, positions, data=self.data_arguments, scratch_dir=scratch_dir)
        tree = arviz.from_dict({"posterior": variables})
        seed = int(np.asarray(jax.random.bits(rng_key)))
        with _temporary_data(self.source.model, self.data):
            found = pymc.sample_posterior_predictive(tree, model=self.source.model, random_seed=seed, progressbar=False)
        return {str(name): values.to_numpy() for name, values in found["posterior_predictive"].data_vars.items()}


@contextmanager
def _temporary_data(model: Any, data: dict[str, Any] | None) -> Iterator[None]:
    """Give the PyMC model these data, and its own ones back at the end."""
    before = {name: model[name].get_value() for name in data or {}}
    for name, values in (data or {}).items():
        model[name].set_value(np.asarray(values))
    try:
        yield
    finally:
        for name, values in before.items():
            model[name].set_value(values)


def _model_of(source: _Source, start: dict[str, np.ndarray], data: dict[str, Any]) -> PyMCModel:
    from pymc.backends.arviz import (  # noqa: PLC0415 - an extra
        coords_and_dims_for_inferencedata,
        find_constants,
        find_observations,
    )

    model = source.model
    observed = {name: np.asarray(values) for name, values in find_observations(model).items()}
    constants = {name: np.asarray(values) for name, values in find_constants(model).items()}
    coords, dims = coords_and_dims_for_inferencedata(model)
    shapes = {name: leaf.shape for name, leaf in jax.eval_shape(source.constrain, start, data).items()}
    shapes |= {name: values.shape for name, values in {**observed, **constants}.items()}
    return PyMCModel(
        source.logdensity,
        start,
        name=model.name or "model",
        data=data,
        initial_spread=JITTER_RADIUS,
        constrain=source.constrain,
        log_likelihood=source.log_likelihood if observed else None,
        observed_data=observed,
        constant_data=constants,
        dims={name: all_dims(name, labels, shapes[name]) for name, labels in dims.items() if name in shapes},
        coords={name: np.asarray(labels) for name, labels in coords.items()},
        source=source,
    )
