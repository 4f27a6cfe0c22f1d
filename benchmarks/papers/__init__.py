"""Regenerate the findings of the papers that parsample builds on: ``python -m benchmarks.papers.NAME``.

Names: threshold, two_well, observers, gains, chains, methods. Each writes JSON, a table and a figure, in float64 as the
papers did unless ``--x32`` is given; ``--full`` takes the published sizes where the default takes smaller ones.

The papers are Gonzalez et al., arXiv 2508.16817, whose code stops when half the sum of squared residuals is below 1e-10
per step, and Zoltowski et al., arXiv 2508.18413.
"""

import importlib
from typing import Any

PAPERS = ("threshold", "two_well", "observers", "gains", "chains", "methods")


def paper(name: str) -> Any:
    """The module of an experiment."""
    return importlib.import_module(f"benchmarks.papers.{name}")
