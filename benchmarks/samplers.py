"""One run of one sampler in a process of its own: ``python -m benchmarks.samplers POSTERIOR SAMPLER --draws N``.

Each sampler is run once, as a user would write it, with the library's own defaults; the process prints one line of
JSON. Times run from the start of the process (``--started``) until the draws are numpy arrays, so importing, warm-up
and compilation count. Only the measured library is imported within that time.
"""

import argparse
import importlib
import importlib.util
import json
import resource
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.posteriors import Posterior, posterior_of


class Size(NamedTuple):
    """Draws per chain, number of chains, and seed."""

    num_samples: int
    num_chains: int
    seed: int


class Run(NamedTuple):
    """Draws of one run, and what else the library reports.

    Attributes
    ----------
    positions
        Pytree in the unconstrained space, every leaf with leading axes (chain, draw).
    facts
        Quantities that only this library reports.
    """

    positions: Any
    facts: dict[str, Any]


class Sampler(NamedTuple):
    """A library, by the name it is imported by, and the function that runs it."""

    library: str
    run: Callable[[Posterior, Size], Run]


def with_parsample(posterior: Posterior, size: Size, method: str) -> Run:
    """HMC by parsample."""
    import parsample  # noqa: PLC0415 - the other samplers do without

    result = parsample.sample(
        jax.random.key(size.seed),
        posterior.logdensity,
        posterior.initial_position,
        num_samples=size.num_samples,
        num_chains=size.num_chains,
        method=method,
        progress_bar=False,
        **posterior.settings,
    )
    facts = {name: getattr(result, name) for name in ("evals_per_step", "defect", "certificate", "seconds")}
    return Run(result.positions, {**facts, "num_sweeps": _num_sweeps(result)})


def _num_sweeps(result: Any) -> int | None:
    """Largest number of sweeps of any part of the run; None if the result does not report it."""
    return max((segment.num_sweeps for segment in result.segments), default=None)


def with_blackjax(posterior: Posterior, size: Size, dense: bool) -> Run:
    """NUTS by BlackJAX after its window adaptation, the chains under ``jax.vmap``."""
    import blackjax  # noqa: PLC0415 - the other samplers do without

    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        posterior.logdensity,
        is_mass_matrix_diagonal=not dense,
        adaptation_info_fn=lambda *_: None,
        **_target(posterior, "target_acceptance_rate"),
    )

    def chain(key: jax.Array, start: Any) -> Any:
        key_warmup, key_run = jax.random.split(key)
        adapted, _ = adaptation.run(key_warmup, start, num_steps=_num_warmup(posterior))
        step = blackjax.nuts(posterior.logdensity, **adapted.parameters).step

        def advance(state: Any, key: jax.Array) -> Any:
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(advance, adapted.state, jax.random.split(key_run, size.num_samples))[1]

    key_start, key_run = jax.random.split(jax.random.key(size.seed))
    keys = jax.random.split(key_run, size.num_chains)
    return Run(jax.jit(jax.vmap(chain))(keys, dispersed(key_start, posterior, size.num_chains)), {})


