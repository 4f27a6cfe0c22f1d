"""The command line: ``parsample check MODEL`` and ``parsample sample MODEL``.

Exit codes: 0 done (check: the chain can be run in parallel), 1 the model or an argument is unusable, 2 the command line
cannot be parsed, 3 the chain cannot be run in parallel (check only), 4 the path is not certified, 5 the path is, but
the draws have problems, such as chains that disagree, 130 interrupted (finished draws are saved).
"""

import argparse
import contextlib
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax

from parsample.draws.outputs import check_extra, check_writable
from parsample.internal.compilation import keep_compiled_programs
from parsample.kernels import KERNELS
from parsample.models.files import ModelError, load_model
from parsample.models.model import Model
from parsample.samplers.checkpoint import arguments_of
from parsample.samplers.compare import WITH_TRAJECTORIES, compare_kernels
from parsample.samplers.diagnostics import SamplingWarning
from parsample.samplers.result import SampleResult
from parsample.samplers.resume import resume
from parsample.samplers.sample import check_sampler, sample
from parsample.samplers.stopping import StopAt
from parsample.solver.status import ParallelStallWarning, UncertifiedChainWarning
from parsample.version import __version__
from parsample.warmup.adaptation import Adaptation

# Arguments of `sample` that the command line sets or else the model.
FROM_MODEL = ("num_warmup", "target_acceptance_rate", "num_lanes", "method")

# Default number of draws per chain.
NUM_SAMPLES = 10_000

# Options that the store of a run remembers, with their defaults.
REMEMBERED = {
    "kernel": "hmc",
    "num_chains": 4,
    "thin": 1,
    "num_warmup": None,
    "target_acceptance_rate": None,
    "num_lanes": None,
    "method": None,
    "keep": None,
    "statistics": None,
}

OK, FAILED, NOT_PARALLEL, NOT_CERTIFIED, DOUBTFUL, INTERRUPTED = 0, 1, 3, 4, 5, 130


