"""The table that the command line prints, of few draws and of many."""

from typing import Any

import arviz
import numpy as np
import pytest
from results import fabricated

from parsample import Status
from parsample.draws.datatree import datatree
from parsample.draws.summary import MAX_SUMMARY_VALUES, summary_table


def test_a_huge_summary_is_left_to_the_user(monkeypatch):
    def summary(*_: Any, **__: Any) -> None:
        pytest.fail("arviz.summary takes minutes on so many draws")

    monkeypatch.setattr(arviz, "summary", summary)
    monkeypatch.setattr("parsample.draws.summary.MAX_SUMMARY_VALUES", 599)
    tree = fabricated(Status.CONVERGED).to_arviz()
    table = summary_table(tree)
    assert MAX_SUMMARY_VALUES > 599
    assert "(600 values: ESS and R-hat with --full-summary)" in table
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:4]}
    assert len(rows) == 3
    draws = tree["posterior"]["x"].to_numpy()[..., 1]
    assert float(rows["x[1]"][1]) == pytest.approx(draws.mean(), abs=1e-3)
    assert float(rows["x[1]"][2]) == pytest.approx(draws.std(), rel=1e-2)
    assert float(rows["x[1]"][3]) == pytest.approx(np.quantile(draws, 0.055), rel=1e-2)


def test_a_summary_has_ess_and_r_hat_up_to_the_limit_and_beyond_on_request(monkeypatch):
    tree = fabricated(Status.CONVERGED).to_arviz()
    monkeypatch.setattr("parsample.draws.summary.MAX_SUMMARY_VALUES", 600)
    table = summary_table(tree)
    assert "r_hat" in table
    monkeypatch.setattr("parsample.draws.summary.MAX_SUMMARY_VALUES", 1)
    assert summary_table(tree, full=True) == table
    assert len(table.splitlines()) == 4


@pytest.mark.parametrize("limit", [10**6, 1])
def test_flags_are_summarised_as_zeros_and_ones(monkeypatch, limit):
    monkeypatch.setattr("parsample.draws.summary.MAX_SUMMARY_VALUES", limit)
    flags = np.arange(200).reshape(2, 100) % 4 == 0
    row = summary_table(
        datatree({"posterior": {"flag": flags, "x": np.sin(np.arange(200.0)).reshape(2, 100)}}, {})
    ).splitlines()[1]
    assert row.startswith("flag")
    assert float(row.split()[1]) in (0.2, 0.25, 0.3)  # ArviZ rounds to digits that are certain
