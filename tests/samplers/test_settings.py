"""Settings of `sample`: each bad one is refused, by name and value, before a warm-up starts."""

import math
import re

import numpy as np
import pytest
from chains import isotropic
from refusals import COUNTS, quietly, refused, refuses
from runs import KEY, assert_same_draws, run

from parsample import DEER, Sequential, Status, Zero, check_sampler


def test_sequential_settings_are_the_method_of_that_name():
    assert run("hmc", Sequential()).status is Status.SEQUENTIAL
    assert_same_draws(run("hmc", Sequential()), run("hmc", "sequential"), tolerance=0)


@pytest.mark.usefixtures("no_warmup")
@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("num_samples", 0, "whole number of at least 1"),
        ("num_samples", -3, "whole number of at least 1"),
        ("num_samples", 10.5, "whole number of at least 1"),
        ("num_samples", True, "whole number of at least 1"),
        ("num_samples", "1000", "whole number of at least 1"),
        ("num_chains", 0, "whole number of at least 1"),
        ("num_chains", 2.0, "whole number of at least 1"),
        ("num_warmup", 0, "whole number of at least 100"),
        ("num_warmup", 99, "whole number of at least 100"),
        ("kernel", "gibbs", "one of 'hmc', 'nuts', 'mala', 'metropolis'"),
        ("kernel", None, "one of 'hmc', 'nuts', 'mala', 'metropolis'"),
        ("method", "parallel", "one of 'auto', 'deer', 'sequential'"),
        ("num_lanes", 0, "whole number of at least 1"),
        ("method", 3, "one of 'auto', 'deer', 'sequential'"),
        ("target_acceptance_rate", 0.0, "between 0 and 1"),
        ("target_acceptance_rate", 1.0, "between 0 and 1"),
        ("target_acceptance_rate", "0.8", "between 0 and 1"),
        ("target_acceptance_rate", [0.8], "between 0 and 1"),
        ("method", ["auto"], "one of 'auto', 'deer', 'sequential'"),
        ("target_acceptance_rate", 80, "between 0 and 1"),
        ("target_acceptance_rate", math.nan, "between 0 and 1"),
    ],
)
def test_a_bad_setting_is_refused_with_name_value_and_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=rf"{name} must .*{remedy}.*; got {re.escape(repr(value))}\.$"):
        refused(**{name: value})


@pytest.mark.usefixtures("no_warmup")
def test_explicit_blocks_belong_to_the_solver_not_to_the_sampler():
    with pytest.raises(ValueError, match=r"method must be one of 'auto', 'deer', 'sequential'; got DEER"):
        refused(method=DEER(64, Zero()))


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("value", COUNTS)
@pytest.mark.parametrize("name", ["num_samples", "num_chains", "num_warmup"])
def test_counts_of_sample(name, value):
    minimum = 100 if name == "num_warmup" else 1
    with refuses(ValueError, f"{name} must be a whole number of at least {minimum}; got {value!r}"):
        quietly(isotropic, np.zeros(2), **{name: value})


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("value", [value for value in COUNTS if value is not None])  # its default
def test_numbers_of_lanes(value):
    with refuses(ValueError, f"num_lanes must be a whole number of at least 1; got {value!r}"):
        quietly(isotropic, np.zeros(2), num_lanes=value)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("value", [1, 0.0, "yes", None])
def test_exact_meeting_is_a_flag(value):
    with refuses(TypeError, f"exact_meeting must be True or False; got {value!r}"):
        quietly(isotropic, np.zeros(2), exact_meeting=value)
    with refuses(TypeError, f"exact_meeting must be True or False; got {value!r}"):
        check_sampler(KEY, isotropic, np.zeros(2), exact_meeting=value)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("adaptation", "run.zarr", "adaptation must be an Adaptation, .*Adaptation.load"),
        ("stop_at", 100, r"stop_at must be a StopAt, such as parsample.StopAt\(ess=400\); got 100"),
        ("keep", 3, "keep must be names of variables, or a function of a dict of variables; got 3"),
        ("statistics", 3, "statistics must be a sequence of names; got 3"),
        ("out", 3, "out must be a path, as str or pathlib.Path; got 3"),
        ("scratch_dir", 3, "scratch_dir must be a path, as str or pathlib.Path; got 3"),
        ("overwrite", "yes", "overwrite must be True or False; got 'yes'"),
        ("progress_bar", "no", "progress_bar must be True or False; got 'no'"),
    ],
)
def test_objects_of_another_type(name, value, words):
    with pytest.raises(TypeError, match=words):
        quietly(isotropic, np.zeros(2), **{name: value})


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", ["gibbs", "HMC", None])
def test_unknown_kernels(name):
    with refuses(ValueError, "kernel must be one of 'hmc', 'nuts', 'mala', 'metropolis'; got", repr(name)):
        quietly(isotropic, np.zeros(2), kernel=name)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, np.nan])
def test_target_acceptance_rates(rate):
    with refuses(ValueError, "target_acceptance_rate must lie between 0 and 1; got"):
        quietly(isotropic, np.zeros(2), target_acceptance_rate=rate)
