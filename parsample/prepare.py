"""What is settled before the sampler's chains run: arguments checked, warm-up done, evaluation planned."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from parsample.check import Report, examine, lowerings
from parsample.compilation import compiling
from parsample.conditions import Conditions
from parsample.costs import StepCosts, checked_costs, known_costs, remember_costs
from parsample.grid import Team, ceil_div, mesh_of, round_up
from parsample.kernels import KERNELS, TARGET_ACCEPTANCE, KernelDynamics, Layout
from parsample.plan import MIN_STEPS, Plan, sequential_plan
from parsample.processes import agreed
from parsample.run import Method, checked_method, parallel_method
from parsample.solution import DEER, Sequential
from parsample.validation import (
    checked_choice,
    checked_count,
    checked_key,
    checked_logdensity,
    checked_position,
    checked_rate,
)
from parsample.warmup import MIN_WARMUP, Adaptation, warmup


@dataclass(frozen=True)
class Prepared:
    """Everything that is settled before the chains run."""

    dynamics: KernelDynamics
    adaptation: Adaptation
    method: Method
    mesh: Mesh | None
    costs: StepCosts | None
    key_check: Array
    key_chains: Array
    settings: dict[str, Any]
    clock: "_Clock"


def prepare(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    num_samples: int,
    num_warmup: int,
    num_chains: int,
    kernel: str,
    method: Method,
    target_acceptance_rate: float | None,
    devices: Sequence[jax.Device] | None,
    costs: StepCosts | None,
) -> Prepared:
    """Check the arguments of `sample`, then warm up."""
    checked_count("num_samples", num_samples)
    checked_count("num_warmup", num_warmup, MIN_WARMUP)
    checked_count("num_chains", num_chains)
    checked_choice("kernel", kernel, KERNELS)
    resolved = checked_method(method, num_samples)
    target = checked_rate("target_acceptance_rate", target_acceptance_rate, TARGET_ACCEPTANCE[kernel])
    mesh = mesh_of(devices)
    rng_key, position = agreed(mesh, (checked_key(rng_key), checked_position(initial_position)))
    checked_logdensity(logdensity_fn, position)
    dynamics = KernelDynamics(logdensity_fn, Layout.of(position), kernel)
    if isinstance(resolved, DEER) and resolved.block_size % dynamics.period and resolved.block_size < num_samples:
        raise ValueError(
            f"block_size={resolved.block_size} must be a multiple of {dynamics.period}, the period of the trajectory "
            f"lengths of kernel={kernel!r}, so that all blocks take steps of the same length at the same time."
        )
    key_warmup, key_check, key_chains = jax.random.split(rng_key, 3)
    clock = _Clock()
    start = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(position)])
    conditions = Conditions.of(dynamics, start, num_samples, num_chains, mesh)
    costs = checked_costs(costs, conditions, Team(mesh=mesh).num_devices) or known_costs((dynamics, conditions, mesh))
    warming = (dynamics, key_warmup, start, num_warmup, num_chains, target)
    checked = not isinstance(resolved, DEER | Sequential) and (resolved == "deer" or num_samples >= MIN_STEPS)
    ahead = _checks_ahead(warming, key_check, num_samples, mesh) if checked and costs is None else []
    with compiling(partial(warmup.lower, *warming), *ahead) as compiled:
        compiled[0].result()
        adaptation = agreed(mesh, jax.block_until_ready(warmup(*warming)))
    clock.lap("warmup")
    settings = {
        "kernel": kernel,
        "num_samples": num_samples,
        "num_warmup": num_warmup,
        "num_chains": num_chains,
        "target_acceptance_rate": float(target),
        "dtype": str(start.dtype),
        "device": jax.devices()[0].device_kind,
        "num_devices": Team(mesh=mesh).num_devices,
    }
    return Prepared(dynamics, adaptation, resolved, mesh, costs, key_check, key_chains, settings, clock)


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def planned(prepared: Prepared, num_samples: int, num_chains: int) -> tuple[Report | None, Plan]:
    """The report of the check, if one is called for, and the plan that follows from it and from `method`."""
    method, dynamics, adaptation = prepared.method, prepared.dynamics, prepared.adaptation
    plan = sequential_plan(num_samples, num_chains)
    if isinstance(method, Sequential) or (method == "auto" and num_samples < MIN_STEPS):
        return None, plan
    if isinstance(method, DEER):
        return None, _with_method(plan, method)
    starts = _pilot_starts(adaptation)
    found = examine(
        dynamics,
        adaptation.parameters,
        starts,
        prepared.key_check,
        num_samples,
        num_chains=num_chains,
        period=dynamics.period,
        scale=jnp.ones_like(starts[0]),
        costs=prepared.costs,
        mesh=prepared.mesh,
    )
    if prepared.costs is None:
        conditions = Conditions.of(dynamics, starts[0], num_samples, num_chains, prepared.mesh)
        remember_costs((dynamics, conditions, prepared.mesh), found.costs)
    if method == "auto":
        return found, found.plan
    settings = parallel_method(found.plan.fallback, num_samples)
    period = dynamics.period
    return found, _with_method(found.plan, replace(settings, block_size=round_up(settings.block_size, period)))


def _pilot_starts(adaptation: Adaptation) -> Array:
    states = adaptation.draws.reshape(-1, adaptation.draws.shape[-1])
    return states[:: max(1, states.shape[0] // 64)]


def _checks_ahead(warming: tuple, key_check: Array, num_samples: int, mesh: Mesh | None) -> list[Callable[[], Any]]:
    """What lowers the check's programmes, to be compiled beside the warm-up, from the shapes of what that will find."""
    dynamics, _, start, _, num_chains, _ = warming
    shapes = warmup.eval_shape(*warming)
    starts = jax.eval_shape(_pilot_starts, shapes)
    return lowerings(
        dynamics, shapes.parameters, starts, key_check, num_samples, num_chains=num_chains, scale=start, mesh=mesh
    )


def _with_method(plan: Plan, method: DEER) -> Plan:
    num_blocks = ceil_div(plan.num_steps, method.block_size)
    return replace(plan, method=method, num_blocks=num_blocks, seconds=math.nan)
