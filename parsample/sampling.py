"""`sample`: from a log density to certified draws."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from tqdm.auto import tqdm

from parsample.check import Report, examine
from parsample.deer import DEER, Sequential, Solution, solve
from parsample.kernels import (
    KERNELS,
    TARGET_ACCEPTANCE,
    Draw,
    KernelDynamics,
    KernelParameters,
    Layout,
)
from parsample.plan import MIN_MEETINGS_PER_BLOCK, MIN_STEPS, Plan, sequential_plan, slowest_meeting
from parsample.run import Method, checked_method, parallel_method
from parsample.status import Status, report
from parsample.transition import rollout
from parsample.validation import checked_choice, checked_count, checked_logdensity, checked_position
from parsample.warmup import MIN_WARMUP, Adaptation, warmup

# A window holds at most this many bytes of draws, so that memory is the output and little more.
MAX_WINDOW_BYTES = 64 * 2**20

# What a window should take: long enough to be efficient, short enough for progress and interruption.
WINDOW_SECONDS = 1.0


class WindowRecord(NamedTuple):
    """What happened in one window of a run; arrays have one entry per chain.

    Attributes
    ----------
    status, defect, num_iters, evals_per_step
        As in `parsample.Solution`.
    block_defects
        Defect of each block after each of the first sweeps, shape (chains, sweeps, blocks); None if sequential.
    block_size
        Steps per block; the whole window if sequential.
    seconds
        Wall time, compilation of the first window included.
    """

    status: np.ndarray
    defect: np.ndarray
    num_iters: np.ndarray
    evals_per_step: np.ndarray
    block_defects: np.ndarray | None
    block_size: int
    seconds: float


@dataclass(frozen=True)
class SampleResult:
    """Draws, what is known of them, and their certificate.

    Attributes
    ----------
    positions
        The user's pytree, every leaf with leading axes (chain, draw).
    sample_stats
        Statistics of each draw under ArviZ's names, each of shape (chain, draw).
    adaptation
        What the warm-up found.
    report
        What the check found; None if none was run.
    plan
        The evaluation that was planned.
    windows
        What happened, window by window.
    settings
        The arguments of `sample`, and versions.
    seconds
        Wall time of warm-up, check and sampling, compilation included.
    interrupted
        Whether the run was stopped early; the draws are those finished by then.
    """

    positions: PyTree
    sample_stats: dict[str, np.ndarray]
    adaptation: Adaptation
    report: Report | None
    plan: Plan
    windows: list[WindowRecord]
    settings: dict[str, Any]
    seconds: dict[str, float]
    interrupted: bool = field(default=False)

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return self.sample_stats["lp"].shape[1]

    @property
    def status(self) -> Status:
        """The worst status of any window and chain."""
        return max(Status(int(status)) for window in self.windows for status in window.status)

    @property
    def defect(self) -> float:
        """Largest jump of any chain off its own recursion, in posterior standard deviations."""
        return max((float(window.defect.max()) for window in self.windows), default=math.nan)

    @property
    def evals_per_step(self) -> float:
        """Evaluations of the transition per step, over all windows."""
        return float(np.mean([window.evals_per_step.mean() for window in self.windows]))

    @property
    def certificate(self) -> str:
        """One line that says whether these are the kernel's own chains."""
        work = f"{self.evals_per_step:.2f} evaluations per step"
        if self.status is Status.NON_FINITE:
            return f"NOT certified: {self.status.message}"
        if not self.status.is_exact:
            return f"NOT certified: {self.status.message}; largest defect {self.defect:.1e} posterior sd"
        if all((window.status == Status.SEQUENTIAL).all() for window in self.windows):
            return "certified: evaluated step by step, 1 evaluation per step"
        if self.defect == 0:
            what = "largest defect 0: bitwise one chain"
        else:
            what = f"largest defect {self.defect:.1e} posterior sd"
        how = "in part step by step, " if self.status is Status.STALLED else ""
        return f"certified: the chain a step-by-step run gives, {what}, {how}{work}"

    def to_arviz(
        self,
        *,
        dims: dict[str, list[str]] | None = None,
        coords: dict[str, Any] | None = None,
        constrain: Callable | None = None,
    ) -> Any:
        """The draws as an ArviZ `xarray.DataTree`; see `parsample.export.to_arviz`."""
        from parsample.export import to_arviz

        return to_arviz(self, dims=dims, coords=coords, constrain=constrain)


