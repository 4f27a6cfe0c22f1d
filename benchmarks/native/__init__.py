"""A hand-written loop for one CPU core, compiled where there is a C compiler."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parent / "banana.c"


class NoCompilerError(RuntimeError):
    """There is no C compiler on this machine."""


@cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("no C compiler (cc, gcc, clang) was found")
    target = Path(tempfile.mkdtemp(prefix="banana-")) / "banana.so"
    flags = ["-O3", "-march=native", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(target), "-lm"], check=True, capture_output=True)
    library = ctypes.CDLL(str(target))
    library.banana_hmc.restype = ctypes.c_long
    return library


def banana_hmc(num_steps: int, start: tuple[float, float] = (0.0, 0.0), seed: int = 1) -> tuple[np.ndarray, float]:
    """Positions, shape (T, 2), and acceptance rate of HMC with 8 leapfrog steps of 0.5 on the banana, in float32."""
    positions = np.empty((num_steps, 2), np.float32)
    positions[0] = start
    accepted = _library().banana_hmc(
        ctypes.c_long(num_steps),
        ctypes.c_int(8),
        ctypes.c_float(0.5),
        ctypes.c_uint32(seed),
        positions.ctypes.data_as(ctypes.c_void_p),
    )
    return positions, accepted / num_steps
