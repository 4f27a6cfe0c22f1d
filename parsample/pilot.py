"""A short run of a chain that tells how it forgets.

A few chains from independent keys, each with a tangent carried along, give the Lyapunov exponent; then they are paired,
both of a pair restarted with the same key, and watched until they meet.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from parsample.coalescence import Coalescence, coalesce, unit_of
from parsample.compilation import outermost_jit
from parsample.deer import solve
from parsample.grid import Team
from parsample.lyapunov import batch_means, log_growth
from parsample.solution import DEER
from parsample.status import Status
from parsample.sweep import default_tolerance
from parsample.transition import Dynamics, Vector

# Restarted paths, each followed together with its partner from another state.
NUM_RESTARTS = 6

# What tells the pilot's keys from the chain's.
PILOT = 0x9A9A


class Pilot(NamedTuple):
    """What the pilot saw.

    Attributes
    ----------
    lle, lle_se
        Largest Lyapunov exponent and its standard error, nats per step.
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


@outermost_jit(0, 1, 2)
def run_pilot(
    dynamics: Dynamics,
    num_growth: int,
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

    def grow(start: Vector, key_chain: Array, key_tangent: Array) -> tuple[Array, Array]:
        transition, inputs = dynamics(parameters, key_chain, num_growth)
        return log_growth(transition, start, inputs, key_tangent)

    num_paths = starts.shape[0]
    keys = (jax.random.split(key_chains, num_paths), jax.random.split(key_tangents, num_paths))
    growth, paths = jax.vmap(grow)(starts, *keys)
    # The first half is for leaving the start and for tangents to turn into the leading direction.
    lle, lle_se = batch_means(growth[:, num_growth // 2 :], num_batches=2)
    ends = paths[:, -1]
    if scale is None:
        scale = unit_of(paths[:, num_growth // 2 :].reshape(-1, starts.shape[1]))
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
