"""A short run of a chain that tells how it forgets.

A few chains from independent keys, each with a tangent carried along, give the Lyapunov exponent; then they are paired,
both of a pair restarted with the same key, and watched until they meet.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from parsample.coalescence import Coalescence, coalesce, unit_of
from parsample.compilation import outermost_jit
from parsample.deer import solve
from parsample.grid import Team
from parsample.linearize import push_forward
from parsample.solution import DEER
from parsample.status import Status
from parsample.sweep import default_tolerance
from parsample.transition import Dynamics, Transition, Vector

# Restarted paths, each followed together with its partner from another state.
NUM_RESTARTS = 6

# Tangents have turned into the leading direction when what they may still miss is below this share of the exponent, or
# below its standard error.
BIAS_SHARE = 0.1

# Angles between tangents have not changed if cosines differ by no more than so many units of rounding.
ROUNDINGS = 1000

# What tells the pilot's keys from the chain's.
PILOT = 0x9A9A


class Pilot(NamedTuple):
    """What the pilot saw.

    Attributes
    ----------
    lle, lle_se
        Largest Lyapunov exponent and its standard error, nats per step; what tangents that have not turned may miss is
        a part of the error.
    coalescence
        Meeting times and distances of restarted paths.
    num_run
        Steps of the coalescence run.
    scale
        Standard deviation of the pilot's states, shape (D,).
    ends
        States at the end of the independent chains, shape (2 R, D): guesses for block starts.
    """

    lle: Float[Array, ""]
    lle_se: Float[Array, ""]
    coalescence: Coalescence
    num_run: Array
    scale: Vector
    ends: Float[Array, "R D"]

    @property
    def is_clearly_negative(self) -> bool:
        """Whether the exponent is below 0 by two standard errors."""
        return bool(self.lle + 2 * self.lle_se < 0)


class Alignment(NamedTuple):
    """Growth of tangents over the last window of a path, and how far they had turned when it began.

    Attributes
    ----------
    growth
        Mean log growth of the tangents over the window, nats per step.
    bias
        Most by which the exponent may exceed `growth`: the part of the leading direction that the tangents missed, nats
        per step.
    state
        Reduced state at the end.
    path
        Reduced states of the first steps, shape (n, D).
    """

    growth: Float[Array, ""]
    bias: Float[Array, ""]
    state: Vector
    path: Float[Array, "n D"]


def aligned_growth(
    transition: Transition,
    start: Vector,
    inputs: Callable[[Array], Any],
    rng_key: Array,
    num_steps: int,
    is_enough: Callable[[Array, Array, Array], Array],
) -> Alignment:
    """Growth of two tangents of a path over windows that end at `num_steps`, twice as many steps, and so on.

    A tangent grows with the leading exponent once it has turned into the leading direction, and slower before. Two
    tangents that started apart and point the same way have turned: a window that begins when the cosine between them is
    c misses at most ``-log c`` of the leading growth. Tangents whose angle never changes see the same growth in every
    direction, and miss nothing.

    Parameters
    ----------
    transition, start, inputs
        The chain, its reduced initial state, and what drives step t.
    rng_key
        Key of the tangents.
    num_steps
        Steps of the first window, which is not measured.
    is_enough
        ``is_enough(growth, bias, steps)``: whether to stop after a window.
    """
    directions = jax.random.normal(rng_key, (2, start.shape[0]), start.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1)[:, None]
    carry, tangents, _ = push_forward(lambda x: (transition.restore(x), None), start, [directions])

    def advance(t: Array, loop: tuple) -> tuple:
        carry, tangents, lengths, total, path = loop
        carry, tangents, _ = push_forward(lambda c: transition.step(c, inputs(t)), carry, tangents)
        state, images, _ = push_forward(lambda c: (transition.reduce(c), None), carry, tangents)
        new = jnp.linalg.norm(images[0], axis=-1)
        # Rescaling by a power of two is exact: a step that changes nothing adds exactly 0.
        mantissa, exponent = jnp.frexp(new)
        tangents = jax.tree.map(lambda leaf: jnp.ldexp(leaf, -exponent.reshape(-1, *[1] * (leaf.ndim - 1))), tangents)
        total = total + jnp.log(new / jnp.where(lengths > 0, lengths, 1)).mean()
        path = jnp.where(jnp.arange(num_steps)[:, None] == t, state, path)
        return carry, tangents, mantissa, total, path

    def cosine(carry: PyTree, tangents: list) -> Array:
        images = push_forward(lambda c: (transition.reduce(c), None), carry, tangents)[1][0]
        norms = jnp.linalg.norm(images, axis=-1)
        return jnp.abs(jnp.sum(images[0] * images[1])) / jnp.maximum(norms[0] * norms[1], jnp.finfo(start.dtype).tiny)

    def window(loop: tuple) -> tuple:
        t, before, run, *_ = loop
        end = jnp.maximum(2 * t, num_steps)
        run = jax.lax.fori_loop(t, end, advance, (*run[:3], jnp.zeros_like(run[3]), run[4]))
        after, length = cosine(*run[:2]), end - t
        turns = jnp.abs(after - before) > ROUNDINGS * jnp.finfo(start.dtype).eps
        missing = jnp.where(turns, -jnp.log(jnp.clip(before, jnp.finfo(start.dtype).eps, 1)), 0)
        growth, bias = run[3] / length, missing / length
        # The first window is for leaving the start, and for turning.
        return end, after, run, growth, bias, (t > 0) & is_enough(growth, bias, end)

    zero = jnp.zeros((), start.dtype)
    path = jnp.zeros((num_steps, start.shape[0]), start.dtype)
    run = (carry, tangents, jnp.linalg.norm(directions, axis=1), zero, path)
    begin = (jnp.asarray(0), zero, run, zero, zero, jnp.asarray(False))
    _, _, run, growth, bias, _ = jax.lax.while_loop(lambda loop: ~loop[5], window, begin)
    return Alignment(growth, bias, transition.reduce(run[0]), run[4])


@outermost_jit(0, 1, 2, 3)
def run_pilot(
    dynamics: Dynamics,
    num_growth: int,
    most_growth: int,
    num_meeting: int,
    parameters: Any,
    starts: Float[Array, "N D"] | Vector,
    rng_key: Array,
    scale: Vector | None,
) -> Pilot:
    """Independent chains with tangents, then their last states in pairs that share a key."""
    # Folded first: the first keys that `rng_key` splits into are the chain's own.
    key_chains, key_tangents, key_pairs = jax.random.split(jax.random.fold_in(rng_key, PILOT), 3)
    starts = jnp.atleast_2d(starts)
    starts = starts[jnp.arange(2 * NUM_RESTARTS) % starts.shape[0]]

    num_paths, half = starts.shape[0], num_growth // 2

    def is_enough(growth: Array, bias: Array, steps: Array) -> Array:
        lle, errors = jax.lax.pmean(growth, "paths"), growth - jax.lax.pmean(growth, "paths")
        lle_se = jnp.sqrt(jax.lax.pmean(errors**2, "paths") / (num_paths - 1))
        is_known = jax.lax.pmean(bias, "paths") <= jnp.maximum(lle_se, BIAS_SHARE * jnp.abs(lle))
        return is_known | (2 * steps > most_growth)

    def grow(start: Vector, key_chain: Array, key_tangent: Array) -> Alignment:
        transition, inputs = dynamics(parameters, key_chain, most_growth)
        return aligned_growth(transition, start, inputs.at, key_tangent, half, is_enough)

    keys = (jax.random.split(key_chains, num_paths), jax.random.split(key_tangents, num_paths))
    found = jax.vmap(grow, axis_name="paths")(starts, *keys)
    lle, bias = found.growth.mean(), found.bias.mean()
    lle_se = jnp.sqrt(jnp.square(found.growth.std(ddof=1)) / num_paths + jnp.square(bias))
    ends = found.state
    if scale is None:
        scale = unit_of(found.path[:, half // 2 :].reshape(-1, starts.shape[1]))
    tolerance = default_tolerance(scale)
    # Paths that part on average, as far as is known, need not be watched for long.
    most = jnp.where(lle > 0, num_meeting // 4, num_meeting)

    def meet(pair: Float[Array, "2 D"], key_pair: Array) -> tuple[Coalescence, Array]:
        transition, inputs = dynamics(parameters, key_pair, num_meeting)
        return coalesce(transition, pair, inputs, tolerance, stop_early=True, max_steps=most, team=Team(chains="pairs"))

    pairs = ends.reshape(-1, 2, ends.shape[1])
    met, num_run = jax.vmap(meet, axis_name="pairs")(pairs, jax.random.split(key_pairs, pairs.shape[0]))
    coalescence = Coalescence(met.times[:, 0], met.distances[:, :, 0].T)
    return Pilot(lle, lle_se, coalescence, num_run[0], scale, ends)


@outermost_jit(0, 4, 5)
def _newton_trial(
    dynamics: Dynamics, parameters: Any, start: Vector, rng_key: Array, settings: DEER, num_steps: int
) -> Array:
    transition, inputs = dynamics(parameters, rng_key, num_steps)
    solution = solve(transition, start, inputs, settings)
    return jnp.where(solution.status == int(Status.CONVERGED), solution.num_iters, jnp.inf)


def newton_sweeps(
    dynamics: Dynamics,
    parameters: Any,
    start: Float[Array | np.ndarray, " D"],
    rng_key: Array,
    settings: DEER,
    num_steps: int,
) -> float:
    """Sweeps that `settings` take on a path of `num_steps` steps; inf if they stall."""
    return float(_newton_trial(dynamics, parameters, start, rng_key, settings, num_steps))
