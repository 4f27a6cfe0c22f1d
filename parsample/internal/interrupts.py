"""Ctrl-C that is not lost where code outside of ours drops exceptions."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """While entered, Ctrl-C raises KeyboardInterrupt as ever, and `check` raises it once more if it was lost.

    It is lost when it arrives in a callback, such as JAX's of garbage collection: Python prints it there and goes on.
    A handler of the user's own, and calls from other threads than the main one, are left alone.
    """

    def __init__(self) -> None:
        self._is_pending = False
        self._former: Any = None

    def __enter__(self) -> "Interrupts":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._former = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            self._former = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._is_pending = True
        signal.default_int_handler(number, frame)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed since this was entered; once only."""
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt
