"""Recursions and targets with known answers, shared by the tests of the core."""

import jax
import jax.numpy as jnp
import numpy as np

from parsample import Recursion


def noise(*shape: int, seed: int = 0) -> jax.Array:
    """Standard normal inputs in the default floating-point type."""
    return jax.random.normal(jax.random.key(seed), shape)


def mix(state: dict, drive: dict) -> dict:
    """A nonlinear contraction of three coupled coordinates, in two leaves."""
    x, y = state["x"], state["y"]
    swapped = jnp.stack([x[1], y])
    return {"x": 0.4 * jnp.sin(x) + 0.2 * swapped + drive["x"], "y": 0.5 * jnp.tanh(y - x[0]) + drive["y"]}


def contraction(num_steps: int, seed: int = 0) -> Recursion:
    """A predictable chain with a pytree state."""
    inputs = {"x": noise(num_steps, 2, seed=seed), "y": noise(num_steps, seed=seed + 1)}
    return Recursion(mix, {"x": jnp.array([3.0, -2.0]), "y": jnp.array(1.0)}, inputs)


MATRIX = np.array([[0.6, 0.3, 0.0], [-0.3, 0.5, 0.2], [0.1, 0.0, -0.7]])  # spectral norm 0.79


def affine(num_steps: int) -> Recursion:
    """A vector autoregression, whose Jacobian is `MATRIX` everywhere."""
    return Recursion(affine_step, jnp.array([1.0, 2.0, -1.0]), noise(num_steps, 3))


def affine_step(state: jax.Array, drive: jax.Array) -> jax.Array:
    return jnp.asarray(MATRIX, state.dtype) @ state + drive


def diagonal_step(state: jax.Array, drive: jax.Array) -> jax.Array:
    return jnp.array([0.9, -0.5, 0.0], state.dtype) * state + drive


def fade(state: jax.Array, drive: jax.Array) -> jax.Array:
    """A first-order autoregression, whose differences shrink by a factor of 0.9 in every step."""
    return 0.9 * state + drive


def walk_step(state: jax.Array, drive: jax.Array) -> jax.Array:
    return state + drive


def delay_step(state: jax.Array, drive: jax.Array) -> jax.Array:
    """Keep only the last inputs: after as many steps as the state has entries, the start is forgotten exactly."""
    return jnp.concatenate([drive[None], state[:-1]])


def delay_line(length: int, num_steps: int) -> Recursion:
    return Recursion(delay_step, jnp.full(length, 5.0), noise(num_steps))


def logistic_step(state: jax.Array, _: jax.Array) -> jax.Array:
    """The logistic map at r = 4: chaos, with Lyapunov exponent ln 2."""
    return 4 * state * (1 - state)


def logistic_map(num_steps: int, start: float = 0.2345) -> Recursion:
    return Recursion(logistic_step, jnp.array([start]), jnp.arange(num_steps))


PRECISIONS = np.array([1.0, 4.0, 9.0])


def gaussian_start() -> dict:
    return {"x": jnp.array([1.0, -0.5]), "y": jnp.array([[0.2]])}


def gaussian(position: dict) -> jax.Array:
    """An independent Gaussian, precisions 1, 4 and 9, in two leaves of different shapes."""
    x, y = position["x"], position["y"]
    return -0.5 * (jnp.sum(PRECISIONS[:2] * x**2) + jnp.sum(PRECISIONS[2] * y**2))


def isotropic(position: jax.Array) -> jax.Array:
    """The standard Gaussian, where all directions contract at the same rate."""
    return -0.5 * jnp.sum(position**2)


_rng = np.random.default_rng(7)
FEATURES = _rng.normal(size=(40, 3))
LABELS = np.where(FEATURES @ np.array([1.0, -1.0, 0.5]) + _rng.logistic(size=40) > 0, 1.0, -1.0)


def logistic_regression(position: dict) -> jax.Array:
    """Forty synthetic observations, three coefficients and an intercept under standard normal priors."""
    # Cast to the precision of the position: otherwise the data would stay float64 in runs of another precision.
    features, labels = (jnp.asarray(data, position["beta"].dtype) for data in (FEATURES, LABELS))
    margin = labels * (features @ position["beta"] + position["intercept"])
    prior = 0.5 * (jnp.sum(position["beta"] ** 2) + position["intercept"] ** 2)
    return -jnp.sum(jax.nn.softplus(-margin)) - prior


def logistic_regression_start() -> dict:
    return {"intercept": jnp.array(0.1), "beta": jnp.array([0.5, 0.0, -0.5])}


EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(position: dict) -> jax.Array:
    """Non-centred eight schools (Rubin 1981)."""
    tau = jnp.exp(position["log_tau"])
    theta = position["mu"] + tau * position["theta_raw"]
    prior = -0.5 * (position["mu"] / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + position["log_tau"]
    return prior - 0.5 * jnp.sum(position["theta_raw"] ** 2) - 0.5 * jnp.sum(((EFFECTS - theta) / ERRORS) ** 2)


def eight_schools_start() -> dict:
    return {"mu": jnp.array(4.0), "log_tau": jnp.array(1.0), "theta_raw": jnp.zeros(8)}


MEAN = np.array([3.0, -100.0, 0.01])
FACTOR = np.diag([1.0, 30.0, 1e-3]) @ np.array([[1.0, 0.0, 0.0], [0.9, 0.436, 0.0], [-0.7, 0.5, 0.51]])
INVERSE = np.linalg.inv(FACTOR)


def correlated(x: jax.Array) -> jax.Array:
    """A Gaussian with correlations of up to 0.9 and scales from 0.001 to 30."""
    return -0.5 * jnp.sum(jnp.square(jnp.asarray(INVERSE, x.dtype) @ (x - jnp.asarray(MEAN, x.dtype))))


def evaluated_outside(x: np.ndarray) -> np.ndarray:
    return np.asarray(-0.5 * np.sum(np.asarray(x) ** 2, axis=-1), np.asarray(x).dtype)


def black_box(x: jax.Array, vmap_method: str | None = "expand_dims") -> jax.Array:
    """A log density that JAX can neither differentiate nor trace."""
    return jax.pure_callback(evaluated_outside, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method=vmap_method)
