"""Whether an array lies in a file, and how much of such files this process holds in memory: shared by the tests."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def lies_in_a_file(array: np.ndarray) -> bool:
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def mapped(directory: Path) -> list[int]:
    """KiB in memory of each file in a directory that this process has mapped, as Linux counts them."""
    resident, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            inside = bool(rest) and str(directory) in line
        elif inside and first == "Rss:":
            resident.append(int(rest[0]))
    return resident
