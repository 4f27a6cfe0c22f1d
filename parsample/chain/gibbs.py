"""Gibbs samplers as recursions, by conditionals that are functions of fixed random variates.

A sweep updates the blocks of a state one after another, each from its conditional given all others. Drawn as functions
of variates whose distribution does not depend on the state (a normal as mean + sd z, a gamma as g / rate), updates are
differentiable, and the sampler is a state space model like any other (Zoltowski et al., arXiv 2508.18413).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from parsample.internal.validation import checked_count, checked_key

State = dict[str, Any]


class Conditional(NamedTuple):
    """How one block of a Gibbs sampler's state is drawn.

    Attributes
    ----------
    variate
        ``variate(rng_key)``: random numbers whose distribution does not depend on the state.
    update
        ``update(state, variate)``: the block's new value, given the latest values of all blocks.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> conditional = parsample.Conditional(
    ...     variate=jax.random.normal, update=lambda state, z: 0.5 * state["y"] + 0.75**0.5 * z
    ... )
    >>> float(conditional.update({"x": 0.0, "y": 2.0}, 0.0))
    1.0
    """

    variate: Callable[[Array], PyTree]
    update: Callable[[State, PyTree], PyTree]


class Gibbs:
    """A Gibbs sampler: ``step`` for `parsample.deer` and its relatives, and `variates` for its inputs.

    Parameters
    ----------
    conditionals
        A `Conditional` for every block of the state, by name, in the order in which they are updated.

    Raises
    ------
    ValueError, TypeError
        If `conditionals` is empty, or not a mapping to instances of `Conditional`.

    Examples
    --------
    A bivariate normal with correlation 0.5, in blocks of 20 steps:

    >>> import jax, jax.numpy as jnp, parsample
    >>> gibbs = parsample.Gibbs(
    ...     {
    ...         "x": parsample.Conditional(jax.random.normal, lambda state, z: 0.5 * state["y"] + 0.75**0.5 * z),
    ...         "y": parsample.Conditional(jax.random.normal, lambda state, z: 0.5 * state["x"] + 0.75**0.5 * z),
    ...     }
    ... )
    >>> start = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    >>> variates = gibbs.variates(jax.random.key(0), 1000)
    >>> parsample.deer(gibbs.step, start, variates, block_size=20).states["x"].shape
    (1000,)
    """

    def __init__(self, conditionals: Mapping[str, Conditional]) -> None:
        if not isinstance(conditionals, Mapping):
            raise TypeError(f"conditionals must map names to a Conditional each; got {conditionals!r}.")
        if not conditionals:
            raise ValueError("conditionals must hold at least one Conditional.")
        for name, conditional in conditionals.items():
            if not isinstance(conditional, Conditional):
                raise TypeError(f"conditionals[{name!r}] must be a Conditional; got {conditional!r}.")
        self.conditionals = dict(conditionals)

    def step(self, state: State, variates: State) -> State:
        """One sweep through all blocks.

        Parameters
        ----------
        state
            The value of every block, by name.
        variates
            The variates of this step, by name of the block.

        Returns
        -------
        The new state.

        Raises
        ------
        ValueError
            If the names of the state's blocks differ from those of the conditionals.
        """
        if set(state) != set(self.conditionals):
            raise ValueError(
                f"the state has blocks {sorted(state)}; there are conditionals of {list(self.conditionals)}."
            )
        for name, conditional in self.conditionals.items():
            state = {**state, name: conditional.update(state, variates[name])}
        return state

    def variates(self, rng_key: Array, num_steps: int) -> State:
        """Variates of `num_steps` steps.

        Parameters
        ----------
        rng_key
            Key of the draws.
        num_steps
            Number of steps T.

        Returns
        -------
        Variates by name of the block, with leading axis T.
        """
        keys = jax.random.split(checked_key(rng_key), checked_count("num_steps", num_steps))

        def draw(key: Array) -> State:
            of_blocks = jax.random.split(key, len(self.conditionals))
            return {name: each.variate(k) for k, (name, each) in zip(of_blocks, self.conditionals.items(), strict=True)}

        return jax.vmap(draw)(keys)
