"""The progress bar shows every phase of a run, and nothing unless asked for."""

from chains import gaussian, gaussian_start
from runs import KEY

from parsample.samplers.progress_bar import Progress
from parsample.samplers.sample import sample


def test_a_progress_bar_shows_every_phase(capsys):
    sample(KEY, gaussian, gaussian_start(), num_samples=1000, num_chains=2, progress_bar=True)
    shown = capsys.readouterr().err
    for words in (
        "compiling",
        "warm-up 1, round of 8 steps: step size",
        "check: pairs",
        "sampling in blocks",
        "sweeps",
    ):
        assert words in shown


def test_a_bar_counts_draws_and_shows_what_was_found(capsys):
    with Progress(8, is_shown=True) as progress:
        progress.phase("sampling")
        progress.note("2 sweeps")
        progress.add(8)
    shown = capsys.readouterr().err
    for words in ("sampling", "8.00/8.00", "2 sweeps"):
        assert words in shown


def test_nothing_is_shown_unasked_or_before_there_is_something_to_show(capsys):
    with Progress(8, is_shown=True):
        pass
    with Progress(8, is_shown=False) as progress:
        progress.phase("sampling")
        progress.add(8)
    assert capsys.readouterr().err == ""
