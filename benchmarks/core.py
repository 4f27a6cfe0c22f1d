"""What blocks gain over step-by-step evaluation, the check's cost included.

``python -m benchmarks.core [--x64] [--num-steps 100000] [--repeats 5] [--only NAME ...] [--cores N]`` measures three
tables in one run and writes them to ``benchmarks/results/core_<platform>_<dtype>.json``:

- algorithms: one chain by ``blackjax.util.run_inference_algorithm`` and by ``parsample.run_inference_algorithm``, same
  keys, same chain, ``method="auto"``; "cold" pays for a new check every time, "warm" reuses measured step costs.
- models: `parsample.sample` on every file in models/, ``method="auto"`` (check included) against "sequential", one
  chain; the warm-up, which both share, is left out.
- work: evaluations per step of evaluations in blocks.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

import parsample
from benchmarks.timing import environment, interleaved, timed, write
from parsample import run as plug
from parsample.compilation import use_cores
from parsample.kernels import TARGET_ACCEPTANCE, KernelDynamics, Layout
from parsample.model import load_model
from parsample.warmup import warmup

MODELS = Path(__file__).parent.parent / "models"


def banana_hmc() -> tuple[Any, Any]:
    """HMC of 8 leapfrog steps of 0.5 on the banana (arXiv 2508.18413)."""
    model = load_model(str(MODELS / "banana.py"))
    algorithm = blackjax.hmc(model.logdensity, 0.5, jnp.ones(2), 8)
    return algorithm, {"x": jnp.zeros(2)}


def mixture_mala() -> tuple[Any, Any]:
    """MALA of step 0.5 on the mixture (arXiv 2508.18413)."""
    model = load_model(str(MODELS / "mixture.py"))
    return blackjax.mala(model.logdensity, 0.5), jax.tree.map(jnp.asarray, model.initial_position)


def synthetic_logistic(num_rows: int = 4000, num_features: int = 40) -> tuple[Callable, Any]:
    """Log density and start of a logistic regression on Gaussian features."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num_rows, num_features))
    beta = rng.normal(size=num_features) / num_features**0.5
    sign = np.where(rng.random(num_rows) < 1 / (1 + np.exp(-features @ beta)), 1.0, -1.0)
    signed = sign[:, None] * features

    def logdensity(position: dict[str, jax.Array]) -> jax.Array:
        beta = position["beta"]
        return -jnp.sum(jax.nn.softplus(-(signed @ beta))) - 0.5 * jnp.sum(beta**2)

    return logdensity, {"beta": jnp.zeros(num_features)}


def adapted_hmc(logdensity: Callable, position: Any) -> tuple[Any, Any]:
    """BlackJAX's HMC with a dense metric and step size from the warm-up, path length about pi / 2."""
    layout = Layout.of(position)
    dynamics = KernelDynamics(logdensity, layout, "hmc")
    start = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(position)])
    adaptation = warmup(dynamics, jax.random.key(1), start, 1000, 4, TARGET_ACCEPTANCE["hmc"])
    parameters = adaptation.parameters
    factor = parameters.factor if parameters.factor.ndim == 2 else jnp.diag(parameters.factor)
    step_size = float(parameters.step_size)
    num_steps = max(1, round(np.pi / 2 / step_size))
    algorithm = blackjax.hmc(logdensity, step_size, factor @ factor.T, num_steps)
    return algorithm, layout.unravel(parameters.position(adaptation.states[0]))


def real_logistic() -> tuple[Any, Any]:
    """Adapted HMC on the breast cancer regression."""
    model = load_model(str(MODELS / "logistic_regression.py"))
    return adapted_hmc(model.logdensity, jax.tree.map(jnp.asarray, model.initial_position))


def large_logistic() -> tuple[Any, Any]:
    """Adapted HMC on a synthetic regression of 4000 rows and 40 features."""
    return adapted_hmc(*synthetic_logistic())


ALGORITHMS = {
    "banana, HMC 0.5 x 8": banana_hmc,
    "mixture, MALA 0.5": mixture_mala,
    "logistic 569 x 11 (real), HMC": real_logistic,
    "logistic 4000 x 40 (synthetic), HMC": large_logistic,
}


def position_and_acceptance(state: Any, info: Any) -> tuple[Any, Any]:
    """What both evaluations keep of each step."""
    return state.position, info.is_accepted


def algorithm_row(name: str, num_steps: int, repeats: int) -> dict[str, Any]:
    """One chain, step by step by BlackJAX and as planned by parsample."""
    algorithm, position = ALGORITHMS[name]()
    key = jax.random.key(0)

    def reference(rng_key: jax.Array) -> Any:
        return blackjax.util.run_inference_algorithm(
            rng_key, algorithm, num_steps, initial_position=position, transform=position_and_acceptance
        )

    # BlackJAX compiles anew at every call; compiled once, its best case is what we compare with.
    compiled = jax.jit(reference)

    def warm() -> Any:
        return parsample.run_inference_algorithm(
            key, algorithm, num_steps, initial_position=position, transform=position_and_acceptance
        )

    def cold() -> Any:
        plug.forget_costs()
        return warm()

    seconds = interleaved({"blackjax": lambda: compiled(key), "cold": cold, "warm": warm}, repeats)
    report = parsample.check(key, algorithm, position, num_steps=num_steps)
    return {
        "chain": name,
        "num_steps": num_steps,
        "seconds": seconds,
        "speedup": seconds["blackjax"]["median"] / seconds["cold"]["median"],
        "speedup_warm": seconds["blackjax"]["median"] / seconds["warm"]["median"],
        "plan": str(report.plan),
        "lle": report.lle,
    }


