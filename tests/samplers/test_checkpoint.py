"""Checkpoints: the arguments of a run come back, and what differs is named with its remedy."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from results import ADAPTATION
from small import MODEL, SIZES, small

from parsample import Model, StopAt
from parsample.draws.run_store import checkpoint_of
from parsample.internal.records import from_bytes
from parsample.kernels import KERNELS
from parsample.samplers.checkpoint import FUNCTION, REMEDIES, Beginning, arguments_of, identity, read
from parsample.samplers.kept import Kept
from parsample.samplers.prepare import Start
from parsample.samplers.settings import SamplerSettings

BEGIN = Start()


def kept(model: Model = MODEL, **arguments: Any) -> Kept:
    return Kept.of(model, jnp.zeros(3), KERNELS["hmc"], **arguments)


def beginning(start: Start = BEGIN, **arguments: Any) -> Beginning:
    settings = SamplerSettings.of(num_samples=60, num_chains=2, num_lanes=8, thin=3)
    return Beginning.of_run(jax.random.key(7), MODEL, settings, kept(**arguments), start, None)


@pytest.mark.parametrize("start", [BEGIN, Start(ADAPTATION, per_chain=True)])
def test_a_beginning_comes_back(start):
    begun = beginning(start, keep=["x"], stop_at=StopAt(ess=100))
    found = Beginning.of(*read(begun.to_bytes({"later": 1}, {"more": np.zeros(3)}), None))
    assert found.identity == begun.identity
    assert found.arguments == json.loads(json.dumps(begun.arguments))
    np.testing.assert_array_equal(found.key_data, jax.random.key_data(jax.random.key(7)))
    names = ("num_samples", "thin", "keep", "num_lanes", "starts_per_chain", "reduces")
    assert [found.arguments[name] for name in names] == [60, 3, ["x"], None, start.per_chain, False]
    assert StopAt(**found.arguments["stop_at"]) == StopAt(ess=100)
    assert (found.adaptation is None) is (start.adaptation is None)
    if found.adaptation is not None:
        np.testing.assert_array_equal(found.adaptation.states, ADAPTATION.states)
        assert found.adaptation.kernel == ADAPTATION.kernel


def test_functions_are_only_remembered():
    assert beginning(keep=lambda variables: variables).arguments["keep"] == FUNCTION


@pytest.mark.parametrize("name", list(REMEDIES))
def test_each_difference_is_named_with_its_remedy(name):
    begun = beginning()
    assert begun.identity.keys() == REMEDIES.keys()
    begun.check("run.zarr", begun.identity)
    with pytest.raises(ValueError, match=rf"run\.zarr: the run had another {name}.*: "):
        begun.check("run.zarr", {**begun.identity, name: "another"})


def test_identities_differ_where_models_do():
    same = identity(MODEL, kept())
    assert same == identity(MODEL.replace(name="other", constrain=MODEL.constrain), kept())

    def differences(model: Model, **arguments: Any) -> set[str]:
        other = identity(model, kept(model, **arguments))
        return {name for name in same if same[name] != other[name]}

    assert differences(MODEL.replace(logdensity=lambda x: -jnp.sum(x**4))) == {"model"}
    assert differences(MODEL, keep=["x"]) == {"variables"}


def test_the_checkpoint_of_a_run_holds_all_that_is_needed(tmp_path):
    out = Path(tmp_path, "run.zarr")
    result = small(MODEL, out=out, thin=2)
    assert arguments_of(out) == {
        "num_samples": 60,
        "num_warmup": 100,
        "num_chains": 2,
        "kernel": "hmc",
        "method": "sequential",
        "target_acceptance_rate": 0.8,
        "exact_meeting": True,
        "num_lanes": SIZES["num_lanes"],
        "thin": 2,
        "keep": None,
        "statistics": list(KERNELS["hmc"].statistics),
        "reduces": False,
        "stop_at": None,
        "starts_per_chain": False,
        "log_likelihood": False,
    }
    header, arrays = from_bytes(checkpoint_of(out))
    assert (header["num_draws"], header["num_steps_done"]) == (60, 128)
    assert arrays["watch.thinned"].shape == (2, 120, 3)
    assert header["seconds"].keys() == result.seconds.keys()
    assert arrays["states.0"].shape == (2, 3)
    np.testing.assert_array_equal(arrays["parameters.step_size"], result.adaptation.parameters.step_size)
    np.testing.assert_array_equal(arrays["adaptation.states"], result.adaptation.states)
    assert arrays["tail.0"].shape == (2, 8, 3)