def with_numpyro(posterior: Posterior, size: Size, dense: bool) -> Run:
    """NUTS by NumPyro, the chains vectorized."""
    from numpyro.infer import MCMC, NUTS  # noqa: PLC0415 - may be missing

    kernel = NUTS(
        potential_fn=lambda position: -posterior.logdensity(position),
        dense_mass=dense,
        **_target(posterior, "target_accept_prob"),
    )
    sampler = MCMC(
        kernel,
        num_warmup=_num_warmup(posterior),
        num_samples=size.num_samples,
        num_chains=size.num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    key_start, key_run = jax.random.split(jax.random.key(size.seed))
    sampler.run(key_run, init_params=dispersed(key_start, posterior, size.num_chains))
    return Run(sampler.get_samples(group_by_chain=True), {})


def with_nutpie(posterior: Posterior, size: Size, adaptation: str) -> Run:
    """NUTS by nutpie with its own length of warm-up, a chain per thread; JAX gives the gradients."""
    import nutpie  # noqa: PLC0415 - may be missing

    tree = nutpie.sample(
        _nutpie_model(posterior),
        draws=size.num_samples,
        chains=size.num_chains,
        seed=size.seed,
        adaptation=adaptation,
        progress_bar=False,
        **_target(posterior, "target_accept"),
    )
    return Run({"x": tree["posterior"]["x"].values}, {})


def _nutpie_model(posterior: Posterior) -> Any:
    """The log density as nutpie's model: a function of a float64 vector that returns a value and a gradient."""
    from jax.flatten_util import ravel_pytree  # noqa: PLC0415
    from nutpie.compiled_pyfunc import from_pyfunc  # noqa: PLC0415

    flat, unravel = ravel_pytree(posterior.initial_position)
    value_and_grad = jax.jit(jax.value_and_grad(lambda x: posterior.logdensity(unravel(x))))

    def logdensity(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_grad(x.astype(flat.dtype))
        return float(value), np.asarray(gradient, np.float64)

    def expand(x: np.ndarray, **_: Any) -> dict[str, np.ndarray]:
        return {"x": np.asarray(x, np.float64)}

    return from_pyfunc(flat.size, lambda: logdensity, lambda *_: expand, [np.dtype(np.float64)], [(flat.size,)], ["x"])


SAMPLERS: dict[str, Sampler] = {
    "auto": Sampler("parsample", partial(with_parsample, method="auto")),
    "sequential": Sampler("parsample", partial(with_parsample, method="sequential")),
    "deer": Sampler("parsample", partial(with_parsample, method="deer")),
    "numpyro_diagonal": Sampler("numpyro", partial(with_numpyro, dense=False)),
    "numpyro_dense": Sampler("numpyro", partial(with_numpyro, dense=True)),
    "nutpie_diagonal": Sampler("nutpie", partial(with_nutpie, adaptation="diag")),
    "nutpie_low_rank": Sampler("nutpie", partial(with_nutpie, adaptation="low_rank")),
    "blackjax_diagonal": Sampler("blackjax", partial(with_blackjax, dense=False)),
    "blackjax_dense": Sampler("blackjax", partial(with_blackjax, dense=True)),
}


def _target(posterior: Posterior, name: str) -> dict[str, float]:
    """The model's target acceptance rate, if any, as the keyword argument that the sampler calls `name`."""
    target = posterior.settings.get("target_acceptance_rate")
    return {} if target is None else {name: target}


def _num_warmup(posterior: Posterior) -> int:
    """Warm-up steps for libraries without a default: the model's setting, or else parsample's default."""
    return posterior.settings.get("num_warmup", 1000)


def dispersed(key: jax.Array, posterior: Posterior, num_chains: int) -> Any:
    """Starts of the chains as `parsample.sample` makes them: uniform noise on (-1, 1) about the initial position."""
    leaves, structure = jax.tree.flatten(posterior.initial_position)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + jax.random.uniform(key, (num_chains, *leaf.shape), leaf.dtype, -1, 1)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


class ProgramCount:
    """Number of programs that XLA has compiled in this process since this object was created."""

    def __init__(self) -> None:
        self.number = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, _duration: float, **_details: Any) -> None:
        self.number += event == "/jax/core/compile/backend_compile_duration"


def measured(posterior_name: str, sampler: Sampler, size: Size, started: float) -> dict[str, Any]:
    """One run: seconds from `started` (by `time.time`) to draws in memory, and the draws' effective sample size."""
    programs = ProgramCount()
    importlib.import_module(sampler.library)
    imported = time.time()
    run = sampler.run(posterior_of(posterior_name), size)
    positions = jax.device_get(run.positions)
    wall_seconds, cpu_seconds, num_programs = time.time() - started, _cpu_seconds(), programs.number
    signal.setitimer(signal.ITIMER_REAL, 0)
    draws = flattened(positions)
    smallest = smallest_bulk_ess(draws)
    return {
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds,
        "seconds_after_imports": wall_seconds - (imported - started),
        "num_programs": num_programs,
        "smallest_bulk_ess": smallest,
        "ess_per_second": smallest / wall_seconds,
        "num_dimensions": draws.shape[2],
        **run.facts,
        # All samplers must agree on these; the first coordinates suffice.
        "means": _rounded(draws.mean((0, 1), np.float64)[:5]),
        "sds": _rounded(draws.std((0, 1), np.float64)[:5]),
    }


def _cpu_seconds() -> float:
    """User and system time of this process, of all its threads and of children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def flattened(positions: Any) -> np.ndarray:
    """Draws of all leaves, shape (chain, draw, D)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(positions)]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], -1)


def smallest_bulk_ess(draws: np.ndarray, at_once: int = 16) -> float:
    """The smallest bulk effective sample size of any coordinate, `at_once` coordinates at a time to save memory."""
    import arviz as az  # noqa: PLC0415 - takes a second, which must not be timed

    parts = (draws[..., first : first + at_once] for first in range(0, draws.shape[2], at_once))
    return min(
        float(az.ess(az.from_dict({"posterior": {"x": part}}), method="bulk")["x"].min(skipna=False)) for part in parts
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("posterior", help="a file of models/, by its stem, or a name in benchmarks.posteriors.MADE")
    made.add_argument("sampler", choices=SAMPLERS)
    made.add_argument("--draws", type=int, required=True, help="draws per chain")
    made.add_argument("--chains", type=int, default=4)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--x64", action="store_true", help="float64")
    made.add_argument("--limit", type=float, help="seconds after which SIGALRM ends the process")
    made.add_argument("--started", type=float, default=time.time(), help="when the process was started (Unix time)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    chosen = parser().parse_args(arguments)
    sampler = SAMPLERS[chosen.sampler]
    if importlib.util.find_spec(sampler.library) is None:
        print(json.dumps({"skipped": f"{sampler.library} is not installed (pip install '.[bench]')"}))
        return
    if chosen.limit:
        # No Python signal handler, which would wait until compiled code returns: SIGALRM ends the process.
        signal.setitimer(signal.ITIMER_REAL, max(chosen.limit - (time.time() - chosen.started), 0.001))
    jax.config.update("jax_enable_x64", chosen.x64)
    warnings.simplefilter("ignore")
    size = Size(chosen.draws, chosen.chains, chosen.seed)
    print(json.dumps(measured(chosen.posterior, sampler, size, chosen.started)))


if __name__ == "__main__":
    main()