def model_row(path: Path, num_steps: int, repeats: int) -> dict[str, Any]:
    """The sampler on one model, as planned and step by step; seconds of check and sampling, without the warm-up."""
    model = load_model(str(path))
    results: dict[str, parsample.SampleResult] = {}

    def run(method: str) -> Callable[[], float]:
        def once() -> float:
            results[method] = parsample.sample(
                jax.random.key(0),
                model.logdensity,
                model.initial_position,
                num_samples=num_steps,
                num_chains=1,
                method=method,
                progress_bar=False,
                **model.settings,
            )
            return 0.0

        return once

    warm = {method: [] for method in ("auto", "sequential")}
    for repeat in range(repeats + 1):
        for method, values in warm.items():
            _, total, _ = timed(run(method))
            # The warm-up is the same for both and not what is compared.
            if repeat:
                values.append(total - results[method].seconds["warmup"])
    medians = {method: float(np.median(values)) for method, values in warm.items()}
    auto = results["auto"]
    return {
        "model": path.stem,
        "num_steps": num_steps,
        "seconds": medians,
        "quartiles": {method: np.quantile(values, [0.25, 0.75]).tolist() for method, values in warm.items()},
        "speedup": medians["sequential"] / medians["auto"],
        "check_seconds": auto.seconds["check"],
        "parallel": bool(auto.report is not None and auto.report.parallelizable),
        "evals_per_step": auto.evals_per_step,
        "defect": auto.defect,
        "status": auto.status.name,
        "lle": auto.report.lle if auto.report is not None else None,
    }


def work_row(name: str, num_steps: int) -> dict[str, Any]:
    """Evaluations per step in blocks: a count, which no noise touches."""
    if name in ALGORITHMS:
        algorithm, position = ALGORITHMS[name]()
        solution = parsample.evaluate_inference_algorithm(
            jax.random.key(0), algorithm, num_steps, initial_position=position, method="deer"
        )
        work, defect, status = solution.evals_per_step, solution.defect, solution.status
    else:
        stem, kernel = name.split(", ")
        model = load_model(str(MODELS / f"{stem}.py"))
        settings = dict(model.settings)
        if kernel == "mala":
            settings.pop("target_acceptance_rate", None)
        result = parsample.sample(
            jax.random.key(0),
            model.logdensity,
            model.initial_position,
            num_samples=num_steps,
            num_chains=1,
            kernel=kernel,
            method="deer",
            progress_bar=False,
            **settings,
        )
        work, defect, status = result.evals_per_step, result.defect, result.status
    return {
        "chain": name,
        "evals_per_step": float(work),
        "defect": float(defect),
        "status": parsample.Status(int(status)).name,
    }


WORK = ("eight_schools, nuts", "logistic_regression, hmc", "banana, HMC 0.5 x 8", "mixture, MALA 0.5", "mixture, mala")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--x64", action="store_true")
    parser.add_argument("--num-steps", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", nargs="*", choices=("algorithms", "models", "work"), default=["algorithms", "models", "work"]
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores that parsample may use")
    options = parser.parse_args()
    use_cores(options.cores)
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    print(environment())
    rows: list[dict[str, Any]] = []
    # One file per selection of tables, written as it grows: a partial run does not pass for a whole one.
    which = "" if len(options.only) == 3 else "_" + "_".join(options.only)
    results = f"core_{jax.default_backend()}_{environment()['dtype']}{which}"
    if "algorithms" in options.only:
        for name in ALGORITHMS:
            rows.append({"table": "algorithms", **algorithm_row(name, options.num_steps, options.repeats)})
            row = rows[-1]
            print(f"{name:<38} {row['speedup']:.2f}x (warm {row['speedup_warm']:.2f}x)  {row['plan']}", flush=True)
            write(results, rows)
    if "models" in options.only:
        for path in sorted(MODELS.glob("*.py")):
            rows.append({"table": "models", **model_row(path, options.num_steps, options.repeats)})
            row = rows[-1]
            print(
                f"{row['model']:<28} {row['speedup']:.2f}x  parallel {row['parallel']}  {row['evals_per_step']:.3f} "
                f"evaluations per step, {row['seconds']}",
                flush=True,
            )
    if "work" in options.only:
        for name in WORK:
            rows.append({"table": "work", **work_row(name, options.num_steps)})
            print(rows[-1], flush=True)
    print(write(results, rows))


if __name__ == "__main__":
    main()
