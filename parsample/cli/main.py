"""The command line: ``parsample check MODEL`` and ``parsample sample MODEL``.

Exit codes: 0 done (check: the chain can be run in parallel), 1 the model or an argument is unusable, 2 the command line
cannot be parsed, 3 the chain cannot be run in parallel (check only), 4 the draws are not certified, 130 interrupted
(finished draws are saved).
"""

import argparse
import contextlib
import importlib.util
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from parsample.draws.store import FILE_SUFFIXES, MAX_BYTES_IN_MEMORY
from parsample.internal.compilation import keep_compiled_programs
from parsample.kernels import KERNELS
from parsample.models.files import ModelError, load_model
from parsample.models.model import Model
from parsample.samplers.compare import WITH_TRAJECTORIES, compare_kernels
from parsample.samplers.sample import check_sampler, sample
from parsample.solver.status import ParallelStallWarning, UncertifiedChainWarning
from parsample.version import __version__

# Arguments of `sample` that the command line sets or else the model.
FROM_MODEL = ("num_warmup", "target_acceptance_rate", "num_lanes", "method")

OK, FAILED, NOT_PARALLEL, NOT_CERTIFIED, INTERRUPTED = 0, 1, 3, 4, 130


def main(arguments: Sequence[str] | None = None, *, owns_process: bool = False) -> int:
    """Run the command line; returns the exit code. With `owns_process`, compiled programs are cached on disk."""
    options = _parser().parse_args(arguments)
    if owns_process and not options.no_compilation_cache:
        with contextlib.suppress(OSError):  # without a writable cache, programs are compiled anew
            keep_compiled_programs()
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    try:
        model = load_model(options.model)
        _check_outputs(options)
        if options.out is not None:
            _check_disk_space(model, options)
        with warnings.catch_warnings():
            # The report and the certificate, printed below, contain everything in these warnings.
            for category in (ParallelStallWarning, UncertifiedChainWarning):
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
        command.add_argument("--num-samples", type=int, default=10_000, help="draws per chain (default: %(default)s)")
        command.add_argument("--num-warmup", type=int, help="warm-up steps per chain (default: the model's, or 1000)")
        command.add_argument("--num-chains", type=int, default=4, help="chains (default: %(default)s)")
        one_or_more = command.add_mutually_exclusive_group()
        one_or_more.add_argument("--kernel", choices=KERNELS, default="hmc", help="default: %(default)s")
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
    methods = ("auto", "deer", "sequential")
    sampling.add_argument("--method", choices=methods, help="default: the model's, or auto")
    sampling.add_argument(
        "--out",
        type=Path,
        help="write an ArviZ DataTree: FILE.nc (netCDF) or DIR.zarr; memory then does not grow with the draws",
    )
    sampling.add_argument("--plots", type=Path, metavar="DIR", help="write pictures to DIR")
    sampling.add_argument("--full-summary", action="store_true", help="compute ESS and R-hat for any number of draws")
    sampling.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser


def _check_outputs(options: argparse.Namespace) -> None:
    """Raise now, not after the run, if the results cannot be written."""
    if options.out is not None:
        if options.out.suffix not in FILE_SUFFIXES:
            raise ValueError(f"--out {options.out}: the name must end in one of {', '.join(FILE_SUFFIXES)}.")
        if options.out.suffix == ".zarr":
            _check_extra("zarr", "zarr", f"--out {options.out}")
        _check_parent(options.out, "--out")
        if options.out.suffix == ".nc":
            if options.out.is_dir():
                raise ValueError(f"--out {options.out} is a directory; name a file.")
            if options.out.exists():
                options.out.open("ab").close()
    if options.plots is not None:
        _check_extra("matplotlib", "plots", f"--plots {options.plots}")
        options.plots.mkdir(parents=True, exist_ok=True)
        _probe_writable(options.plots, "--plots")


def _check_extra(module: str, extra: str, option: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{option} needs {module}, which is not installed: pip install 'parsample[{extra}]'.")


def _check_parent(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no directory {path.parent}; create it first.")
    _probe_writable(path.parent, option)


def _check_disk_space(model: Model, options: argparse.Namespace) -> None:
    """Refuse draws that exceed the free disk space; large ones take it twice, for scratch files and output."""
    num_values = sum(np.size(leaf) for leaf in jax.tree.leaves(model.initial_position))
    needed = options.num_chains * options.num_samples * num_values * (8 if options.x64 else 4)
    if needed > MAX_BYTES_IN_MEMORY:
        needed *= 2
    free = shutil.disk_usage(options.out.parent).free
    if needed > free:
        raise ValueError(
            f"--out {options.out}: these draws take at least {needed / 2**20:,.0f} MiB on the disk while they "
            f"are written; {free / 2**20:,.0f} MiB are free."
        )


def _probe_writable(directory: Path, option: str) -> None:
    probe = directory / ".parsample-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{option}: cannot write to {directory}: {error.strerror}.") from error


def _sampler_settings(model: Model, options: argparse.Namespace) -> dict:
    """The arguments of `sample` that the command line sets, else those that the model sets."""
    asked = {name: getattr(options, name, None) for name in FROM_MODEL}
    settings = {**model.settings, **{name: value for name, value in asked.items() if value is not None}}
    if options.kernel not in WITH_TRAJECTORIES and options.target_acceptance_rate is None:
        settings.pop("target_acceptance_rate", None)  # models set it for kernels with trajectories
    return {
        **settings,
        "num_samples": options.num_samples,
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
    result = sample(
        jax.random.key(options.seed),
        model,
        progress_bar=not options.no_progress,
        scratch_dir=None if options.out is None else options.out.parent,
        **_sampler_settings(model, options),
    )
    # Imported late: ArviZ takes seconds, `check` does not need it, and bad arguments are refused before.
    from parsample.draws.datatree import save  # noqa: PLC0415
    from parsample.draws.summary import summary_table  # noqa: PLC0415

    tree = result.to_arviz()
    if options.out is not None:
        save(tree, options.out)
    print(summary_table(tree, full=options.full_summary))
    print(f"{model.name}: {result}")
    if options.plots is not None:
        from parsample.samplers.plots import figures, save_plots  # noqa: PLC0415 - matplotlib is an extra

        drawn = figures(tree, result.report, result.segments)
        print("pictures: " + ", ".join(str(path) for path in save_plots(drawn, options.plots)))
    if options.out is not None:
        print(f"draws: {options.out}")
    if result.interrupted:
        return INTERRUPTED
    return OK if result.status.is_exact else NOT_CERTIFIED


def run() -> None:
    """Entry point of the ``parsample`` command."""
    sys.exit(main(owns_process=True))
