"""The command line: exit codes, files, and one line on stderr for an error."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray
from results import ADAPTATION, fabricated, report

from parsample import Report, Status, StopAt, __version__
from parsample.cli.main import main
from parsample.samplers.compare import KernelComparison, KernelForecast
from parsample.samplers.result import SampleResult

MODEL = """
from chains import gaussian as logdensity, gaussian_start
initial_position = gaussian_start()
dims, coords = {"x": ["axis"]}, {"axis": ["left", "right"]}
"""
SIZES = ["--num-warmup", "300", "--num-chains", "2"]


@pytest.fixture
def model(tmp_path) -> str:
    path = tmp_path / "a_gaussian.py"
    path.write_text(MODEL)
    return str(path)


@pytest.mark.parametrize(("parallel", "code", "verdict"), [(True, 0, "parallel"), (False, 3, "sequential")])
def test_check_says_in_its_exit_code_whether_it_pays(monkeypatch, capsys, model, parallel, code, verdict):
    asked: dict[str, Any] = {}

    def check_sampler(*_: Any, **kwargs: Any) -> Report:
        asked.update(kwargs)
        return report(parallel=parallel)

    monkeypatch.setattr("parsample.cli.main.check_sampler", check_sampler)
    assert main(["check", model, *SIZES, "--kernel", "nuts", "--num-samples", "5000"]) == code
    out, err = capsys.readouterr()
    assert "a_gaussian, kernel nuts" in out
    assert f"verdict            {verdict}" in out
    assert ("8 of 8 pairs did not meet" in out) is not parallel
    assert err == ""
    assert (asked["kernel"], asked["num_samples"], asked["num_warmup"], asked["num_chains"]) == ("nuts", 5000, 300, 2)
    assert asked["lyapunov"] is False
    assert main(["check", model, *SIZES, "--lyapunov"]) == code
    assert asked["lyapunov"] is True


@pytest.mark.parametrize(
    ("parallel", "failure", "code"), [(True, "", 0), (False, "", 3), (True, "its states are not finite", 1)]
)
def test_check_compares_kernels(monkeypatch, capsys, tmp_path, parallel, failure, code):
    path = tmp_path / "with_settings.py"
    path.write_text(MODEL + 'settings = {"target_acceptance_rate": 0.95}\n')
    asked: dict[str, Any] = {}

    def compare_kernels(*_: Any, **kwargs: Any) -> KernelComparison:
        asked.update(kwargs)
        found = None if failure else report(parallel=parallel)
        per_draw = np.nan if failure else 0.5
        forecast = KernelForecast("nuts", found, 40_000, 4000, per_draw, "x[0]", 7.0, 0.0, failure)
        return KernelComparison((forecast,), 10_000, 4)

    monkeypatch.setattr("parsample.cli.main.compare_kernels", compare_kernels)
    assert main(["check", str(path), *SIZES, "--kernels", "nuts", "mala"]) == code
    settings = {"num_samples": 10_000, "num_warmup": 300, "num_chains": 2, "target_acceptance_rate": 0.95}
    assert asked == settings | {"kernels": ["nuts", "mala"]}
    out, err = capsys.readouterr()
    assert ("best: nuts" in out) is not bool(failure)
    assert ("verdict            " in out) is not bool(failure)
    assert ("nuts: failed: its states are not finite" in out) is bool(failure)
    assert err == ""


def test_kernels_of_which_nothing_was_checked_are_compared_all_the_same(monkeypatch, capsys, model):
    forecast = KernelForecast("hmc", None, 640_000, 16_000, 0.5, "x[0]", 7.0, 0.0, "", 2.0)
    monkeypatch.setattr(
        "parsample.cli.main.compare_kernels", lambda *_, **__: KernelComparison((forecast,), 10_000, 64)
    )
    assert main(["check", model, "--num-chains", "64", "--kernels", "hmc"]) == 3
    out, err = capsys.readouterr()
    assert "hmc     160,000" in out
    assert "best: hmc" in out
    assert err == ""


def test_check_of_a_real_model(capsys, model):
    assert main(["check", model, *SIZES, "--num-samples", "2500"]) == 0
    out, err = capsys.readouterr()
    assert "verdict            parallel" in out
    assert "64 of 64 pairs met within" in out
    assert "64 lanes, acceptance 0." in out
    assert err == ""


PROGRAM = """
import sys, jax
from parsample.cli.main import main
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
code = main(sys.argv[1:], owns_process=True)
print(code, *(found.count(f"/jax/compilation_cache/{name}") for name in ("cache_hits", "cache_misses")))
"""


@pytest.mark.parametrize(
    ("option", "owns_process", "kept"),
    [([], True, 1), (["--no-compilation-cache"], True, 0), ([], False, 0)],
    ids=["by default", "unless told otherwise", "only by who owns the process"],
)
def test_compiled_programs_are_kept(monkeypatch, model, option, owns_process, kept):
    calls: list[str] = []
    monkeypatch.setattr("parsample.cli.main.keep_compiled_programs", lambda: calls.append("kept"))
    monkeypatch.setattr("parsample.cli.main.sample", lambda *_, **__: fabricated(Status.CONVERGED))
    monkeypatch.setattr("parsample.cli.main.check_sampler", lambda *_, **__: report(parallel=True))
    for command in ("sample", "check"):
        calls.clear()
        assert main([command, model, "--num-chains", "2", *option], owns_process=owns_process) == 0
        assert len(calls) == kept


def test_a_cache_that_cannot_be_written_stops_nobody(monkeypatch, capsys, tmp_path, model):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("parsample.cli.main.sample", lambda *_, **__: fabricated(Status.CONVERGED))
    assert main(["sample", model, "--num-chains", "2"], owns_process=True) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path, model):
    def programs(*options: str) -> list[int]:
        arguments = ["sample", model, "--num-samples", "200", "--no-progress", *options]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[1] / "helpers"),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True, env=environment,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return [int(number) for number in done.stdout.splitlines()[-1].split()]

    code, _, _ = programs("--no-compilation-cache")
    assert code == 0
    assert not (tmp_path / "cache" / "parsample").exists()
    code, _, misses = programs()
    assert (code, misses > 0) == (0, True)
    code, hits, misses = programs("--seed", "3")
    assert (code, misses) == (0, 0)
    assert hits > 0


def test_sample_writes_draws_summary_and_pictures(capsys, tmp_path, model):
    out_file, pictures = tmp_path / "draws.nc", tmp_path / "pictures"
    arguments = ["--num-samples", "1000", "--method", "sequential", "--no-progress"]
    code = main(["sample", model, *SIZES, *arguments, "--out", str(out_file), "--plots", str(pictures)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    for words in ("x[left]", "x[right]", "y[0, 0]", "mean", "r_hat", "2 chains x 1000 draws, kernel hmc"):
        assert words in out
    assert "path               certified: evaluated step by step" in out
    assert f"draws: {out_file}" in out
    assert {path.name for path in pictures.iterdir()} == {"traces.png", "ranks.png"}
    with xarray.open_datatree(out_file, engine="h5netcdf") as tree:
        assert tree["posterior"]["x"].shape == (2, 1000, 2)
        assert tree["posterior"]["x"].dims == ("chain", "draw", "axis")
        assert tree.attrs["status"] == "SEQUENTIAL"
        assert abs(float(tree["posterior"]["x"][..., 0].std()) - 1) < 0.3


@pytest.mark.parametrize(
    ("arguments", "module"), [(("--out", "draws.zarr"), "zarr"), (("--plots", "pictures"), "matplotlib")]
)
def test_a_missing_extra_is_named_before_the_run(capsys, tmp_path, monkeypatch, model, arguments, module):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sample", model, *SIZES, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"needs {module}, which is not installed: pip install 'parsample[" in err


def test_starting_imports_no_library_that_takes_a_second():
    script = "import sys, parsample.cli; print(*{'arviz', 'blackjax', 'pandas', 'scipy', 'xarray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_seed_and_zarr(capsys, tmp_path, model):
    draws = {}
    for seed in ("1", "1", "2"):
        path = tmp_path / f"draws{seed}.zarr"
        arguments = ["--num-samples", "1000", "--method", "sequential", "--no-progress", "--seed", seed]
        assert main(["sample", model, *SIZES, *arguments, "--overwrite", "--out", str(path)]) == 0
        with xarray.open_datatree(path, engine="zarr") as tree:
            new = tree["posterior"]["x"].to_numpy()
        np.testing.assert_array_equal(draws.setdefault(seed, new), new)
    assert not (draws["1"] == draws["2"]).any()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("status", "interrupted", "problems", "code", "words"),
    [
        (Status.CONVERGED, False, [], 0, "certified: every step"),
        (Status.STALLED, False, [], 0, "in part step by step"),
        (Status.NON_FINITE, False, ["chains disagree"], 4, "NOT certified"),
        (Status.CONVERGED, False, ["chains disagree"], 5, "too few to judge; chains disagree"),
        (Status.CONVERGED, True, ["chains disagree"], 130, "(interrupted)"),
    ],
    ids=["converged", "stalled", "non_finite", "doubtful", "interrupted"],
)
def test_sample_says_in_its_exit_code_what_path_and_draws_are(
    monkeypatch, capsys, model, status, interrupted, problems, code, words
):
    result = fabricated(status, interrupted=interrupted, problems=problems)
    monkeypatch.setattr("parsample.cli.main.sample", lambda *_, **__: result)
    assert main(["sample", model, "--num-chains", "2", "--out", "draws.nc"]) == code
    out = capsys.readouterr().out
    assert words in out
    assert "divergences        7 of 200 steps" in out
    assert "draws: draws.nc" in out


TWO_MODES = """
import jax.numpy as jnp
def logdensity(x):
    return jnp.logaddexp(-0.5 * jnp.sum((x - 6) ** 2), -0.5 * jnp.sum((x + 6) ** 2))
