"""One of the processes of test_processes.py: ``python process.py PORT RANK TASK FILE`` writes its results to FILE.

Every process passes a different key; all must use the first one's.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

NUM_PROCESSES, DEVICES_PER_PROCESS = 2, 2
SEED = 3


def join(port: str, rank: str) -> None:
    """Join the other processes; to be called before BlackJAX is imported, because its import asks for JAX's devices."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", DEVICES_PER_PROCESS)
    jax.distributed.initialize(f"localhost:{port}", NUM_PROCESSES, int(rank))


if __name__ == "__main__":
    join(*sys.argv[1:3])

import blackjax  # noqa: E402
import chains  # noqa: E402
import numpy as np  # noqa: E402

import parsample  # noqa: E402
from parsample import DEER, ParallelStallWarning, Zero  # noqa: E402
from parsample.internal.devices import mesh_of  # noqa: E402
from parsample.internal.processes import is_first  # noqa: E402

NUM_STEPS = 4000
BLOCKS = DEER(100, Zero())


def own_key() -> jax.Array:
    return jax.random.key(SEED + jax.process_index())


def position_only(state: Any, info: Any) -> Any:
    return state.position


def any_path() -> dict:
    contraction = parsample.deer(*chains.contraction(203), block_size=7, devices=jax.devices())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stalled = parsample.deer(*chains.logistic_map(403), block_size=10, stall_after=5, devices=jax.devices())
    return {
        "x": contraction.states["x"],
        "final": contraction.final["x"],
        "num_iters": contraction.num_iters,
        "chaos": stalled.states,
        "status": np.array([contraction.status, stalled.status]),
        "warned": [issubclass(warning.category, ParallelStallWarning) for warning in caught],
    }


def places() -> dict:
    """Rank of this process, whether it leads each of three meshes, and the error for a mesh of foreign devices."""
    foreign = [device for device in jax.devices() if device.process_index != jax.process_index()]
    try:
        mesh_of(foreign)
    except ValueError as error:
        refusal = str(error)
    is_leading = [is_first(mesh_of(devices)) for devices in (None, jax.devices(), jax.devices()[::-1])]
    return {"is_leading": is_leading, "refusal": refusal, "rank": jax.process_index()}


def blackjax_chain(method: Any, num_runs: int = 1) -> dict:
    """Consecutive runs, each from the final state of the one before: results are valid arguments."""
    algorithm = blackjax.mala(chains.gaussian, 0.1)
    settings = {"transform": position_only, "method": method, "devices": jax.devices()}
    state, start, paths = None, chains.gaussian_start(), []
    for _ in range(num_runs):
        solution = parsample.evaluate_inference_algorithm(own_key(), algorithm, NUM_STEPS, state, start, **settings)
        state, start = solution.final, None
        paths.append(solution.outputs["x"])
    return {
        "x": np.concatenate(paths),
        "status": solution.status,
        "defect": solution.defect,
        "num_blocks": len(solution.block_ends),
    }


SAMPLING: dict[str, Any] = {"num_samples": 1024, "num_warmup": 200, "num_chains": 2, "progress_bar": False}


def draws(method: Any) -> dict:
    settings = {**SAMPLING, "method": method, "devices": jax.devices()}
    result = parsample.sample(own_key(), chains.gaussian, chains.gaussian_start(), **settings)
    stats = result.sample_stats
    return {"x": result.positions["x"], "lp": stats["lp"], "status": result.status, "defect": result.defect}


def store() -> dict:
    """Draws of a run in a store, which the first process writes, and in which it is extended."""
    out = Path(sys.argv[4]).parent / "run.zarr"
    arguments = (chains.gaussian, chains.gaussian_start())
    parsample.sample(own_key(), *arguments, out=out, **{**SAMPLING, "num_samples": 512}, devices=jax.devices())
    result = parsample.resume(out, *arguments, num_samples=1024, progress_bar=False, devices=jax.devices())
    tree = result.to_arviz()
    return {"x": tree["posterior"]["x"].to_numpy(), "lp": tree["sample_stats"]["lp"].to_numpy()}


def reports() -> dict:
    """Reports of two checks, which would differ between processes that measured and decided independently."""
    algorithm = blackjax.mala(chains.gaussian, 0.1)
    settings = {"devices": jax.devices()}
    one = parsample.check(own_key(), algorithm, chains.gaussian_start(), num_steps=20_000, **settings)
    two = parsample.check_sampler(own_key(), chains.gaussian, chains.gaussian_start(), num_warmup=200, **settings)
    return {
        "text": [str(one), str(two)],
        "seconds": [one.plan.seconds, two.plan.seconds],
        "lle": [one.lle, two.contraction_rate],
    }


TASKS: dict[str, Callable[[], dict]] = {
    "places": places,
    "any path": any_path,
    "explicit blocks": lambda: blackjax_chain(BLOCKS, 2),
    "auto": lambda: blackjax_chain("auto"),
    "lanes": lambda: blackjax_chain("deer"),
    "draws": lambda: draws("deer"),
    "store": store,
    "reports": reports,
}


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ParallelStallWarning)  # these chains are too short to profit
    found = TASKS[sys.argv[3]]()
    assert all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(found))
    np.savez(sys.argv[4], **found)
