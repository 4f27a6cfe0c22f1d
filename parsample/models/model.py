"""A model: a log density with an initial position, and the functions and labels that present its draws."""

import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from parsample.draws.mapping import DrawFunction, map_draws
from parsample.internal.validation import checked_instance, checked_number, dtype_of, short

# Arguments of `sample` that a model may set.
SETTINGS = ("num_warmup", "target_acceptance_rate", "num_lanes", "method", "exact_meeting")


@dataclass(frozen=True, eq=False)
class Model:
    """A log density with an initial position, and the functions and labels that present its draws.

    `sample`, `check_sampler` and `compare_kernels` take a model in place of a log density and an initial position, and
    `SampleResult.to_arviz` uses its functions and labels. `from_numpyro`, `from_pymc` and `transforms.unconstrain` make
    models.

    Attributes
    ----------
    logdensity
        ``logdensity(position) -> scalar``, up to a constant, in JAX; with `data`, ``logdensity(position, data)``.
    initial_position
        Pytree of floating-point arrays.
    name
        Name shown to people.
    initial_spread
        Half-width of the uniform noise that disperses lanes around the initial position; the log density need not be
        finite at the position itself. None: 1, and it must be.
    data
        Pytree of arrays that is passed as last argument to the functions of the model, if not None. Data are arguments
        of the compiled program: with other data of the same shapes (`with_data`), nothing is compiled again.
    names
        Names of the leaves of the position, in their order. None: keys of dicts, joined by dots.
    constrain
        ``constrain(position) -> dict of arrays``: the variables to present. None: the leaves of the position.
    log_likelihood
        ``log_likelihood(position) -> dict of arrays``: log likelihood of each observation, by name of the observed
        variable.
    posterior_predictive
        ``posterior_predictive(rng_key, position) -> dict of arrays``: replicated observations.
    observed_data, constant_data
        Arrays by name, for the groups of these names in ArviZ's tree.
    dims, coords
        Names of the dimensions of each variable, and labels along them, as in ArviZ.
    settings
        Keyword arguments of `sample` that the model sets, of those in `SETTINGS`; used by the command line. How much
        is drawn is left to each run.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> def logdensity(mu, y):
    ...     return -0.5 * mu**2 - 0.5 * jnp.sum((y - mu) ** 2)
    >>> model = parsample.Model(logdensity, 0.0, names=["mu"], data=jnp.array([1.0, 2.0, 3.0]))
    >>> result = parsample.sample(jax.random.key(0), model, num_samples=500, progress_bar=False)
    >>> result.to_arviz()["posterior"]["mu"].shape
    (4, 500)
    """

    logdensity: Callable
    initial_position: PyTree
    _: KW_ONLY
    name: str = "model"
    initial_spread: float | None = None
    data: PyTree = None
    names: Sequence[str] | None = None
    constrain: Callable | None = None
    log_likelihood: Callable | None = None
    posterior_predictive: Callable | None = None
    observed_data: Mapping[str, Any] = field(default_factory=dict)
    constant_data: Mapping[str, Any] = field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("constrain", "log_likelihood", "posterior_predictive"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function or None; got {function!r}.")
        if not callable(self.logdensity):
            raise TypeError(f"logdensity must be a function of the position; got {self.logdensity!r}.")
        for name in ("observed_data", "constant_data", "dims", "coords", "settings"):
            checked_instance(name, getattr(self, name), Mapping, "a dict by name")
        for setting in self.settings:
            _check_setting(setting)
        if self.initial_spread is not None and not math.isfinite(checked_number("initial_spread", self.initial_spread)):
            raise ValueError(f"initial_spread must be finite; got {self.initial_spread!r}.")
        for leaf in jax.tree.leaves(self.data):
            if dtype_of(leaf) is None:
                raise TypeError(f"data must be a pytree of numbers and arrays; got {short(leaf)} among them.")
        self._check_names()

    def _check_names(self) -> None:
        num_leaves = len(jax.tree.leaves(self.initial_position))
        if isinstance(self.names, str):
            raise TypeError(f"names must be a sequence, one name per leaf of the position; got {self.names!r}.")
        if self.names is not None and len(self.names) != num_leaves:
            raise ValueError(f"names has {len(self.names)} entries; the position has {num_leaves} leaves.")

    def replace(self, **changes: Any) -> "Model":
        """The model with other attributes.

        Parameters
        ----------
        **changes
            Attributes by name, such as ``coords={"school": names}``.

        Returns
        -------
        Model
            A copy of this model with these attributes.
        """
        return replace(self, **changes)

    def with_data(self, *args: Any, **kwargs: Any) -> "Model":
        """The model with other data; if their shapes and dtypes are the same, no program is compiled again.

        Parameters
        ----------
        *args, **kwargs
            One pytree of arrays, as `data`. For models from `from_numpyro`, the arguments of the NumPyro model; for
            models from `from_pymc`, new values of its data, by name.

        Returns
        -------
        Model
            A copy of this model with these data.

        Raises
        ------
        ValueError
            If the functions of the model take no data.
        """
        if self.data is None:
            raise ValueError("this model has no data: pass data= to Model, and write logdensity(position, data).")
        if len(args) != 1 or kwargs:
            raise TypeError("with_data takes one argument, the data.")
        return replace(self, data=args[0])

    @property
    def data_arguments(self) -> tuple[Any, ...]:
        """Arguments that the functions of the model take after the position: the data, or none."""
        return () if self.data is None else (self.data,)

    def logdensity_at(self, position: PyTree) -> Array:
        """The log density of a position, given the data."""
        return self.logdensity(position, *self.data_arguments)

    def log_likelihood_of(self, one_draw: PyTree) -> DrawFunction:
        """The log likelihood of each observation as a function of draws like this one.

        Raises
        ------
        ValueError
            If the model has no `log_likelihood`.
        """
        if self.log_likelihood is None:
            raise ValueError(
                f"model {self.name} has no log_likelihood: pass log_likelihood(position) to parsample.Model."
            )
        return DrawFunction(self.log_likelihood, one_draw, data=self.data_arguments, name="log_likelihood")

    def log_likelihoods(self, positions: PyTree, scratch_dir: Path | None = None) -> dict[str, np.ndarray]:
        """Log likelihood of each observation for all draws, by name, with leading axes (chain, draw).

        Raises
        ------
        ValueError
            If the model has no `log_likelihood`.
        """
        one_draw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), positions)
        return self.log_likelihood_of(one_draw)(positions, scratch_dir=scratch_dir)

    def predictions(self, rng_key: Array, positions: PyTree, scratch_dir: Path | None = None) -> dict[str, np.ndarray]:
        """Replicated observations for all draws, by name, with leading axes (chain, draw).

        Raises
        ------
        ValueError
            If the model has no `posterior_predictive`.
        """
        if self.posterior_predictive is None:
            raise ValueError(f"model {self.name} has no posterior_predictive: pass one to parsample.Model.")
        return map_draws(
            self.posterior_predictive,
            positions,
            data=self.data_arguments,
            rng_key=rng_key,
            scratch_dir=scratch_dir,
            name="posterior_predictive",
        )


def _check_setting(name: Any) -> None:
    if name not in SETTINGS:
        near = difflib.get_close_matches(str(name), SETTINGS, 1, cutoff=0.8)
        guess = f"Did you mean {near[0]!r}?" if near else "Pass others to the run."
        raise ValueError(f"settings names {name!r}; a model can set {', '.join(SETTINGS)}. {guess}")


def as_model(logdensity_fn: "Callable | Model", initial_position: PyTree) -> Model:
    """The model that the first arguments of `sample` describe.

    Raises
    ------
    TypeError
        If `logdensity_fn` is no function, or a function comes without an initial position.
    """
    if isinstance(logdensity_fn, Model):
        return logdensity_fn if initial_position is None else replace(logdensity_fn, initial_position=initial_position)
    if not callable(logdensity_fn):
        raise TypeError(
            f"logdensity_fn must be callable; got {logdensity_fn!r}. Pass a log density or a parsample.Model."
        )
    if initial_position is None:
        raise TypeError("initial_position is missing: pass the position at which the lanes start.")
    return Model(logdensity_fn, initial_position)


def all_dims(name: str, labels: Sequence[str | None], shape: tuple[int, ...]) -> list[str]:
    """Names of all dimensions of a variable; dimensions without a label are numbered, as in ArviZ."""
    numbers = itertools.count()
    missing = [None] * (len(shape) - len(labels))
    return [label or f"{name}_dim_{next(numbers)}" for label in [*labels, *missing]]
