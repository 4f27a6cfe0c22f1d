"""What is kept, and where: decided and checked on invented draws."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from small import MODEL

from parsample import Moments, StopAt
from parsample.kernels import KERNELS
from parsample.samplers.kept import Kept


def kept(kernel: str = "hmc", **arguments: Any) -> Kept:
    return Kept.of(MODEL, jnp.zeros(3), KERNELS[kernel], **arguments)


@pytest.mark.parametrize(
    ("arguments", "in_store", "only_reduced", "keeps_positions"),
    [
        ({}, False, False, True),
        ({"out": "a.nc"}, False, False, True),
        ({"out": "a.zarr"}, True, False, False),
        ({"keep": ["x"]}, False, False, False),
        ({"reduce": Moments()}, False, True, False),
        ({"reduce": Moments(), "out": "a.nc"}, False, False, True),
        ({"reduce": Moments(), "out": "a.zarr"}, True, False, False),
    ],
)
def test_places(tmp_path, arguments, in_store, only_reduced, keeps_positions):
    if "out" in arguments:
        arguments = {**arguments, "out": tmp_path / arguments["out"]}
    found = kept(**arguments)
    assert (found.in_store, found.only_reduced, found.keeps_positions) == (in_store, only_reduced, keeps_positions)


def test_large_arrays_lie_beside_the_draws_unless_told_otherwise(tmp_path):
    (tmp_path / "other").mkdir()
    assert kept().scratch_dir is None
    assert kept(out=tmp_path / "a.nc").scratch_dir == tmp_path
    assert kept(out=tmp_path / "a.nc", scratch_dir=tmp_path / "other").scratch_dir == tmp_path / "other"
    assert kept(out=Path("a.nc")).scratch_dir == Path()


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_statistics_are_those_of_the_kernel_or_some_of_them(kernel):
    assert kept(kernel).statistics == KERNELS[kernel].statistics
    assert kept(kernel, statistics=["lp"]).statistics == ("lp",)
    assert kept(kernel, statistics="lp").statistics == ("lp",)
    assert kept(kernel, statistics=()).statistics == ()
    with pytest.raises(ValueError, match=rf"statistics names \['speed'\]; those of kernel '{kernel}' are lp, "):
        kept(kernel, statistics=["lp", "speed"])


def test_invented_draws_have_the_types_of_real_ones():
    found = kept(statistics=["lp", "diverging", "n_steps"])
    assert {name: (values.shape, values.dtype) for name, values in found.invented_variables(5).items()} == {
        "x": ((5, 2, 3), np.float64),
        "total": ((5, 2), np.float64),
        "is_positive": ((5, 2, 3), bool),
    }
    assert {name: values.dtype for name, values in found.invented_statistics(5).items()} == {
        "lp": np.float64,
        "diverging": bool,
        "n_steps": np.int32,
        "step_size": np.float32,
    }
    assert kept(statistics=[]).invented_statistics(5) == {}


def test_space_is_that_of_draws_and_scratch_files(tmp_path, monkeypatch):
    # 24 bytes for x, 8 for total, 3 for is_positive, 8 for lp, 4 for the step size.
    free = 47 * 2 * 1000
    monkeypatch.setattr("parsample.draws.outputs.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    for name in ("a.nc", "a.zarr"):
        found = kept(statistics=["lp"], out=tmp_path / name)
        found.check_space(2, 1000)
        with pytest.raises(ValueError, match="these draws take"):
            found.check_space(2, 1001)
    monkeypatch.setattr("parsample.samplers.kept.MAX_BYTES_IN_MEMORY", 0)
    kept(statistics=["lp"], out=tmp_path / "a.zarr").check_space(2, 1000)
    with pytest.raises(ValueError, match="these draws take"):
        kept(statistics=["lp"], out=tmp_path / "a.nc").check_space(2, 1000)
    kept().check_space(2, 1000)  # in memory


class Fails:
    """A reduction for other variables."""

    def of(self, draws: dict[str, np.ndarray]) -> np.ndarray:
        return draws["beta"]

    def combine(self, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
        return earlier + later


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"reduce": Fails()}, KeyError, "beta"),
        ({"reduce": Moments}, TypeError, "reduce must be an object"),
        ({"stop_at": StopAt(ess=10, variables=["beta"])}, ValueError, r"stop_at names \['beta'\], which are not kept"),
        ({"stop_at": StopAt(mcse={"x": 1.0}), "keep": ["total"]}, ValueError, r"stop_at names \['x'\]"),
        ({"keep_warmup": True, "keep": ["x"]}, ValueError, "keep_warmup=True keeps the warm-up beside positions"),
        ({"keep_warmup": True, "reduce": Moments()}, ValueError, "keep_warmup=True"),
        ({"scratch_dir": "missing"}, ValueError, "scratch_dir must be a directory"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        kept(**arguments)


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (
            {},
            r"these draws take [0-9.]+ GiB; this machine has 1\.0 GiB of memory\. Keep them on disk \(out=\)",
        ),
        ({"keep": ["total"], "statistics": []}, r"these draws take 3\.0 GiB"),
        ({"reduce": Moments()}, None),
    ],
)
def test_draws_that_exceed_the_memory_are_refused(monkeypatch, tmp_path, arguments, refusal):
    monkeypatch.setattr("parsample.samplers.kept.physical_memory", lambda: 2.0**30)
    kept = Kept.of(MODEL, jnp.zeros(3), KERNELS["hmc"], **arguments)
    kept.check_space(4, 1000)
    if refusal is None:
        kept.check_space(4, 10**8)
    else:
        with pytest.raises(ValueError, match=refusal):
            kept.check_space(4, 10**8)
    Kept.of(MODEL, jnp.zeros(3), KERNELS["hmc"], scratch_dir=tmp_path, **arguments).check_space(4, 10**8)
