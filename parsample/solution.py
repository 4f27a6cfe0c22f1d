"""What is asked of a solve, and what it answers: settings, path and certificate."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.corrections import Correction, Newton
from parsample.linearize import Dense, Linearization, Zero
from parsample.status import Status
from parsample.sweep import Tolerance, default_tolerance
from parsample.transition import Inputs, Transition, Vector, rollout
from parsample.validation import checked_count


@dataclass(frozen=True)
class DEER:
    """Settings of block DEER; as ``method=`` it asks for this very parallel evaluation.

    Attributes
    ----------
    block_size
        Steps per block, 1 to T.
    linearization
        `Dense`, `Diagonal`, `Identity` or `Zero`.
    correction
        How block starts are corrected: `Newton`, or another rule.
    atol, rtol
        Two states count as the same where ``|difference| <= atol * scale + rtol * |state|``: `atol` in standard
        deviations of the chain. None: 1e-10 in float64 and 1e-5 in float32; 8 units of rounding.
    max_iters
        Stop, with status MAX_ITERS, after this many sweeps. None: never short of the right path.
    stall_after
        Number of sweeps beyond which a sequential evaluation is cheaper; when the path is not to be had within it,
        the rest is evaluated sequentially. None: a quarter of C / (1 + tangents), at least 16.
    clip
        Bound on the spectral norm of each A, for the correction only, in sweeps where some block would otherwise be
        led further than `max_step`, and in all after 16 of these (or if `max_step` is None); None: no bound.
    max_step
        Bound on a correction, in standard deviations of the chain; None: no bound.
    """

    block_size: int = 1
    linearization: Linearization = field(default_factory=Dense)
    atol: float | None = None
    rtol: float | None = None
    max_iters: int | None = None
    stall_after: int | None = None
    clip: float | None = 1.0
    max_step: float | None = 8.0
    correction: Correction = field(default_factory=Newton)

    def __post_init__(self) -> None:
        for name in ("block_size", "max_iters", "stall_after"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked_count(name, value))
        for name in ("atol", "rtol", "clip", "max_step"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative; got {value!r}.")
        if isinstance(self.linearization, type) or not isinstance(self.linearization, Linearization):
            raise TypeError(
                f"linearization must be Dense(), Diagonal(), Identity() or Zero(); got {self.linearization!r}."
            )
        if isinstance(self.correction, type) or not isinstance(self.correction, Correction):
            raise TypeError(f"correction must be Newton(), or another rule; got {self.correction!r}.")

    @property
    def is_fixed_point(self) -> bool:
        """Whether a block simply starts where the one before it ended, unless it starts near enough already."""
        return isinstance(self.linearization, Zero) and isinstance(self.correction, Newton)

    def tolerance(self, scale: Vector) -> Tolerance:
        """The tolerance in these settings, for a chain of this scale."""
        return default_tolerance(scale, self.atol, self.rtol)


@dataclass(frozen=True)
class Sequential:
    """As ``method=``, asks for the step-by-step evaluation."""


class Solution(NamedTuple):
    """A path and its certificate.

    Attributes
    ----------
    states
        States after each step, leading axis T.
    outputs
        Outputs of each step, leading axis T (None for a plain recursion).
    final
        The carry after the last step.
    block_ends
        Reduced states at the block ends, shape (C, D).
    status
        A `Status` value.
    defect
        Largest jump of the path off the chain's own recursion, in standard deviations of the chain. 0: the path is
        bitwise one chain.
    num_iters
        Sweeps run.
    evals_per_step
        Evaluations of f per step of the chain, each tangent counted as one; the floor is 1.
    defect_history
        Largest defect between blocks after each sweep, NaN beyond `num_iters`.
    merit_history
        Half the sum of all squared defects between blocks in each sweep, in units of the state; NaN beyond
        `num_iters`. With blocks of one step the merit function of Gonzalez et al., arXiv 2508.16817.
    prefix_history
        Leading steps within tolerance after each sweep; 0 beyond `num_iters`.
    exact_prefix
        Leading steps found by sweeps; the whole of T unless the solve stalled or stopped.
    block_defects
        Defect of each block after each of the first sweeps, shape (sweeps, C).
    """

    states: PyTree
    outputs: PyTree
    final: PyTree
    block_ends: Float[Array, "C D"]
    status: Int[Array, ""]
    defect: Float[Array, ""]
    num_iters: Int[Array, ""]
    evals_per_step: Float[Array, ""]
    defect_history: Float[Array, " H"]
    merit_history: Float[Array, " H"]
    prefix_history: Int[Array, " H"]
    exact_prefix: Int[Array, ""]
    block_defects: Float[Array, "F C"]


def rolled_out(transition: Transition, start: Vector, inputs: Inputs) -> Solution:
    """The chain step by step, with its certificate; of its states nothing is kept but whether all were finite."""

    def step(carry: tuple[Any, Array], driven: Any) -> tuple[tuple[Any, Array], Any]:
        state, output = transition.step(carry[0], driven)
        return (state, carry[1] & jnp.isfinite(transition.reduce(state)).all()), output

    watched = Transition(
        lambda start: (transition.restore(start), jnp.asarray(True)), step, lambda carry: transition.reduce(carry[0])
    )
    (final, is_finite), _, outputs = rollout(watched, start, inputs)
    return sequential_solution(transition.reduce(final), is_finite, inputs.num_steps, outputs, final)


def sequential_solution(
    end: Vector, is_finite: Bool[Array, ""] | bool, num_steps: int, outputs: PyTree, final: PyTree
) -> Solution:
    """The certificate of a rollout: its path is the chain's own by definition. The path itself is not kept."""
    one = jnp.ones((), end.dtype)
    return Solution(
        states=None,
        outputs=outputs,
        final=final,
        block_ends=end[None],
        status=jnp.where(is_finite, int(Status.SEQUENTIAL), int(Status.NON_FINITE)),
        defect=0 * one,
        num_iters=jnp.asarray(0),
        evals_per_step=one,
        defect_history=jnp.zeros((0,), end.dtype),
        merit_history=jnp.zeros((0,), end.dtype),
        prefix_history=jnp.zeros((0,), int),
        exact_prefix=jnp.asarray(num_steps),
        block_defects=jnp.zeros((0, 1), end.dtype),
    )
