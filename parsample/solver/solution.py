"""The result of a solve: a path and its certificate."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from parsample.chain.transition import Inputs, Transition, Vector, rollout
from parsample.solver.status import Status


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
        Largest jump between the end of a block and the state from which the next one goes on, or between a path and the
        older one that continues it, in standard deviations of the chain. The step after a jump may magnify it. 0: the
        path follows the recursion bitwise.
    num_iters
        Sweeps run.
    evals_per_step
        Evaluations of f divided by the steps of the chain, each tangent counted as one; at least 1. Evaluations in
        blocks that go beyond the last step are included.
    defect_history
        Largest defect between blocks after each sweep; -1 beyond `num_iters`.
    merit_history
        Half the sum of all squared defects between blocks in each sweep, in units of the state; -1 beyond
        `num_iters`. With blocks of one step, this is the merit function of Gonzalez et al., arXiv 2508.16817.
    prefix_history
        Leading steps within tolerance after each sweep; 0 beyond `num_iters`.
    exact_prefix
        Leading steps found by sweeps; T unless the solve stalled or stopped early.
    block_defects
        Defect of each block after each of the first sweeps, shape (sweeps, C); -1 beyond `num_iters`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> solution = parsample.deer(lambda s, u: 0.5 * s + u, jnp.zeros(()), jnp.ones(100))
    >>> solution.states.shape, int(solution.exact_prefix)
    ((100,), 100)
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
    """The chain evaluated step by step, with its certificate; states are not kept, only whether all were finite."""

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
    """The certificate of a rollout, whose path is the chain's own by definition; the path is not kept."""
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
