"""After a solve: finish a stalled path step by step, give every process the whole path, and warn."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from parsample.chain.transition import Inputs, Transition
from parsample.internal.compilation import is_traced, is_transformed
from parsample.internal.processes import on_first_device, replicated
from parsample.internal.trees import write
from parsample.solver.grid import Grid
from parsample.solver.solution import Solution
from parsample.solver.status import Status, warn_of


def finish(transition: Transition, inputs: Inputs, solution: Solution, block_size: int) -> Solution:
    """Complete a stalled path step by step from the end of its exact prefix; return any other solution unchanged.

    This is not part of `newton.solve`, because it is rarely needed and takes as long to compile as a sweep, and because
    XLA would treat devices that wait for the one that runs it as lost.
    """
    num_steps, keeps_states = inputs.num_steps, solution.states is not None

    def advance(loop: tuple) -> tuple:
        t, carry, finite, states, outputs = loop
        carry, output = transition.step(carry, inputs.at(t))
        state = transition.reduce(carry)
        states, outputs = write((states, outputs), (state if keeps_states else None, output), t)
        return t + 1, carry, finite & jnp.isfinite(state).all(), states, outputs

    first = jnp.where(solution.status == int(Status.STALLED), solution.exact_prefix, num_steps)
    _, final, finite, states, outputs = jax.lax.while_loop(
        lambda loop: loop[0] < num_steps,
        advance,
        (first, solution.final, jnp.asarray(True), solution.states, solution.outputs),
    )
    solution = solution._replace(
        states=states,
        outputs=outputs,
        final=final,
        status=jnp.where(finite, solution.status, int(Status.NON_FINITE)),
    )
    if keeps_states:
        ends = states[Grid(num_steps, block_size).places_last()]
        solution = solution._replace(block_ends=jnp.where(first < num_steps, ends, solution.block_ends))
    return solution


def completed(solution: Solution, mesh: Mesh | None, finish_it: Callable[[Solution], Solution]) -> Solution:
    """The solution of a program around `newton.solve` on `mesh`, replicated in every process and finished if stalled.

    `finish_it` runs the program around `finish`, which is compiled only once a path stalls. The status of a traced
    solution is not known, so `finish_it` is always part of a traced program.
    """
    if is_traced(solution.status):
        return finish_it(on_first_device(mesh, solution))
    solution = replicated(mesh, solution)
    has_stalled = (jax.device_get(solution.status) == Status.STALLED).any()
    return finish_it(on_first_device(mesh, solution)) if has_stalled else solution


def warn_of_solution(solution: Solution) -> None:
    """Warn of a solution as `warn_of` does, unless a transformation hides its values."""
    if not is_transformed():
        status, defect = jax.device_get((solution.status, solution.defect))
        warn_of(Status(int(status)), f" (defect {float(defect):.2g})")
