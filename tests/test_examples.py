"""All published examples run: those in docstrings, and the Python blocks of README and docs/."""

import doctest
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest
from marks import slow

import parsample

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Marks blocks for several processes, which are left out here; tests/internal/test_processes.py runs such processes.
OF_PROCESSES = "jax.distributed.initialize"


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a public name, including those of its methods."""
    found = doctest.DocTestFinder(exclude_empty=True).find(getattr(parsample, name), name, globs={})
    return [test for test in found if test.examples]


PUBLIC = [name for name in parsample.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert examples(name), f"parsample.{name} has no example in its docstring"


# The default run has the examples of functions. Those of classes call the same functions to make or use
# an instance, which compiles the same programs again.
EXAMPLES = [slow(name) if isinstance(getattr(parsample, name), type) else name for name in PUBLIC]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("x64", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["float64", "float32"])
def test_examples_in_docstrings_run(name, x64, capsys):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with jax.enable_x64(x64), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        # As for users, warnings are printed and are no errors.
        warnings.simplefilter("default")
        for test in examples(name):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def blocks(page: Path) -> list[str]:
    return [block for block in BLOCK.findall(page.read_text()) if OF_PROCESSES not in block]


def with_blocks() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", with_blocks(), ids=lambda page: page.stem)
@pytest.mark.slow
def test_python_blocks_of_pages_run_in_a_directory_of_their_own(page, tmp_path):
    # models/ is a part of the repository, not of the package.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = "\n".join(blocks(page))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readme_fits_on_two_screens_and_its_first_example_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = BLOCK.findall(text)[0]
    done = subprocess.run(
        [sys.executable, "-c", first], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bitwise one chain" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
