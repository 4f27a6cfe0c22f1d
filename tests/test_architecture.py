"""Architecture of the package: permitted imports, maximum length of files, and an import without side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parsample

PACKAGE = Path(parsample.__file__).parent
TESTS = Path(__file__).parent
ALL_FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((TESTS.parent / "benchmarks").rglob("*.py"))
MODULES = [path for path in ALL_FILES if path.parent != PACKAGE and path.stem != "__init__"]

# Data flows down this list: a package imports only from itself and from those above it.
ORDER = [
    "internal",
    "chain",
    "draws",
    "models",
    "solver",
    "predictability",
    "lanes",
    "kernels",
    "warmup",
    "planning",
    "samplers",
    "cli",
]


def imports(body: list[ast.stmt]) -> set[str]:
    """Modules of this package that some statements import, as "package.module"."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parsample."):
            names.add(node.module.removeprefix("parsample."))
        elif isinstance(node, ast.ImportFrom) and node.module == "parsample":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("parsample.") for alias in node.names if "parsample" in alias.name}
        elif isinstance(node, ast.If | ast.Try):  # TYPE_CHECKING and the like
            names |= imports([*node.body, *node.orelse])
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


IMPORTS = {module_name(path): imports(ast.parse(path.read_text()).body) for path in ALL_FILES if path.parent != PACKAGE}


def test_every_package_has_its_place():
    assert {path.parent.name for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", IMPORTS)
def test_a_module_imports_only_from_its_package_and_those_above_it(module):
    package = module.split(".")[0]
    allowed = {*ORDER[: ORDER.index(package) + 1], "version"}
    assert {name.split(".")[0] for name in IMPORTS[module]} <= allowed


def test_imports_have_no_circles():
    left = {module: {name for name in names if name in IMPORTS} for module, names in IMPORTS.items()}
    while left:
        free = {module for module, names in left.items() if not names & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {module: names for module, names in left.items() if module not in free}


def test_the_package_of_kernels_only_collects_them():
    assert IMPORTS["kernels"] == {"kernels.base", "kernels.hmc", "kernels.metropolis", "kernels.nuts"}


@pytest.mark.parametrize("name", ["hmc", "metropolis", "nuts"])
def test_a_kernel_imports_no_other(name):
    shared = {"kernels.base", "kernels.whitening"}
    assert {module for module in IMPORTS[f"kernels.{name}"] if module.startswith("kernels")} <= shared


def test_no_public_name_is_that_of_a_module():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | set(ORDER)
    assert not modules & set(parsample.__all__)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_has_a_test_file_of_its_name(path):
    assert (TESTS / path.parent.name / f"test_{path.stem}.py").exists()


def test_imports_inside_functions_are_of_slow_and_optional_parts_only():
    allowed = {
        ("result", "draws.datatree"),
        ("result", "draws.summary"),
        ("result", "samplers.plots"),
        ("running", "draws.datatree"),
        ("compare", "draws.datatree"),
        ("main", "draws.summary"),
        ("main", "samplers.plots"),
    }
    inside = set()
    for path in ALL_FILES:
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside |= {(path.stem, name) for function in functions for name in imports(list(ast.walk(function)))}
    assert inside <= allowed


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    assert max(map(len, lines), default=0) <= 120


@pytest.mark.parametrize("path", [*ALL_FILES, *BENCHMARKS], ids=str)
def test_functions_stay_short(path):
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            num_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert num_lines <= 45, f"{function.name} has {num_lines} lines beside its signature and docstring"


def test_all_public_names_exist_and_are_documented():
    assert len(parsample.__all__) == len(set(parsample.__all__)) >= 20
    for name in parsample.__all__:
        assert getattr(parsample, name).__doc__


def test_importing_parsample_changes_nothing():
    # Its dependencies are imported first: their side effects are not tested.
    code = """
import os, warnings
import numpy, jax, blackjax, arviz
def state():
    return (dict(jax.config.values), list(warnings.filters), numpy.geterr(), numpy.get_printoptions(), dict(os.environ),
            jax.lax.scan, jax.default_backend())
before = state()
import parsample
assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
print("unchanged", jax.numpy.zeros(1).dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["unchanged", "float32"]), done.stderr


def test_public_functions_work_with_jaxs_default_settings():
    # A user's process: no x64, and JAX's default rank promotion.
    code = """
import jax, jax.numpy as jnp, parsample
inputs = jax.random.normal(jax.random.key(0), (64,))
solution = parsample.deer(lambda s, u: 0.5 * jnp.sin(s) + u, jnp.array(0.0), inputs, block_size=8)
print(int(solution.status), solution.states.dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "float32"]), done.stderr
