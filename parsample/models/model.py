"""Model files: plain Python with a log density and an initial position, loaded by path or module name."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxtyping import PyTree


class ModelError(Exception):
    """A model that cannot be loaded, or whose definitions are missing or unusable."""


@dataclass(frozen=True)
class Model:
    """The definitions in a model file.

    Attributes
    ----------
    name
        File or module name.
    logdensity
        ``logdensity(position) -> scalar``.
    initial_position
        Pytree of floating-point arrays.
    constrain
        ``constrain(position) -> dict``, or None.
    dims, coords
        Dimensions and coordinates of the variables shown, as ArviZ takes them.
    settings
        Keyword arguments of `parsample.sample` that the model sets.
    """

    name: str
    logdensity: Callable
    initial_position: PyTree
    constrain: Callable | None = None
    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def load_model(source: str) -> Model:
    """The model in a file (``path/model.py``) or module (``package.module``).

    Raises
    ------
    ModelError
        If it cannot be found or imported, or lacks ``initial_position`` or a callable ``logdensity``.
    """
    module = _from_file(Path(source)) if source.endswith(".py") or "/" in source else _from_name(source)
    for name, what in (("logdensity", "logdensity(position) -> scalar"), ("initial_position", "a pytree of floats")):
        if not hasattr(module, name):
            raise ModelError(f"{source} defines no {name}: add {name}, {what}.")
    if not callable(module.logdensity):
        raise ModelError(f"{source}: logdensity must be a function of the position; got {module.logdensity!r}.")
    optional = {
        name: getattr(module, name) for name in ("constrain", "dims", "coords", "settings") if hasattr(module, name)
    }
    return Model(module.__name__, module.logdensity, module.initial_position, **optional)


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