initial_position = jnp.zeros(2)
settings = {"num_lanes": 8}
"""


def test_chains_that_disagree_have_an_exit_code_and_no_warning(capsys, tmp_path):
    path = tmp_path / "modes.py"
    path.write_text(TWO_MODES)
    command = ["sample", str(path), *SIZES, "--num-samples", "300", "--method", "sequential", "--no-progress"]
    assert main([*command, "--seed", "4"]) == 5
    out, err = capsys.readouterr()
    assert "path               certified: evaluated step by step" in out
    assert "chains disagree, do not use them" in out
    assert err == ""


def test_an_interrupt_before_any_draws_says_so(monkeypatch, capsys, model):
    def sample(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parsample.cli.main.sample", sample)
    assert main(["sample", model]) == 130
    assert capsys.readouterr() == ("", "parsample: interrupted before any draws were finished\n")


def test_settings_of_the_model_reach_the_sampler(monkeypatch, capsys, tmp_path):
    path = tmp_path / "with_settings.py"
    path.write_text(MODEL + 'settings = {"target_acceptance_rate": 0.95}\n')
    asked: list[dict] = []

    def check_sampler(*_: Any, **kwargs: Any) -> Report:
        asked.append(kwargs)
        return report(parallel=True)

    monkeypatch.setattr("parsample.cli.main.check_sampler", check_sampler)
    for arguments in ([], ["--kernel", "mala"], ["--target-acceptance-rate", "0.7"]):
        assert main(["check", str(path), *arguments]) == 0
    assert [settings.get("target_acceptance_rate") for settings in asked] == [0.95, None, 0.7]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("option", "expected"), [([], 2000), (["--num-warmup", "500"], 500)], ids=["from the model", "from the user"]
)
def test_warmup_of_the_model_holds_unless_the_user_says_otherwise(monkeypatch, tmp_path, option, expected):
    path = tmp_path / "with_warmup.py"
    path.write_text(MODEL + 'settings = {"num_warmup": 2000}\n')
    asked: dict[str, Any] = {}

    def check_sampler(*_: Any, **kwargs: Any) -> Report:
        asked.update(kwargs)
        return report(parallel=True)

    monkeypatch.setattr("parsample.cli.main.check_sampler", check_sampler)
    assert main(["check", str(path), *option]) == 0
    assert asked["num_warmup"] == expected


def test_lanes_and_method_come_from_the_user_or_else_from_the_model(monkeypatch, tmp_path):
    path = tmp_path / "with_lanes.py"
    path.write_text(MODEL + 'settings = {"num_lanes": 16, "method": "sequential"}\n')
    asked: list[dict] = []

    def record(*_: Any, **kwargs: Any) -> Report:
        asked.append(kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr("parsample.cli.main.sample", record)
    monkeypatch.setattr("parsample.cli.main.check_sampler", record)
    assert main(["sample", str(path)]) == 130
    assert main(["sample", str(path), "--num-lanes", "32", "--method", "deer"]) == 130
    assert main(["check", str(path)]) == 130
    assert [settings["num_lanes"] for settings in asked] == [16, 32, 16]
    assert [settings.get("method") for settings in asked] == ["sequential", "deer", None]


@pytest.fixture
def no_sampling(monkeypatch):
    def sample(*_: Any, **__: Any) -> None:
        pytest.fail("sampling was started")

    monkeypatch.setattr("parsample.samplers.sample.begin", sample)
    monkeypatch.setattr("parsample.samplers.placement.Ensemble", sample)


def assert_one_line(err: str, words: str) -> None:
    assert err.startswith("parsample: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.usefixtures("no_sampling")
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--out", "draws.csv", "must end in one of .nc, .zarr"),
        ("--out", "draws", "must end in one of .nc, .zarr"),
        ("--out", "missing/draws.nc", "there is no directory"),
        ("--out", "missing/draws.zarr", "there is no directory"),
        ("--out", "directory.nc", "is a directory that parsample did not write"),
        ("--out", "a_file.zarr", "is not a directory of draws, so it is not replaced"),
        ("--plots", "a_gaussian.py", "a_gaussian.py"),  # a file, not a directory
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_sampling(capsys, tmp_path, model, option, value, words):
    (tmp_path / "directory.nc").mkdir()
    (tmp_path / "a_file.zarr").touch()
    assert main(["sample", model, option, str(tmp_path / value)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_line(err, words)
    assert not (tmp_path / "missing").exists()


@pytest.mark.usefixtures("no_sampling")
@pytest.mark.parametrize(
    ("out", "option", "needed"),
    [
        ("draws.zarr", [], 217),  # 57 bytes for each of four million draws: 24 for the variables, 33 for statistics
        ("draws.zarr", ["--statistics", "lp", "--keep", "y"], 76),  # 8 for y, 8 for lp, 4 for the step size
        ("draws.nc", [], 435),  # twice: scratch files and output
    ],
)
def test_a_disk_that_is_too_small_is_refused_before_sampling(monkeypatch, capsys, tmp_path, model, out, option, needed):
    monkeypatch.setattr("parsample.draws.outputs.shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    arguments = ["--num-chains", "2", "--num-samples", "2000000", "--out", str(tmp_path / out)]
    assert main(["sample", model, *arguments, *option]) == 1
    assert_one_line(capsys.readouterr().err, f"{out}: these draws take {needed} MiB on the disk; 1 MiB are free")
    assert not list(tmp_path.glob("*draws*"))


def test_options_reach_the_sampler(monkeypatch, tmp_path, model):
    asked: list[dict] = []

    def record(*_: Any, **kwargs: Any) -> SampleResult:
        asked.append(kwargs)
        return fabricated(Status.CONVERGED)

    monkeypatch.setattr("parsample.cli.main.sample", record)
    ADAPTATION.save(tmp_path / "tuned.npz")
    command = "--thin 5 --keep x y --statistics --stop-at-ess 400 --overwrite --num-warmup 0 --out draws.nc"
    assert main(["sample", model, *command.split(), "--adaptation", str(tmp_path / "tuned.npz")]) == 0
    assert main(["sample", model]) == 0
    names = ("thin", "keep", "statistics", "stop_at", "overwrite", "out")
    assert [asked[0][name] for name in names] == [5, ["x", "y"], [], StopAt(400.0), True, Path("draws.nc")]
    assert asked[0]["num_warmup"] == 0
    np.testing.assert_array_equal(asked[0]["adaptation"].states, ADAPTATION.states)
    assert [asked[1][name] for name in names] == [1, None, None, None, False, None]
    assert asked[1]["adaptation"] is None


def in_store(path: Path) -> int:
    """Number of draws per chain in a store."""
    with xarray.open_datatree(path, engine="zarr") as tree:
        return tree["posterior"].sizes["draw"]


def test_a_run_on_disk_is_resumed_made_longer_and_replaced_only_if_asked(capsys, tmp_path, model):
    out = tmp_path / "draws.zarr"
    command = ["sample", model, "--num-chains", "2", "--method", "sequential", "--no-progress", "--out", str(out)]
    begun = [*command, "--num-samples", "200", "--thin", "2"]
    assert main([*begun, "--resume"]) == 0  # there is none yet
    assert in_store(out) == 200
    assert main(begun) == 1
    assert_one_line(capsys.readouterr().err, "or replace it by overwrite=True (--overwrite)")
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--num-samples", "300"]) == 0
    assert in_store(out) == 300
    assert f"stored in          {out}" in capsys.readouterr().out
    assert main([*begun, "--overwrite"]) == 0
    assert in_store(out) == 200
    for arguments, words in [
        (["--thin", "3"], f"--thin 3: the run in {out} was begun with 2; leave it out"),
        (["--num-samples", "50"], "already holds 200 draws per chain"),
    ]:
        assert main([*command, "--resume", *arguments]) == 1
        assert_one_line(capsys.readouterr().err, words)


@pytest.mark.usefixtures("no_sampling")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume"], "--resume needs --out DIR.zarr"),
        (["--resume", "--out", "draws.nc"], "--resume needs --out DIR.zarr"),
        (["--keep", "z"], "keep names ['z'], which are not variables of the model; these are: ['x', 'y']"),
        (["--statistics", "tree_depth"], "statistics names ['tree_depth']; those of kernel 'hmc' are lp"),
        (["--thin", "0"], "thin must be a whole number of at least 1; got 0"),
        (["--stop-at-ess", "0"], "StopAt: ess must be positive; got 0.0"),
        (["--adaptation", "a_gaussian.py"], "a_gaussian.py holds no adaptation"),
        (["--num-warmup", "0"], "num_warmup must be a whole number of at least 100; got 0"),
    ],
)
def test_options_that_cannot_be_are_refused_before_sampling(monkeypatch, capsys, tmp_path, model, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", model, *arguments]) == 1
    assert_one_line(capsys.readouterr().err, words)


@pytest.mark.parametrize("command", ["check", "sample"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no model file"),
        ("initial_position = 0.0", "defines no logdensity"),
        ("def logdensity(x): return x", "defines no initial_position"),
        ("def logdensity(x: return", "SyntaxError"),
        ("initial_position = logdensity = 0.0", "must be a function"),
        ("initial_position = 0\ndef logdensity(x): return x", "initial_position has dtype int"),
    ],
)
def test_an_unusable_model_is_one_line_on_stderr(capsys, tmp_path, command, text, words):
    path = tmp_path / "unusable.py"
    if text is not None:
        path.write_text(text)
    assert main([command, str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_line(err, words)


def test_a_bad_number_is_one_line_on_stderr(capsys, model):
    assert main(["sample", model, "--num-samples", "0"]) == 1
    assert_one_line(capsys.readouterr().err, "num_samples must be a whole number of at least 1; got 0")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["sample", "--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["check"], 2),
        (["sample", "model.py", "--kernel", "gibbs"], 2),
        (["sample", "model.py", "--kernels", "hmc"], 2),
        (["check", "model.py", "--kernels", "hmc", "gibbs"], 2),
        (["check", "model.py", "--kernels", "hmc", "--kernel", "nuts"], 2),
        (["sample", "model.py", "--num-samples", "many"], 2),
    ],
)
def test_command_lines_that_run_nothing(capsys, arguments, code):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert ("parsample" in out, "usage: parsample" in err) == (code == 0, code == 2)


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "parsample", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"parsample {__version__}\n", "")
