"""Ctrl-C is noticed even where its exception is dropped."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from parsample.internal.interrupts import Interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Python's own handler: shells have SIGINT ignored in processes that they start in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_raises_at_once():
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        press()


def test_what_was_dropped_is_raised_once_at_the_next_check():
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()


def test_handlers_are_given_back_and_those_of_users_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with Interrupts() as interrupts:
            press()
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


def test_other_threads_may_use_it():
    found = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.check()
            found.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]
