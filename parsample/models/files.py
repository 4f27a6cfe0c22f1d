"""Model files: plain Python with a log density and an initial position, loaded by path or module name."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from parsample.models.model import Model


class ModelError(Exception):
    """A model that cannot be loaded, or whose definitions are missing or unusable."""


# Attributes of `Model` that a file may define, beside its log density and initial position. Names such as `data` are
# not among them, because files use them for other things; a file that needs them defines `model`.
OPTIONAL = (
    "constrain",
    "log_likelihood",
    "posterior_predictive",
    "observed_data",
    "constant_data",
    "dims",
    "coords",
    "settings",
)


def load_model(source: str) -> Model:
    """The model in a file (``path/model.py``) or module (``package.module``).

    The file defines ``model``, a `Model`, or its attributes: ``logdensity`` and ``initial_position``, and optionally
    those in `OPTIONAL`.

    Raises
    ------
    ModelError
        If it cannot be found or imported, or defines neither a `Model` nor ``initial_position`` and a callable
        ``logdensity``.
    """
    module = _from_file(Path(source)) if source.endswith(".py") or "/" in source else _from_name(source)
    model = getattr(module, "model", None)
    if isinstance(model, Model):
        return model.replace(name=module.__name__)
    for name, what in (("logdensity", "logdensity(position) -> scalar"), ("initial_position", "a pytree of floats")):
        if not hasattr(module, name):
            raise ModelError(f"{source} defines no {name}: add {name}, {what}.")
    if not callable(module.logdensity):
        raise ModelError(f"{source}: logdensity must be a function of the position; got {module.logdensity!r}.")
    optional = {name: getattr(module, name) for name in OPTIONAL if hasattr(module, name)}
    try:
        return Model(module.logdensity, module.initial_position, name=module.__name__, **optional)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{source}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"there is no model file {path}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file.")
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def load() -> ModuleType:
        loader.exec_module(module)
        return module

    return _executed(str(path), load)


def _from_name(name: str) -> ModuleType:
    return _executed(name, lambda: importlib.import_module(name))


def _executed(source: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except Exception as error:
        raise ModelError(f"model {source} cannot be loaded: {type(error).__name__}: {error}") from error
