"""The faults of `helpers/mutants.py` can be put into the code as it is; that script shows that tests notice them."""

import ast

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_fault_has_one_place_and_its_tests_exist(mutant):
    code = (ROOT / "parsample" / mutant.file).read_text()
    assert code.count(mutant.old) == 1
    ast.parse(code.replace(mutant.old, mutant.new))
    assert all((ROOT / "tests" / name).is_file() for name in mutant.tests)


def test_contributors_read_of_every_fault():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    expected = [f"{number}. {mutant.fault} (`{mutant.file}`)" for number, mutant in enumerate(MUTANTS, 1)]
    assert [line for line in page.splitlines() if line.split(". ")[0].isdigit() and "`)" in line] == expected
