"""The samplers that group "alternatives" compares, each as a user would run it, with its own defaults.

``python -m benchmarks.samplers POSTERIOR SAMPLER SCALE CORES X64`` is the child process that a job starts; it prints a
row of results as JSON.
"""

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import arviz as az
import blackjax
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import parsample
from benchmarks import problems
from benchmarks.problems import Posterior
from benchmarks.timing import MAX_ATTEMPTS, certificate, peak_bytes, timed
from parsample.compilation import use_cores
from parsample.grid import Team, mesh_of

# Effective draws that times are extrapolated to.
TARGET_ESS = 10_000


class Sizes(NamedTuple):
    """Draws of the one long chain; chains and draws of many short ones, and their warm-up; draws of few chains."""

    long: int
    short_chains: int
    short_draws: int
    short_warmup: int
    few_draws: int


SIZES = {
    "tiny": Sizes(2048, 4, 50, 100, 50),
    "cpu": Sizes(20_000, 32, 250, 500, 2000),
    "gpu": Sizes(20_000, 512, 100, 500, 1000),
}


class Run(NamedTuple):
    """Draws of all chains in the unconstrained space, and what they took.

    Attributes
    ----------
    positions
        Shape (chain, draw, D).
    sampling_seconds
        Without the warm-up; the rest of the run is warm-up.
    gradients
        Of the draws, without the warm-up; None if unknown.
    certificate
        Status, defect and work, for parsample.
    """

    positions: np.ndarray
    sampling_seconds: float
    gradients: float | None
    certificate: dict[str, Any]


Sampler = Callable[[Posterior, Sizes], Callable[[int], Run]]


def posterior_of(name: str, scale: str) -> Posterior:
    """A posterior by its name in the table, smaller for a rehearsal."""
    made = {
        "logistic_4000x40": problems.synthetic_logistic,
        "poisson_hierarchical": problems.poisson_hierarchical,
        "state_space": problems.state_space,
    }
    if name in made:
        return made[name](20) if scale == "tiny" else made[name]()
    return problems.model_posterior(name)


def with_parsample(method: str, posterior: Posterior, sizes: Sizes) -> Callable[[int], Run]:
    """One long chain of HMC; the check counts as warm-up where there is one."""

    def run(seed: int) -> Run:
        result = parsample.sample(
            jax.random.key(seed),
            posterior.logdensity,
            posterior.initial_position,
            num_samples=sizes.long,
            num_chains=1,
            method=method,
            progress_bar=False,
            **posterior.settings,
        )
        # Flattened as ravel_pytree does; leaves have leading axes (chain, draw).
        leaves = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(result.positions)]
        gradients = float(result.sample_stats["n_steps"].sum()) * result.evals_per_step
        return Run(np.concatenate(leaves, -1), result.seconds["sampling"], gradients, certificate(result))

    return run


