"""The No-U-Turn sampler with trees that grow in lockstep in all lanes: BlackJAX's chain at lower cost.

A step doubles its trajectory, forwards or backwards at random, until it turns (Hoffman & Gelman 2014), iteratively
(Phan et al. 2019, Lao et al. 2020), with the multinomial weights and criterion of Betancourt 2017. Keys, random
numbers and decisions equal those of ``blackjax.nuts`` with a unit metric. Unlike there, all lanes share the counters of
doublings and leapfrog steps, so that hardly any value of a finished lane needs a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from parsample.chain.transition import Vector
from parsample.internal.threefry import unrolled
from parsample.internal.trees import entry, select, write
from parsample.kernels.base import DIVERGENCE_THRESHOLD, LaneState, LogDensity, Statistics, any_lane, with_move
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

# BlackJAX's default.
MAX_DOUBLINGS = 10


class Point(NamedTuple):
    """An end of a trajectory."""

    position: Vector
    momentum: Vector
    logdensity_grad: Vector


class Proposal(NamedTuple):
    """A state drawn from a trajectory with probability in proportion to exp(-energy).

    Attributes
    ----------
    state, energy
        The state, and its total energy.
    log_weight
        Log of the sum of exp(initial energy - energy) over the trajectory.
    log_sum_acceptance
        Log of the sum of min(1, exp(initial energy - energy)).
    """

    state: LaneState
    energy: Float[Array, ""]
    log_weight: Float[Array, ""]
    log_sum_acceptance: Float[Array, ""]


class Tree(NamedTuple):
    """An unfinished step of a lane; only `depth` is common to all lanes.

    Attributes
    ----------
    depth
        Number of doublings begun, in any lane.
    left, right, momentum_sum
        Ends of the trajectory, and the sum of its momenta.
    proposal
        Result of the step if the trajectory ends here.
    num_doublings, num_states
        Number of doublings, and of new states, in this lane.
    is_diverging, is_done
        Whether the last doubling diverged; whether this lane's step is finished.
    checkpoints
        Momentum and sum of momenta at the first leaf of balanced subtrees, shape (doublings, 2, D).
    """

    depth: Int[Array, ""]
    left: Point
    right: Point
    momentum_sum: Vector
    proposal: Proposal
    num_doublings: Int[Array, ""]
    num_states: Int[Array, ""]
    is_diverging: Bool[Array, ""]
    is_done: Bool[Array, ""]
    checkpoints: Float[Array, "M 2 D"]


class Subtree(NamedTuple):
    """The states that double a tree; only `length` is common to all lanes.

    Attributes
    ----------
    length
        Number of leapfrog steps done, in any lane.
    tip, momentum_sum
        Last point of the subtree, and the sum of its momenta.
    candidate
        A state drawn from the subtree.
    num_states
        Number of states in this lane.
    is_diverging, is_growing
        Whether the last leapfrog step diverged; whether this lane's subtree still grows.
    checkpoints
        As in `Tree`.
    """

    length: Int[Array, ""]
    tip: Point
    momentum_sum: Vector
    candidate: Proposal
    num_states: Int[Array, ""]
    is_diverging: Bool[Array, ""]
    is_growing: Bool[Array, ""]
    checkpoints: Float[Array, "M 2 D"]


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler in whitened coordinates."""

    name: str = "nuts"
    statistics: tuple[str, ...] = ("lp", "acceptance_rate", "diverging", "n_steps", "energy", "tree_depth")
    target_acceptance_rate: float = 0.8  # Stan's
    uses_gradient: bool = True

    def num_integration_steps(self, step_size: float) -> Int[np.ndarray, " P"]:
        """Maximum number of leapfrog steps in each step of a period: those of `MAX_DOUBLINGS` doublings.

        Each tree determines its own number of steps, which may be smaller. A maximum below 2^k - 1 allows fewer than
        k doublings.
        """
        del step_size
        return np.full(PERIOD, 2**MAX_DOUBLINGS - 1, np.int32)

    def step(
        self,
        key_data: Array,
        state: LaneState,
        t: Int[Array, ""],
        phase: Int[Array, ""],
        needs_evaluation: Bool[Array, ""],
        logdensity_fn: LogDensity,
        parameters: KernelParameters,
    ) -> tuple[LaneState, Statistics]:
        """A multishift move (at `MOVE_STEPS` of a period), then a NUTS step."""
        scale, value_and_grad = parameters.move_scales[phase], jax.value_and_grad(logdensity_fn)
        state, move_acceptance = with_move(key_data, t, state, scale, needs_evaluation, value_and_grad)
        key = jax.random.fold_in(unrolled(key_data), t)
        # Trees of k doublings have 2^k - 1 leapfrog steps: k is the position of the leading bit of their number plus 1.
        max_doublings = 31 - jax.lax.clz(parameters.num_integration_steps[phase] + 1)
        state, statistics = nuts_step(key, state, logdensity_fn, parameters.step_size, max_doublings)
        return state, statistics._replace(move_acceptance=move_acceptance)


