"""Fixtures of the tests of samplers; nothing here imports parsample, as in the conftest of all tests."""

from typing import Any

import pytest


@pytest.fixture
def no_warmup(monkeypatch):
    def tune(*_: Any) -> None:
        pytest.fail("a warm-up was started")

    monkeypatch.setattr("parsample.warmup.ensemble.Ensemble.tune", tune)
