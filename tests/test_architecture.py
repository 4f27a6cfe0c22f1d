"""The shape of the package: what may import what, how long a file may be, and that an import changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parsample

PACKAGE = Path(parsample.__file__).parent
FILES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")
ALL_FILES = sorted(PACKAGE.rglob("*.py"))

# Data flows down this list: a module imports only from those above it.
ORDER = [
    "version",
    "status",
    "validation",
    "random_keys",
    "compilation",
    "threefry",
    "transition",
    "grid",
    "processes",
    "affine",
    "linearize",
    "corrections",
    "sweep",
    "solution",
    "progress",
    "deer",
    "finish",
    "recursion",
    "gibbs",
    "adapters",
    "lyapunov",
    "coalescence",
    "pilot",
    "multishift",
    "layout",
    "kernels",
    "lane_program",
    "chain_lanes",
    "meeting",
    "plan",
    "adaptation",
    "report",
    "blocks",
    "chain_run",
    "check",
    "run",
    "warmup",
    "store",
    "sampler_progress",
    "prepare",
    "sampling",
    "summary",
    "model",
    "export",
    "compare",
    "plots",
    "cli",
]


def imports(body: list[ast.stmt]) -> set[str]:
    """Modules of this package that some statements import."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == "parsample":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parsample."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("parsample.")}
        elif isinstance(node, ast.If | ast.Try):  # TYPE_CHECKING and the like
            names |= imports([*node.body, *node.orelse])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_those_above_it(path):
    assert path.stem in ORDER, f"{path.name} has no place in the order of the design"
    above = set(ORDER[: ORDER.index(path.stem)])
    assert imports(ast.parse(path.read_text()).body) <= above


KERNEL_ORDER = ["whitening", "base", "tuning", "lanes", "hmc", "nuts", "metropolis"]


@pytest.mark.parametrize("name", KERNEL_ORDER)
def test_a_kernel_imports_what_kernels_share_and_what_is_above_them(name):
    body = ast.parse((PACKAGE / "kernels" / f"{name}.py").read_text()).body
    assert {path.stem for path in (PACKAGE / "kernels").glob("*.py")} == {"__init__", *KERNEL_ORDER}
    assert imports(body) <= {*ORDER[: ORDER.index("kernels")], "kernels"}
    assert kernel_imports(body) <= {"whitening", "base"} & set(KERNEL_ORDER[: KERNEL_ORDER.index(name)])


def kernel_imports(body: list[ast.stmt]) -> set[str]:
    """Modules of kernels/ that some statements import; "kernels" for the package itself."""
    modules = [getattr(node, "module", "") or "" for node in body]
    return {module.split(".")[-1] for module in modules if module.startswith("parsample.kernels")}


def test_the_package_of_kernels_only_collects_them():
    body = ast.parse((PACKAGE / "kernels" / "__init__.py").read_text()).body
    assert imports(body) == {"kernels"}
    assert kernel_imports(body) == set(KERNEL_ORDER) - {"whitening", "tuning", "lanes"}


def test_imports_inside_functions_are_of_slow_and_optional_parts_only():
    allowed = {("sampling", "export"), ("compare", "export"), ("cli", "export"), ("cli", "summary"), ("cli", "plots")}
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


def test_all_public_names_exist_and_are_documented():
    assert len(parsample.__all__) == len(set(parsample.__all__)) >= 20
    for name in parsample.__all__:
        assert getattr(parsample, name).__doc__


def test_importing_parsample_changes_nothing():
    # Its dependencies come first: what they do to a process is their own affair.
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
    # No x64, and rank promotion as JAX has it: what a user's process looks like.
    code = """
import jax, jax.numpy as jnp, parsample
inputs = jax.random.normal(jax.random.key(0), (64,))
solution = parsample.deer(lambda s, u: 0.5 * jnp.sin(s) + u, jnp.array(0.0), inputs, block_size=8)
print(int(solution.status), solution.states.dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "float32"]), done.stderr