def nuts_step(
    key: Array,
    state: LaneState,
    logdensity_fn: Callable[[Vector], Float[Array, ""]],
    step_size: Float[Array, ""],
    max_doublings: Int[Array, ""] | int = MAX_DOUBLINGS,
) -> tuple[LaneState, Statistics]:
    """One NUTS step with a unit metric; lanes along the axis `LANES` take their steps in lockstep.

    Parameters
    ----------
    key
        Key of the step, used as in ``blackjax.nuts``.
    state
        Flat position, with its log density and gradient.
    logdensity_fn
        Log density of a flat position.
    step_size
        Size of a leapfrog step.
    max_doublings
        Maximum number of doublings, the same for all lanes, at most `MAX_DOUBLINGS`.
    """
    key_momentum, key = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, state.position.shape, state.position.dtype)
    energy = _energy(state.logdensity, momentum)
    value_and_grad = jax.value_and_grad(logdensity_fn)

    def doubled(tree: Tree) -> Tree:
        keys = jax.random.split(jax.random.fold_in(key, tree.depth), 3)
        direction = jnp.where(jax.random.bernoulli(keys[0]), 1, -1).astype(momentum.dtype)
        subtree = _build_subtree(tree, keys[1], energy, value_and_grad, direction, step_size)
        return _merge_subtree(tree, subtree, direction, keys[2])

    tree = jax.lax.while_loop(
        lambda tree: (tree.depth < max_doublings) & any_lane(~tree.is_done),
        doubled,
        _init_tree(state, momentum, energy),
    )
    return tree.proposal.state, Statistics(
        lp=tree.proposal.state.logdensity,
        acceptance_rate=jnp.exp(tree.proposal.log_sum_acceptance) / tree.num_states.astype(energy.dtype),
        diverging=tree.is_diverging,
        n_steps=tree.num_states,
        energy=tree.proposal.energy,
        tree_depth=tree.num_doublings,
        move_acceptance=jnp.full_like(energy, -1),
    )


def _init_tree(state: LaneState, momentum: Vector, energy: Float[Array, ""]) -> Tree:
    """The tree before its first doubling."""
    here = Point(state.position, momentum, state.logdensity_grad)
    proposal = Proposal(state, energy, jnp.zeros_like(energy), jnp.full_like(energy, -jnp.inf))
    checkpoints = jnp.zeros((MAX_DOUBLINGS, 2, *momentum.shape), momentum.dtype)
    zero, no = jnp.int32(0), jnp.asarray(False)
    return Tree(zero, here, here, momentum, proposal, zero, zero, no, no, checkpoints)


def _build_subtree(
    tree: Tree,
    key: Array,
    initial_energy: Float[Array, ""],
    value_and_grad: Callable,
    direction: Float[Array, ""],
    step_size: Float[Array, ""],
) -> Subtree:
    """Grow a subtree until it is as long as the tree, diverges or turns."""
    edge = select(direction > 0, tree.right, tree.left)
    directed = direction * step_size
    no, zero = jnp.asarray(False), jnp.int32(0)
    empty = Subtree(zero, edge, edge.momentum, tree.proposal, zero, no, ~tree.is_done, tree.checkpoints)

    def extend(subtree: Subtree) -> Subtree:
        tip, leaf = _leapfrog(subtree.tip, directed, value_and_grad, initial_energy)
        is_first, growing = subtree.length == 0, subtree.is_growing
        # The first leaf is always drawn, each later one in proportion to its weight.
        probability = jax.scipy.special.expit(leaf.log_weight - subtree.candidate.log_weight)
        drawn = _draw(jax.random.fold_in(key, subtree.length), probability, subtree.candidate, leaf)
        momentum_sum = jnp.where(is_first, tip.momentum, subtree.momentum_sum + tip.momentum)
        checkpoints = _checkpointed(subtree, tip.momentum, momentum_sum)
        is_turning = _turns_back(subtree, checkpoints, tip.momentum, momentum_sum)
        is_diverging = -leaf.log_weight > DIVERGENCE_THRESHOLD
        return Subtree(
            length=subtree.length + 1,
            tip=tip,
            momentum_sum=momentum_sum,
            candidate=select(growing, select(is_first, leaf, drawn), subtree.candidate),
            num_states=subtree.num_states + growing.astype(jnp.int32),
            is_diverging=jnp.where(growing, is_diverging, subtree.is_diverging),
            is_growing=growing & ~is_diverging & ~is_turning,
            checkpoints=checkpoints,
        )

    return jax.lax.while_loop(
        lambda subtree: (subtree.length < 1 << tree.depth) & any_lane(subtree.is_growing), extend, empty
    )