def main(arguments: Sequence[str] | None = None, *, owns_process: bool = False) -> int:
    """Run the command line; returns the exit code. With `owns_process`, compiled programs are cached on disk."""
    options = _parser().parse_args(arguments)
    options.given = {name: getattr(options, name, None) for name in REMEMBERED}
    for name, default in REMEMBERED.items():
        if getattr(options, name, None) is None:
            setattr(options, name, default)
    if owns_process:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is ended keeps its draws
    if owns_process and not options.no_compilation_cache:
        with contextlib.suppress(OSError):  # without a writable cache, programs are compiled anew
            keep_compiled_programs()
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    try:
        model = load_model(options.model)
        if options.plots is not None:
            check_extra("matplotlib", "plots", f"--plots {options.plots}")
            options.plots.mkdir(parents=True, exist_ok=True)
            check_writable(options.plots, "--plots")
        with warnings.catch_warnings():
            # The report and the certificate, printed below, contain everything in these warnings.
            for category in (ParallelStallWarning, UncertifiedChainWarning, SamplingWarning):
                warnings.simplefilter("ignore", category)
            return options.run(model, options)
    except (ModelError, ValueError, TypeError, OSError) as error:
        print(f"parsample: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("parsample: interrupted before any draws were finished", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parsample", description="Long MCMC chains, evaluated in parallel over their length."
    )
    parser.add_argument("--version", action="version", version=f"parsample {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="tell whether a model's chain can be run in parallel, and how fast")
    check.set_defaults(run=_check, out=None, plots=None)
    sampling = commands.add_parser("sample", help="draw samples; write them, a summary and pictures")
    sampling.set_defaults(run=_sample)
    for command in (check, sampling):
        command.add_argument("model", metavar="MODEL", help="model file (path/model.py) or module (package.module)")
        samples_help = f"draws per chain (default: {NUM_SAMPLES}, or as many as a resumed run was begun with)"
        command.add_argument("--num-samples", type=int, help=samples_help)
        command.add_argument("--num-warmup", type=int, help="warm-up steps per chain (default: the model's, or 1000)")
        command.add_argument("--num-chains", type=int, help="chains (default: 4)")
        one_or_more = command.add_mutually_exclusive_group()
        one_or_more.add_argument("--kernel", choices=KERNELS, help="default: hmc")
        if command is check:
            help_text = "compare these kernels by predicted effective draws per second"
            one_or_more.add_argument("--kernels", choices=KERNELS, nargs="+", help=help_text)
            help_text = "also report the kernel's Lyapunov exponent, which takes another compiled program"
            command.add_argument("--lyapunov", action="store_true", help=help_text)
        command.add_argument("--target-acceptance-rate", type=float, help="acceptance rate to tune the step size to")
        command.add_argument(
            "--no-compilation-cache", action="store_true", help="compile anew, and cache no programs for the next run"
        )
        lanes_help = "lanes that run side by side (default: the model's, or 64 on a CPU, 512 elsewhere)"
        command.add_argument("--num-lanes", type=int, help=lanes_help)
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
        command.add_argument("--x64", action="store_true", help="compute in float64")
    _add_sampling_options(sampling)
    return parser


def _add_sampling_options(sampling: argparse.ArgumentParser) -> None:
    """Options of ``parsample sample`` alone."""
    methods = ("auto", "deer", "sequential")
    sampling.add_argument("--method", choices=methods, help="default: the model's, or auto")
    sampling.add_argument(
        "--out",
        type=Path,
        help="write an ArviZ DataTree: DIR.zarr, as the run goes on, or FILE.nc (netCDF), at its end",
    )
    sampling.add_argument("--overwrite", action="store_true", help="replace draws that are already at --out")
    sampling.add_argument(
        "--resume", action="store_true", help="go on with the run in --out DIR.zarr, if there is one, or make it longer"
    )
    sampling.add_argument("--thin", type=int, metavar="STEPS", help="steps per draw (default: 1)")
    sampling.add_argument("--keep", nargs="+", metavar="NAME", help="variables to keep (default: all)")
    sampling.add_argument("--statistics", nargs="*", metavar="NAME", help="statistics to keep (default: all)")
    sampling.add_argument("--stop-at-ess", type=float, metavar="ESS", help="stop once all variables have this bulk ESS")
    sampling.add_argument(
        "--adaptation", type=Path, metavar="PATH", help="use step size and scales of a former run, DIR.zarr or a file"
    )
    sampling.add_argument("--plots", type=Path, metavar="DIR", help="write pictures to DIR")
    sampling.add_argument("--full-summary", action="store_true", help="compute ESS and R-hat for any number of draws")
    sampling.add_argument("--no-progress", action="store_true", help="no progress bar")


def _sampler_settings(model: Model, options: argparse.Namespace) -> dict:
    """The arguments of `sample` that the command line sets, else those that the model sets."""
    asked = {name: getattr(options, name, None) for name in FROM_MODEL}
    settings = {**model.settings, **{name: value for name, value in asked.items() if value is not None}}
    if options.kernel not in WITH_TRAJECTORIES and options.target_acceptance_rate is None:
        settings.pop("target_acceptance_rate", None)  # models set it for kernels with trajectories
    return {
        **settings,
        "num_samples": NUM_SAMPLES if options.num_samples is None else options.num_samples,
        "num_chains": options.num_chains,
        "kernel": options.kernel,
    }


def _check(model: Model, options: argparse.Namespace) -> int:
    if options.kernels:
        return _compare(model, options)
    settings = {**_sampler_settings(model, options), "lyapunov": options.lyapunov}
    settings.pop("method", None)  # a check plans for method="auto"
    report = check_sampler(jax.random.key(options.seed), model, **settings)
    print(f"{model.name}, kernel {options.kernel}")
    print(report)
    return OK if report.parallelizable else NOT_PARALLEL


def _compare(model: Model, options: argparse.Namespace) -> int:
    settings = {
        name: value
        for name, value in _sampler_settings(model, options).items()
        if name in ("num_samples", "num_warmup", "num_chains", "target_acceptance_rate")
    }
    settings["kernels"] = options.kernels
    comparison = compare_kernels(jax.random.key(options.seed), model, **settings)
    print(model.name)
    print(comparison)
    if comparison.best is None:
        return FAILED
    if comparison.best.report is None:  # no check was run: chains fill all lanes
        return NOT_PARALLEL
    print(f"kernel {comparison.best.kernel}")
    print(comparison.best.report)
    return OK if comparison.best.report.parallelizable else NOT_PARALLEL


def _sample(model: Model, options: argparse.Namespace) -> int:
    result = _resumed(model, options) if _goes_on(options) else _sampled(model, options)
    # Imported late: ArviZ takes seconds, `check` does not need it, and bad arguments are refused before.
    from parsample.draws.summary import summary_table  # noqa: PLC0415

    tree = result.to_arviz()
    print(summary_table(tree, full=options.full_summary))
    print(f"{model.name}: {result}")
    if options.plots is not None:
        from parsample.samplers.plots import figures, save_plots  # noqa: PLC0415 - matplotlib is an extra

        drawn = figures(tree, result.report, result.segments)
        print("pictures: " + ", ".join(str(path) for path in save_plots(drawn, options.plots)))
    if options.out is not None and result.store is None:
        print(f"draws: {options.out}")
    if result.interrupted:
        return INTERRUPTED
    if not result.status.is_exact:
        return NOT_CERTIFIED
    return DOUBTFUL if result.diagnostics.problems else OK


def _goes_on(options: argparse.Namespace) -> bool:
    """Whether there is a run to go on with."""
    if not options.resume:
        return False
    if options.out is None or options.out.suffix != ".zarr":
        raise ValueError("--resume needs --out DIR.zarr, the directory of the run.")
    return options.out.exists()


def _resumed(model: Model, options: argparse.Namespace) -> SampleResult:
    """The run in ``--out``, whose arguments are in its store; only the number of draws may differ."""
    stop_at = None if options.stop_at_ess is None else StopAt(options.stop_at_ess)
    begun = arguments_of(options.out)
    for name, value in options.given.items():
        if value is not None and value != begun[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} {value}: the run in {options.out} was begun with {begun[name]}; leave it out.")
    return resume(
        options.out,
        model,
        num_samples=options.num_samples,
        stop_at=stop_at,
        progress_bar=not options.no_progress,
    )


def _sampled(model: Model, options: argparse.Namespace) -> SampleResult:
    return sample(
        jax.random.key(options.seed),
        model,
        progress_bar=not options.no_progress,
        thin=options.thin,
        keep=options.keep,
        statistics=options.statistics,
        out=options.out,
        overwrite=options.overwrite,
        stop_at=None if options.stop_at_ess is None else StopAt(options.stop_at_ess),
        adaptation=None if options.adaptation is None else Adaptation.load(options.adaptation),
        **_sampler_settings(model, options),
    )


def run() -> None:
    """Entry point of the ``parsample`` command."""
    sys.exit(main(owns_process=True))
