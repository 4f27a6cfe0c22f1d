"""Several processes: each gets the whole of one chain, the same as on one device."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import blackjax
import jax
import numpy as np
import process
import pytest
from chains import contraction, gaussian, gaussian_start, logistic_map
from process import DEVICES_PER_PROCESS, NUM_PROCESSES, NUM_STEPS, SAMPLING, SEED, position_only

import parsample
from parsample import Status, rollout
from parsample.internal.devices import mesh_of
from parsample.internal.processes import broadcast_from_first, is_first, on_first, replicated

SECONDS = 300  # for one task on a busy machine


@functools.cache
def found(task: str) -> list[dict[str, np.ndarray]]:
    """Results of `task` in each process, by name."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        files = [Path(folder) / f"{rank}.npz" for rank in range(NUM_PROCESSES)]
        port = str(free_port())
        arguments = [[port, str(rank), task, str(file)] for rank, file in enumerate(files)]
        children = [stack.enter_context(started(argument)) for argument in arguments]
        for child in children:
            output, _ = child.communicate(timeout=SECONDS)
            assert child.returncode == 0, output
        return [dict(np.load(file)) for file in files]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the test."""
    path = os.pathsep.join([str(Path(parsample.__file__).parents[1]), *sys.path])
    child = subprocess.Popen(
        [sys.executable, process.__file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def assert_same_in_all(results: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Assert that the results of all processes are bitwise equal, and return them."""
    first, *others = results
    for other in others:
        assert first.keys() == other.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
    return first


def test_each_process_knows_its_place():
    for rank, result in enumerate(found("places")):
        assert result["rank"] == rank
        assert list(result["is_leading"]) == [True, rank == 0, rank == NUM_PROCESSES - 1]
        assert "devices must include some of this process" in str(result["refusal"])


@pytest.mark.slow
def test_a_path_is_whole_in_every_process():
    result = assert_same_in_all(found("any path"))
    assert list(result["status"]) == [Status.CONVERGED, Status.STALLED]
    assert list(result["warned"]) == [True]
    chain, chaos = contraction(203), logistic_map(403)
    alone = parsample.deer(*chain, block_size=7)
    assert result["num_iters"] == alone.num_iters
    np.testing.assert_allclose(result["x"], rollout(*chain)["x"], atol=1e-8)
    np.testing.assert_allclose(result["final"], rollout(*chain)["x"][-1], atol=1e-8)
    np.testing.assert_array_equal(result["chaos"], rollout(*chaos))


def expected(num_runs: int) -> np.ndarray:
    """BlackJAX's own chain from the first process's key, in consecutive runs that each continue the one before."""
    algorithm = blackjax.mala(gaussian, 0.1)
    settings = {"transform": position_only}
    state, paths = None, []
    for _ in range(num_runs):
        start = {"initial_position": gaussian_start()} if state is None else {"initial_state": state}
        state, path = blackjax.util.run_inference_algorithm(
            jax.random.key(SEED), algorithm, NUM_STEPS, **start, **settings
        )
        paths.append(path["x"])
    return np.concatenate(paths)


@pytest.mark.slow
def test_explicit_blocks_give_blackjax_own_chain_in_every_process():
    result = assert_same_in_all(found("explicit blocks"))
    assert result["status"] == Status.CONVERGED
    assert result["defect"] <= 1e-10
    np.testing.assert_allclose(result["x"], expected(2), atol=1e-8)


@pytest.mark.exhaustive
def test_lanes_give_the_same_chain_in_every_process():
    result = assert_same_in_all(found("lanes"))
    assert result["status"] == Status.CONVERGED
    np.testing.assert_allclose(result["x"], expected(1), atol=1e-8)


@pytest.mark.exhaustive
def test_auto_decides_alike_in_every_process():
    result = assert_same_in_all(found("auto"))
    assert Status(int(result["status"])).is_exact
    np.testing.assert_allclose(result["x"], expected(1), atol=1e-8)


@pytest.mark.slow
def test_draws_are_the_same_in_every_process():
    result = assert_same_in_all(found("draws"))
    alone = parsample.sample(jax.random.key(SEED), gaussian, gaussian_start(), **SAMPLING, method="sequential")
    assert (result["status"], result["defect"]) == (Status.CONVERGED, 0)
    np.testing.assert_allclose(result["x"], alone.positions["x"], atol=1e-8)
    np.testing.assert_allclose(result["lp"], alone.sample_stats["lp"], atol=1e-8)


@pytest.mark.slow
def test_one_process_writes_the_store_that_all_extend():
    result = assert_same_in_all(found("store"))
    alone = parsample.sample(jax.random.key(SEED), gaussian, gaussian_start(), **SAMPLING, method="sequential")
    np.testing.assert_allclose(result["x"], alone.positions["x"], atol=1e-8)
    np.testing.assert_allclose(result["lp"], alone.sample_stats["lp"], atol=1e-8)


@pytest.mark.exhaustive
def test_reports_are_the_same_in_every_process():
    result = assert_same_in_all(found("reports"))
    assert (result["lle"] < 0).all()
    assert (result["seconds"] > 0).all()


def test_what_fails_in_the_first_process_raises_there():
    def fails() -> None:
        raise OSError("full")

    for mesh in (None, mesh_of(jax.devices()[:2])):
        assert on_first(mesh, lambda: 3) == 3
        with pytest.raises(OSError, match="full"):
            on_first(mesh, fails)


def test_one_process_is_left_alone():
    mesh = mesh_of(jax.devices()[: NUM_PROCESSES * DEVICES_PER_PROCESS])
    tree = {"key": jax.random.key(0), "x": 1.0}
    assert all(
        returned is leaf
        for where in (mesh, None)
        for returned, leaf in zip(
            jax.tree.leaves(broadcast_from_first(where, tree)), jax.tree.leaves(tree), strict=True
        )
    )
    assert replicated(mesh, tree) is tree
    assert is_first(mesh)
    assert is_first(None)
