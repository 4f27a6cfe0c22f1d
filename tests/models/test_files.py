"""Model files: by path or by name, and one clear error where something is missing."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from parsample.models.files import ModelError, load_model

COMPLETE = """
import jax.numpy as jnp
dims, coords = {"x": ["axis"]}, {"axis": [1, 2]}
settings = {"num_warmup": 500}
initial_position = {"x": jnp.zeros(2)}
def constrain(position): return {"y": 2 * position["x"]}
def logdensity(position): return -0.5 * jnp.sum(position["x"] ** 2)
"""
MINIMAL = "initial_position = 0.0\ndef logdensity(x): return -0.5 * x**2\n"


def write(directory: Path, text: str, name: str = "some_model.py") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_model_of_a_path(tmp_path):
    model = load_model(write(tmp_path, COMPLETE))
    assert model.name == "some_model"
    assert float(model.logdensity({"x": jnp.ones(2)})) == -1
    assert float(model.constrain(model.initial_position)["y"].sum()) == 0
    assert (model.dims, model.coords, model.settings) == ({"x": ["axis"]}, {"axis": [1, 2]}, {"num_warmup": 500})


def test_what_a_model_leaves_out_is_empty(tmp_path):
    model = load_model(write(tmp_path, MINIMAL))
    assert (model.constrain, model.dims, model.coords, model.settings) == (None, {}, {}, {})
    assert model.logdensity(model.initial_position) == 0


def test_model_of_a_module_name(tmp_path, monkeypatch):
    write(tmp_path, MINIMAL, "a_model_by_name.py")
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("a_model_by_name")
    assert model.initial_position == 0
    assert model.name == "a_model_by_name"


def test_model_of_a_module_in_a_package_is_called_by_its_own_name(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_models"
    package.mkdir()
    write(package, MINIMAL, "__init__.py")
    write(package, MINIMAL, "heights.py")
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("a_package_of_models.heights")
    assert model.initial_position == 0
    assert "heights" in model.name


BROKEN = {
    "no log density": ("initial_position = 0.0", r"some_model\.py defines no logdensity: add logdensity, "),
    "no start": ("def logdensity(x): return x", r"some_model\.py defines no initial_position: add initial_position, "),
    "misspelt setting": (
        MINIMAL + 'settings = {"num_warmups": 500}',
        r"some_model\.py: settings names 'num_warmups'; .* Did you mean 'num_warmup'",
    ),
    "size of the run": (
        MINIMAL + 'settings = {"num_samples": 5}',
        r"some_model\.py: settings names 'num_samples'; a model can set num_warmup, .* Pass others to the run",
    ),
    "not callable": ("initial_position = logdensity = 0.0", r"logdensity must be a function of the position; got 0\.0"),
    "syntax error": ("def logdensity(x:", r"some_model\.py cannot be loaded: SyntaxError: "),
    "failing": ("1 / 0", r"some_model\.py cannot be loaded: ZeroDivisionError: division by zero"),
    "failing import": ("import no_such_module", r"cannot be loaded: ModuleNotFoundError: .*'no_such_module'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused(tmp_path, case):
    text, message = BROKEN[case]
    with pytest.raises(ModelError, match=message) as caught:
        load_model(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/model.py", r"there is no model file no/such/model\.py"),
        ("model.py", r"there is no model file model\.py"),
        ("no/such/model", r"there is no model file no/such/model"),
        ("no_such_model", r"model no_such_model cannot be loaded: ModuleNotFoundError"),
        ("no_such_package.model", r"model no_such_package\.model cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_model_that_is_not_there_is_refused(source, message):
    with pytest.raises(ModelError, match=message):
        load_model(source)


def test_a_file_that_is_not_python_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"notes\.txt is not a Python file"):
        load_model(write(tmp_path, "notes", "notes.txt"))