def with_blackjax(posterior: Posterior, sizes: Sizes) -> Callable[[int], Run]:
    """Many short NUTS chains side by side, each with its own window adaptation; cores share the chains."""
    start, unravel = ravel_pytree(posterior.initial_position)

    def logdensity(x: jax.Array) -> jax.Array:
        return posterior.logdensity(unravel(x))

    adaptation = blackjax.window_adaptation(
        blackjax.nuts, logdensity, adaptation_info_fn=lambda *_: None, **_target(posterior)
    )

    def adapt(key: jax.Array) -> Any:
        key_start, key_run = jax.random.split(key)
        jittered = start + jax.random.uniform(key_start, start.shape, start.dtype, -1, 1)
        result, _ = adaptation.run(key_run, jittered, num_steps=sizes.short_warmup)
        return result.state, result.parameters["step_size"], result.parameters["inverse_mass_matrix"]

    def draw(key: jax.Array, adapted: Any) -> Any:
        state, step_size, metric = adapted
        step = blackjax.nuts(logdensity, step_size, metric).step

        def advance(state: Any, key: jax.Array) -> Any:
            state, info = step(key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(advance, state, jax.random.split(key, sizes.short_draws))[1]

    team = Team(mesh=mesh_of(None))
    adapt_all = jax.jit(team.each_chain(adapt, sizes.short_chains))
    draw_all = jax.jit(team.each_chain(lambda pair: draw(*pair), sizes.short_chains))

    def run(seed: int) -> Run:
        keys = jax.random.split(jax.random.key(seed), (2, sizes.short_chains))
        adapted = jax.block_until_ready(adapt_all(keys[0]))
        (positions, gradients), seconds, _ = timed(lambda: draw_all((keys[1], adapted)))
        return Run(np.asarray(positions), seconds, float(gradients.sum()), {})

    return run


def with_numpyro(posterior: Posterior, sizes: Sizes) -> Callable[[int], Run]:
    """NumPyro's NUTS, 1000 steps of warm-up; one chain per core at the same time, or 16 side by side on a GPU."""
    from numpyro.infer import MCMC, NUTS  # noqa: PLC0415 - may be missing

    on_cpu = jax.default_backend() == "cpu"
    num_chains = jax.local_device_count() if on_cpu else 16
    kernel = NUTS(
        potential_fn=lambda position: -posterior.logdensity(position),
        **({"target_accept_prob": target} if (target := posterior.settings.get("target_acceptance_rate")) else {}),
    )
    sampler = MCMC(
        kernel,
        num_warmup=1000,
        num_samples=sizes.few_draws,
        num_chains=num_chains,
        chain_method="parallel" if on_cpu and num_chains > 1 else "vectorized",
        progress_bar=False,
    )

    def run(seed: int) -> Run:
        key_start, key_warmup, key_run = jax.random.split(jax.random.key(seed), 3)
        flat, unravel = ravel_pytree(posterior.initial_position)
        starts = flat[None] + jax.random.uniform(key_start, (num_chains, flat.size), flat.dtype, -1, 1)
        starts = jax.vmap(unravel)(starts) if num_chains > 1 else unravel(starts[0])
        sampler.post_warmup_state = None
        sampler.warmup(key_warmup, init_params=starts, extra_fields=("num_steps",))
        jax.block_until_ready(sampler.last_state)
        # It compiles again in every run, which is not counted here.
        _, seconds, compiling = timed(lambda: sampler.run(key_run, extra_fields=("num_steps",)) or sampler.last_state)
        draws = sampler.get_samples(group_by_chain=True)
        leaves = [np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(draws)]
        gradients = float(sampler.get_extra_fields()["num_steps"].sum())
        return Run(np.concatenate(leaves, -1), seconds - compiling, gradients, {})

    return run


def with_nutpie(posterior: Posterior, sizes: Sizes, num_chains: int = 4) -> Callable[[int], Run]:
    """NUTS by nutpie with its default warm-up, four chains in a thread per core; JAX gives the gradients."""
    import nutpie  # noqa: PLC0415 - may be missing
    from nutpie.compiled_pyfunc import from_pyfunc  # noqa: PLC0415

    flat, unravel = ravel_pytree(posterior.initial_position)
    value_and_grad = jax.jit(jax.value_and_grad(lambda x: posterior.logdensity(unravel(x))))
    dtype = np.dtype(flat.dtype)

    def make_logdensity() -> Callable:
        def logdensity(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_grad(x.astype(dtype))
            return float(value), np.asarray(gradient, np.float64)

        return logdensity

    def make_expand(*_: Any) -> Callable:
        return lambda x, **_: {"x": np.asarray(x, np.float64)}

    model = from_pyfunc(flat.size, make_logdensity, make_expand, [np.dtype(np.float64)], [(flat.size,)], ["x"])

    def run(seed: int) -> Run:
        begin = time.perf_counter()
        tree = nutpie.sample(
            model,
            draws=sizes.few_draws,
            chains=num_chains,
            cores=jax.local_device_count(),
            seed=seed,
            progress_bar=False,
            **({"target_accept": target} if (target := posterior.settings.get("target_acceptance_rate")) else {}),
        )
        seconds = time.perf_counter() - begin
        # It does not say when its warm-up ends; every gradient takes the same time, so they tell.
        gradients = float(tree["sample_stats"]["n_steps"].sum())
        warmup = float(tree["warmup_sample_stats"]["n_steps"].sum())
        return Run(tree["posterior"]["x"].values, seconds * gradients / (gradients + warmup), gradients, {})

    return run


SAMPLERS: dict[str, Sampler] = {
    "parallel": partial(with_parsample, "auto"),
    "sequential": partial(with_parsample, "sequential"),
    "blackjax": with_blackjax,
    "numpyro": with_numpyro,
    "nutpie": with_nutpie,
}


def _target(posterior: Posterior) -> dict[str, float]:
    """Every sampler is given the acceptance rate that the model asks for, under its own name."""
    target = posterior.settings.get("target_acceptance_rate")
    return {} if target is None else {"target_acceptance_rate": target}


def contest(posterior: Posterior, sampler: Sampler, sizes: Sizes) -> dict[str, Any]:
    """The row of one sampler on one posterior: a second run, which does not compile, and what the first took longer."""
    begin = time.perf_counter()
    run = sampler(posterior, sizes)
    run(1)
    cold = time.perf_counter() - begin
    for _ in range(MAX_ATTEMPTS):
        result, warm, compiling = timed(partial(run, 1))
        # A plan may differ from the first run's, and then compiles anew; NumPyro always does, one programme after
        # another, and is allowed for it.
        if not result.certificate:
            warm -= compiling
            break
        if compiling < 0.1:
            break
    ess = az.ess(az.from_dict({"posterior": {"x": result.positions}}), method="bulk")["x"].values
    smallest = float(np.min(ess))
    to_target = warm - result.sampling_seconds + result.sampling_seconds * TARGET_ESS / smallest
    return {
        "title": posterior.name,
        "work": {"D": posterior.dimension, "chains": result.positions.shape[0], "draws": result.positions.shape[1]},
        "runs": {
            "sampler": {
                "seconds": {"median": warm, "quartile_1": warm, "quartile_3": warm, "repeats": 1},
                "first_call_seconds": cold,
                "compile_seconds": max(cold - warm, 0.0),
                "peak_bytes": peak_bytes(),
                **result.certificate,
            }
        },
        "warmup_seconds": warm - result.sampling_seconds,
        "sampling_seconds": result.sampling_seconds,
        "seconds_to_first_draw": cold - result.sampling_seconds,
        "smallest_bulk_ess": smallest,
        "ess_per_second": smallest / result.sampling_seconds,
        "seconds_to_ess": to_target,
        "seconds_to_ess_with_compilation": to_target + max(cold - warm, 0.0),
        "gradients_per_ess": None if result.gradients is None else result.gradients / smallest,
        # All samplers must agree on these; the first coordinates will do.
        "means": result.positions.mean((0, 1))[:10].tolist(),
        "sds": result.positions.std((0, 1))[:10].tolist(),
    }


def main(arguments: list[str]) -> None:
    posterior, sampler, scale, cores, x64 = arguments
    if sampler in ("numpyro", "nutpie") and importlib.util.find_spec(sampler) is None:
        print(json.dumps({"skipped": f"{sampler} is not installed (pip install '.[bench]')"}))
        return
    if jax.default_backend() == "cpu":
        use_cores(int(cores))
    jax.config.update("jax_enable_x64", bool(int(x64)))
    warnings.simplefilter("ignore")
    print(json.dumps(contest(posterior_of(posterior, scale), SAMPLERS[sampler], SIZES[scale])))


if __name__ == "__main__":
    main(sys.argv[1:])
