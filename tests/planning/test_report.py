"""Text of a report: verdict, figures, and the cause and a remedy if blocks will not pay."""

import checks
import pytest

from parsample import ParallelStallWarning, Report


@pytest.fixture(scope="module")
def predictable() -> Report:
    return checks.predictable()


@pytest.fixture(scope="module")
def unpredictable() -> Report:
    return checks.unpredictable()


def test_a_report_reads_well(predictable):
    text = str(predictable)
    for words in ("verdict", "parallel", "Lyapunov exponent", f"{predictable.lle:+.3g}", "nats per step", "halves in"):
        assert words in text
    num_pairs = len(predictable.coalescence)
    assert f"{num_pairs} of {num_pairs} pairs met" in text
    assert f"{predictable.plan.num_blocks} blocks of {predictable.plan.block_size} steps" in text
    assert "evaluations per step" in text
    assert "because" not in text


def test_an_unpredictable_chain_is_planned_sequentially_with_cause_and_remedy(unpredictable):
    assert not unpredictable.parallelizable
    num_pairs, num_steps = len(unpredictable.coalescence), unpredictable.meeting.num_steps
    assert f"{num_pairs} of {num_pairs} pairs did not meet within {num_steps} steps" in unpredictable.cause
    assert "another kernel" in unpredictable.remedy
    with pytest.warns(ParallelStallWarning, match=r"evaluated sequentially: .* did not meet.*Try: .*kernel"):
        unpredictable.warn()
    text = str(unpredictable)
    assert "sequential" in text
    assert "because" in text
    assert "try" in text
    assert f"0 of {num_pairs}" in text