def _leapfrog(
    tip: Point, directed: Float[Array, ""], value_and_grad: Callable, initial_energy: Float[Array, ""]
) -> tuple[Point, Proposal]:
    """The next point of a subtree, and the proposal that consists of this leaf alone."""
    momentum = tip.momentum + 0.5 * directed * tip.logdensity_grad
    position = tip.position + directed * momentum
    logdensity, gradient = value_and_grad(position)
    momentum = momentum + 0.5 * directed * gradient
    energy = _energy(logdensity, momentum)
    log_weight = initial_energy - energy
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    leaf = Proposal(LaneState(position, logdensity, gradient), energy, log_weight, jnp.minimum(log_weight, 0))
    return Point(position, momentum, gradient), leaf


def _checkpointed(subtree: Subtree, momentum: Vector, momentum_sum: Vector) -> Float[Array, "M 2 D"]:
    """The checkpoints, with the new leaf if it begins a balanced subtree, as every other leaf does."""
    place = jnp.bitwise_count(subtree.length >> 1).astype(int)
    new = jnp.stack([momentum, momentum_sum])
    old = entry(subtree.checkpoints, place)
    return write(subtree.checkpoints, jnp.where(subtree.length % 2 == 0, new, old), place)


def _turns_back(
    subtree: Subtree, checkpoints: Float[Array, "M 2 D"], momentum: Vector, momentum_sum: Vector
) -> Bool[Array, ""]:
    """Whether any balanced subtree that ends with the new leaf turns."""
    n = subtree.length
    last = jnp.bitwise_count(n >> 1).astype(int)
    num_subtrees = jnp.bitwise_count((~n & (n + 1)) - 1).astype(int)

    def checked(loop: tuple[Array, Array]) -> tuple[Array, Array]:
        place, turns = loop
        first_momentum, sum_to_first = entry(checkpoints, place)
        total = momentum_sum - sum_to_first + first_momentum
        return place - 1, turns | _is_turning(first_momentum, momentum, total)

    _, turns = jax.lax.while_loop(
        lambda loop: (loop[0] > last - num_subtrees) & any_lane(~loop[1] & subtree.is_growing),
        checked,
        (last, jnp.asarray(False)),
    )
    return turns


def _merge_subtree(tree: Tree, subtree: Subtree, direction: Float[Array, ""], key: Array) -> Tree:
    """The tree joined with a finished subtree; a finished tree keeps its proposal and statistics."""
    # `is_growing` at the end means that the subtree reached full length; only then is its momentum sum complete. Lanes
    # that were already done are masked below.
    is_whole = subtree.is_growing
    forward = direction > 0
    left, right = select(forward, (tree.left, subtree.tip), (subtree.tip, tree.right))
    momentum_sum = tree.momentum_sum + subtree.momentum_sum
    turns = _is_turning(left.momentum, right.momentum, momentum_sum)
    probability = jnp.minimum(jnp.exp(subtree.candidate.log_weight - tree.proposal.log_weight), 1)
    drawn = _draw(key, probability, tree.proposal, subtree.candidate)
    proposal = select(is_whole, drawn, tree.proposal)._replace(log_sum_acceptance=drawn.log_sum_acceptance)
    return Tree(
        depth=tree.depth + 1,
        left=left,
        right=right,
        momentum_sum=momentum_sum,
        proposal=select(tree.is_done, tree.proposal, proposal),
        num_doublings=tree.num_doublings + (~tree.is_done).astype(jnp.int32),
        num_states=tree.num_states + subtree.num_states,
        is_diverging=jnp.where(tree.is_done, tree.is_diverging, subtree.is_diverging),
        is_done=tree.is_done | ~is_whole | turns,
        checkpoints=subtree.checkpoints,
    )


def _draw(key: Array, probability: Float[Array, ""], old: Proposal, new: Proposal) -> Proposal:
    """The new proposal with this probability, else the old one, with the summed weights of both."""
    taken = select(jax.random.bernoulli(key, probability), new, old)
    return taken._replace(
        log_weight=jnp.logaddexp(old.log_weight, new.log_weight),
        log_sum_acceptance=jnp.logaddexp(old.log_sum_acceptance, new.log_sum_acceptance),
    )


def _is_turning(left: Vector, right: Vector, total: Vector) -> Bool[Array, ""]:
    """The generalised criterion: the sum of momenta, less half of those at both ends, points against one end."""
    inner = total - (left + right) / 2
    return (jnp.sum(left * inner) <= 0) | (jnp.sum(right * inner) <= 0)


def _energy(logdensity: Float[Array, ""], momentum: Vector) -> Float[Array, ""]:
    return -logdensity + 0.5 * jnp.sum(momentum * momentum)