def sample(
    rng_key: Array,
    logdensity_fn: Callable,
    initial_position: PyTree,
    *,
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int = 4,
    kernel: str = "hmc",
    method: Method = "auto",
    target_acceptance_rate: float | None = None,
    progress_bar: bool = True,
) -> SampleResult:
    """Draw samples from a log density.

    Parameters
    ----------
    rng_key
        One key; the draws depend on it, the log density, the start and the kernel, not on `method`.
    logdensity_fn
        ``logdensity_fn(position) -> scalar``, up to a constant, in JAX. Where it is NaN or infinite a proposal is rejected.
    initial_position
        Pytree of floating-point arrays; chains start near it, dispersed by uniform noise on (-1, 1).
    num_samples, num_warmup, num_chains
        Draws per chain, warm-up steps per chain (at least 100; not returned), and chains.
    kernel
        "hmc" (trajectory lengths that vary in a fixed cycle), "nuts" or "mala"; all in whitened coordinates.
    method
        "auto": in parallel if `parsample.check` says that it pays; "deer": in parallel; "sequential"; or `parsample.DEER`
        or `parsample.Sequential` settings.
    target_acceptance_rate
        What the step size is tuned to. None: 0.8 for hmc and nuts, 0.574 for mala.
    progress_bar
        Whether to show progress. An interrupt (Ctrl-C) ends the run and returns what is finished.

    Returns
    -------
    SampleResult

    Raises
    ------
    ValueError, TypeError
        For unusable arguments, before anything long runs.

    Warns
    -----
    ParallelStallWarning
        If the chains will not be, or were not, evaluated in parallel.
    """
    checked_count("num_samples", num_samples)
    checked_count("num_warmup", num_warmup, MIN_WARMUP)
    checked_count("num_chains", num_chains)
    checked_choice("kernel", kernel, KERNELS)
    resolved = checked_method(method, num_samples)
    target = TARGET_ACCEPTANCE[kernel] if target_acceptance_rate is None else target_acceptance_rate
    if not 0 < target < 1:
        raise ValueError(f"target_acceptance_rate must lie between 0 and 1; got {target_acceptance_rate!r}.")
    position = checked_position(initial_position)
    checked_logdensity(logdensity_fn, position)
    layout = Layout.of(position)
    dynamics = KernelDynamics(logdensity_fn, layout, kernel)
    if isinstance(resolved, DEER) and resolved.block_size % dynamics.period and resolved.block_size < num_samples:
        raise ValueError(
            f"block_size={resolved.block_size} must be a multiple of {dynamics.period}, the period of the trajectory "
            f"lengths of kernel={kernel!r}, so that all blocks take steps of the same length at the same time."
        )
    key_warmup, key_check, key_chains = jax.random.split(rng_key, 3)

    clock = _Clock()
    start = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(position)])
    adaptation = jax.block_until_ready(warmup(dynamics, key_warmup, start, num_warmup, num_chains, target))
    clock.lap("warmup")
    settings = {
        "kernel": kernel,
        "num_samples": num_samples,
        "num_warmup": num_warmup,
        "num_chains": num_chains,
        "target_acceptance_rate": target,
        "dtype": str(start.dtype),
        "device": jax.devices()[0].device_kind,
    }
    found, plan = _planned(resolved, dynamics, adaptation, key_check, num_samples, num_chains)
    clock.lap("check")
    chain_keys = jax.random.split(key_chains, num_chains)
    store = _Store(num_chains, num_samples)
    windows, interrupted = _run(dynamics, adaptation, chain_keys, plan, found, store, progress_bar)
    clock.lap("sampling")
    result = SampleResult(
        positions=layout.unravel(store.arrays["position"]),
        sample_stats={name: array for name, array in store.arrays.items() if name != "position"},
        adaptation=jax.device_get(adaptation),
        report=found,
        plan=plan,
        windows=windows,
        settings=settings,
        seconds=clock.seconds,
        interrupted=interrupted,
    )
    report(result.status, f" (largest defect {result.defect:.2g})")
    return result


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def _planned(
    method: Method, dynamics: KernelDynamics, adaptation: Adaptation, rng_key: Array, num_samples: int, num_chains: int
) -> tuple[Report | None, Plan]:
    """The report of the check, if one is called for, and the plan that follows from it and from `method`."""
    plan = sequential_plan(num_samples, num_chains)
    if isinstance(method, Sequential) or (method == "auto" and num_samples < MIN_STEPS):
        return None, plan
    if isinstance(method, DEER):
        return None, _with_method(plan, method)
    states = adaptation.draws.reshape(-1, adaptation.draws.shape[-1])
    found = examine(
        dynamics,
        adaptation.parameters,
        states[:: max(1, states.shape[0] // 64)],
        rng_key,
        num_samples,
        num_chains=num_chains,
        period=dynamics.period,
        scale=jnp.ones_like(states[0]),
    )
    if method == "auto":
        found.warn(stacklevel=4)
        return found, found.plan
    settings = parallel_method(found.plan.fallback, num_samples)
    period = dynamics.period
    block_size = min(-(-settings.block_size // period) * period, max(num_samples, 1))
    return found, _with_method(found.plan, DEER(**{**vars(settings), "block_size": block_size}))


def _with_method(plan: Plan, method: DEER) -> Plan:
    num_blocks = -(-plan.num_steps // method.block_size)
    return Plan(**{**vars(plan), "method": method, "num_blocks": num_blocks, "seconds": math.nan})


class _Store:
    """The output: one host array per field of a draw, allocated when the first window shows its shapes."""

    def __init__(self, num_chains: int, num_samples: int) -> None:
        self.num_chains, self.num_samples = num_chains, num_samples
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, first: int, draws: Draw) -> None:
        for name, values in zip(draws._fields, draws, strict=True):
            if name not in self.arrays:
                self.arrays[name] = np.empty((self.num_chains, self.num_samples, *values.shape[2:]), values.dtype)
            last = min(first + values.shape[1], self.num_samples)
            self.arrays[name][:, first:last] = np.asarray(values)[:, : last - first]

    def truncate(self, num_draws: int) -> None:
        self.arrays = {name: array[:, :num_draws] for name, array in self.arrays.items()}


def _run(
    dynamics: KernelDynamics,
    adaptation: Adaptation,
    chain_keys: Array,
    plan: Plan,
    found: Report | None,
    store: _Store,
    progress_bar: bool,
) -> tuple[list[WindowRecord], bool]:
    """Run all windows, one after another, from the host."""
    windows: list[WindowRecord] = []
    interrupted = False
    with tqdm(total=plan.num_chains * plan.num_steps, unit="draw", unit_scale=True, disable=not progress_bar) as bar:
        try:
            for first, draws, record in _windows(dynamics, adaptation, chain_keys, plan, found):
                store.put(first, draws)
                windows.append(record)
                bar.set_postfix_str(_progress(record))
                bar.update(plan.num_chains * (min(first + draws.lp.shape[1], plan.num_steps) - first))
        except KeyboardInterrupt:
            if not windows:
                raise
            interrupted = True
            store.truncate(min(plan.num_steps, sum(draws_of(record) for record in windows)))
    return windows, interrupted


def draws_of(record: WindowRecord) -> int:
    """Draws per chain in a window."""
    return record.block_size * (1 if record.block_defects is None else record.block_defects.shape[-1])


def _progress(record: WindowRecord) -> str:
    if record.block_defects is None:
        return "step by step"
    return f"{int(record.num_iters.max())} sweeps, defect {float(record.defect.max()):.1e}"


def _windows(
    dynamics: KernelDynamics,
    adaptation: Adaptation,
    chain_keys: Array,
    plan: Plan,
    found: Report | None,
) -> Iterator[tuple[int, Draw, WindowRecord]]:
    """The chains, window by window: first step, draws of shape (chains, steps, ...), and what happened.

    A window that stalls is the last one tried in blocks.
    """
    states, method = adaptation.states, plan.method
    guesses = jnp.swapaxes(adaptation.draws, 0, 1)
    first = 0
    window = _window_shape(plan, found, dynamics.period, states.shape[1] * states.dtype.itemsize)
    while first < plan.num_steps:
        begin = time.perf_counter()
        if isinstance(method, DEER):
            settings = DEER(**{**vars(method), "block_size": window[1]})
            solution, guesses = _solve_window(
                dynamics, settings, window[0], adaptation.parameters, chain_keys, states, guesses, first
            )
            states, draws = solution.final, solution.outputs
        else:
            states, draws = _roll_window(dynamics, window[0] * window[1], adaptation.parameters, chain_keys, states, first)
            solution = None
        draws = jax.device_get(draws)
        record = _record(solution, plan.num_chains, window, time.perf_counter() - begin, draws)
        yield first, draws, record
        first += window[0] * window[1]
        if (record.status == Status.STALLED).any():
            method = Sequential()


def _window_shape(plan: Plan, found: Report | None, period: int, bytes_per_draw: int) -> tuple[int, int]:
    """Blocks per chain and steps per block of every window: equal windows, none much longer than the memory allows."""
    total = plan.num_chains * plan.num_steps * (bytes_per_draw + 64)
    pieces = max(1, -(-total // MAX_WINDOW_BYTES))
    if not isinstance(plan.method, DEER):
        expected = plan.sequential_seconds
        pieces = max(pieces, min(50, plan.num_steps // MIN_STEPS) if math.isnan(expected) else int(expected / WINDOW_SECONDS))
        return 1, _multiple(plan.num_steps, pieces, period)
    block_size = plan.method.block_size
    if found is not None and np.isfinite(found.coalescence).all():
        meeting = slowest_meeting(found.coalescence, plan.num_blocks * plan.num_chains)
        most = max(1, int(block_size // (2 * MIN_MEETINGS_PER_BLOCK * meeting)))
        pieces = max(pieces, min(most, int(np.nan_to_num(plan.seconds) / WINDOW_SECONDS)))
        return plan.num_blocks, _multiple(block_size, pieces, period)
    # Explicit settings are taken at their word: whole blocks, fewer of them per window where memory asks for it.
    return -(-plan.num_blocks // pieces), block_size


def _multiple(length: int, pieces: int, period: int) -> int:
    """The length of equal pieces, rounded up to whole periods."""
    return max(1, -(-length // (pieces * period))) * period


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve_window(
    dynamics: KernelDynamics,
    method: DEER,
    num_blocks: int,
    parameters: KernelParameters,
    chain_keys: Array,
    states: Float[Array, "K D"],
    guesses: Float[Array, "n K D"],
    first: Array,
) -> tuple[Solution, Float[Array, "n K D"]]:
    """One window of all chains in blocks, and the states at its block starts as guesses for the next window."""
    num_steps = num_blocks * method.block_size
    rows = jnp.linspace(0, guesses.shape[0] - 1, num_blocks).astype(int)

    def one(chain_key: Array, state: Array, block_starts: Array) -> tuple[Solution, Array]:
        transition, inputs = dynamics(parameters, chain_key, num_steps, first)
        solution = solve(
            transition,
            state,
            inputs,
            method,
            block_starts=block_starts,
            scale=jnp.ones_like(state),
            axis_name="chains",
        )
        next_guesses = solution.states[method.block_size - 1 :: method.block_size]
        return solution._replace(states=None, final=transition.reduce(solution.final)), next_guesses

    starts = jnp.swapaxes(guesses[rows], 0, 1)
    solution, next_guesses = jax.vmap(one, axis_name="chains")(chain_keys, states, starts)
    return solution, jnp.swapaxes(next_guesses, 0, 1)


@partial(jax.jit, static_argnums=(0, 1))
def _roll_window(
    dynamics: KernelDynamics,
    num_steps: int,
    parameters: KernelParameters,
    chain_keys: Array,
    states: Float[Array, "K D"],
    first: Array,
) -> tuple[Float[Array, "K D"], Draw]:
    """One window of all chains, step by step."""

    def one(chain_key: Array, state: Array) -> tuple[Array, Draw]:
        transition, inputs = dynamics(parameters, chain_key, num_steps, first)
        final, _, draws = rollout(transition, state, inputs)
        return transition.reduce(final), draws

    return jax.vmap(one)(chain_keys, states)


def _record(
    solution: Solution | None, num_chains: int, window: tuple[int, int], seconds: float, draws: Draw
) -> WindowRecord:
    if solution is not None:
        kept = jax.device_get(solution._replace(outputs=None, final=None))
        return WindowRecord(
            kept.status, kept.defect, kept.num_iters, kept.evals_per_step, kept.block_defects, window[1], seconds
        )
    finite = np.isfinite(draws.position).all((1, 2))
    status = np.where(finite, Status.SEQUENTIAL, Status.NON_FINITE)
    ones = np.ones(num_chains)
    return WindowRecord(status, 0 * ones, ones.astype(int), ones, None, window[0] * window[1], seconds)
