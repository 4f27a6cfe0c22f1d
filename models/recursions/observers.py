"""Observers of chaotic flows: copies of a flow, driven by part of its state; they are predictable, the flow is not.

The observers of table 1 of arXiv 2508.16817: coordinates of the observed path replace the observer's own, and a scalar
measurement is fed back (Luenberger 1979; Pecora & Carroll 1990).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

import parsample
from models.recursions.flows import FLOWS, flow
from parsample import Recursion

# Coordinates of the observed path that replace the observer's own.
REPLACED = {
    "ABC": (0, 2),
    "Chua": (1,),
    "KawczynskiStrizhak": (0, 1),
    "Lorenz": (1,),
    "NoseHoover": (0, 2),
    "Rossler": (),
    "SprottB": (1,),
    "Thomas": (1,),
    "VallisElNino": (1,),
}

# Seed of the direction c of the measurement c . s; c is also the gain of the feedback.
SEED = 42


def observer(name: str, num_steps: int = 30_000, *, dt: float = 0.01) -> Recursion:
    """``s = r + dt (field(r) + c (c . truth - c . r))``, where r is s with some coordinates of the truth.

    The inputs are the observed path, shape (T, 3), before each step; the observer starts off this path by N(0, 1).

    Parameters
    ----------
    name
        Key of `REPLACED`.
    num_steps
        Number of steps T.
    dt
        Step size of flow and observer.
    """
    if name not in REPLACED:
        raise ValueError(f"name must be one of {', '.join(REPLACED)}; got {name!r}.")
    truth = flow(name, num_steps, dt=dt)
    path = parsample.rollout(*truth)
    observed = jnp.concatenate([truth.initial_state[None], path[:-1]])
    field = FLOWS[name].field
    is_replaced = jnp.isin(jnp.arange(3), jnp.array(REPLACED[name], int))
    key_gain, key_start = jax.random.split(jax.random.key(SEED))
    gain = jax.random.normal(key_gain, (3,))

    def step(state: Array, seen: Array) -> Array:
        known = jnp.where(is_replaced, seen, state)
        innovation = jnp.sum(gain * (seen - known))
        return known + dt * (jnp.stack(field(*known)) + gain * innovation)

    return Recursion(step, truth.initial_state + jax.random.normal(key_start, (3,)), observed)
