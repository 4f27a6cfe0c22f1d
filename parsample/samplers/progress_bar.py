"""The progress bar of `sample`, and its attention to Ctrl-C between rounds and segments."""

import warnings
from functools import cached_property
from typing import Any

with warnings.catch_warnings():
    # In notebooks without ipywidgets, tqdm warns that its bar is one of text.
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

from parsample.internal.interrupts import Interrupts


class Progress:
    """One progress bar for a whole run: it shows the phase and counts draws.

    Its methods raise KeyboardInterrupt if Ctrl-C was pressed, but lost.

    Parameters
    ----------
    num_draws
        Draws of all chains together.
    is_shown
        Whether to show anything.
    """

    def __init__(self, num_draws: int, is_shown: bool) -> None:
        self._num_draws, self._is_shown, self._interrupts = num_draws, is_shown, Interrupts()

    @cached_property
    def _bar(self) -> Any:
        # Created on first use, so that errors about bad arguments are printed on a clean line.
        return tqdm(total=self._num_draws, unit="draw", unit_scale=True, disable=not self._is_shown)

    def __enter__(self) -> "Progress":
        self._interrupts.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._interrupts.__exit__()
        if "_bar" in self.__dict__:
            self._bar.close()

    def phase(self, text: str) -> None:
        """Show the current phase."""
        self._interrupts.check()
        self._bar.set_description_str(text)

    def note(self, text: str) -> None:
        """Show a result beside the counter."""
        self._bar.set_postfix_str(text)

    def add(self, num_draws: int) -> None:
        """Count finished draws."""
        self._interrupts.check()
        self._bar.update(num_draws)
