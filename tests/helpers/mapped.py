"""Memory-mapped arrays: whether an array lies in a file, and the resident size of mapped files."""

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
    """Resident size, in KiB, of each file in `directory` that this process has mapped, from /proc/self/smaps."""
    resident, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            inside = bool(rest) and str(directory) in line
        elif inside and first == "Rss:":
            resident.append(int(rest[0]))
    return resident
