"""Random targets, positions and tuned values, drawn by hypothesis; targets are data, so that one program serves all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from parsample import Adaptation, Model
from parsample.kernels import KERNELS
from parsample.kernels.base import MOVE_STEPS
from parsample.kernels.whitening import KernelParameters
from parsample.lanes.program import PERIOD

FAMILIES = ["gaussian", "mixture", "funnel", "student t"]
SHAPES: dict[str, tuple[int, ...]] = {"level": (), "vector": (2,), "matrix": (1, 1)}


class Target(NamedTuple):
    """The data of a target: its family, and the affine map to the coordinates in which that is standard.

    Attributes
    ----------
    family
        Number of the family in `FAMILIES`.
    center, factor
        ``z = factor (x - center)``, shapes (D,) and (D, D).
    extent
        Distance of the modes from the centre, or scale of the funnel's neck.
    """

    family: Any
    center: Any
    factor: Any
    extent: Any


def logdensity(position: Any, target: Target) -> jax.Array:
    """The log density of any target, up to a constant."""
    x = ravel_pytree(position)[0]
    z = jnp.sum(target.factor * (x - target.center)[None], axis=1)
    neck = target.extent * jnp.tanh(z[0])
    families = [
        lambda: -0.5 * jnp.sum(z**2),
        lambda: jnp.logaddexp(-0.5 * jnp.sum((z - target.extent) ** 2), -0.5 * jnp.sum((z + target.extent) ** 2)),
        lambda: -0.5 * z[0] ** 2 - 0.5 * jnp.sum((z[1:] * jnp.exp(-neck)) ** 2) - (len(z) - 1) * neck,
        lambda: -0.5 * (len(z) + 4) * jnp.log1p(jnp.sum(z**2) / 4),
    ]
    return jax.lax.switch(target.family, families)


def dimension_of(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def position_of(vectors: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Vectors with any leading axes as positions."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(vectors, ends[:-1], axis=-1)
    names = zip(shapes.items(), parts, strict=True)
    return {name: part.reshape(*vectors.shape[:-1], *shape) for (name, shape), part in names}


class Drawn(NamedTuple):
    """What hypothesis draws of a run; all else follows from it, so that a failure shows in a line.

    Attributes
    ----------
    family, extent
        As in `Target`.
    seed
        Of the numbers in the target, the starts, the tuned coordinates, and of the run.
    step_size, move_scale
        Tuned values; a scale of 0 means no moves.
    num_chains, num_samples
        Chains, and draws of each.
    """

    family: str
    extent: float
    seed: int
    step_size: float
    move_scale: float
    num_chains: int
    num_samples: int


def drawn(*, exact: bool | None = None, max_samples: int = 400) -> st.SearchStrategy[Drawn]:
    """Runs with or without exact meeting, or both (None)."""
    moves = {True: st.floats(0.1, 1.0), False: st.just(0.0)}
    return st.builds(
        Drawn,
        family=st.sampled_from(FAMILIES),
        extent=st.floats(0.2, 2.0),
        seed=st.integers(0, 2**32 - 1),
        step_size=st.floats(0.15, 1.2),
        move_scale=st.one_of(*moves.values()) if exact is None else moves[exact],
        num_chains=st.integers(1, 3),
        num_samples=st.integers(1, max_samples),
    )


def all_shapes() -> st.SearchStrategy[dict[str, tuple[int, ...]]]:
    """Shapes of the leaves of a position of up to six dimensions."""
    some = st.sampled_from([(), (1,), (2,), (1, 2), (2, 1)])
    return st.lists(some, min_size=1, max_size=3).map(lambda found: {f"leaf{i}": each for i, each in enumerate(found)})


def target_of(drawn: Drawn, dimension: int, dtype: str) -> Target:
    """A target whose standard deviations differ by a factor of up to ten."""
    rng = np.random.default_rng([drawn.seed, 1])
    rotation = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    values = rng.normal(size=dimension), rotation * 10 ** rng.uniform(-0.5, 0.5, dimension), drawn.extent
    return Target(np.int32(FAMILIES.index(drawn.family)), *(np.asarray(each, dtype) for each in values))


def adaptation_of(drawn: Drawn, kernel: str, target: Target) -> Adaptation:
    """Tuned values as a warm-up might find them: roughly right coordinates, and any step size."""
    dimension = len(target.center)
    rng = np.random.default_rng([drawn.seed, 2])
    factor = np.linalg.inv(np.asarray(target.factor, float)) * 2 ** rng.uniform(-1, 1, dimension)
    moves = np.zeros(PERIOD)
    moves[list(MOVE_STEPS)] = drawn.move_scale
    parameters = KernelParameters(
        target.center + 0.1 * rng.normal(size=dimension),
        np.linalg.cholesky(factor @ factor.T),
        np.full(dimension, 2 * drawn.step_size) if kernel == "metropolis" else np.asarray(drawn.step_size),
        KERNELS[kernel].num_integration_steps(drawn.step_size),
        moves,
    )
    return Adaptation(kernel, parameters, rng.normal(size=(8, dimension)), 0.8, 0, 8, 0, 0, 1.0, "")


def model_of(drawn: Drawn, target: Target, shapes: dict[str, tuple[int, ...]], num_chains: int) -> Model:
    """The target as a model, with a start for each chain."""
    starts = np.random.default_rng([drawn.seed, 3]).normal(size=(num_chains, len(target.center)))
    vectors = target.center + np.linalg.solve(np.asarray(target.factor, float), starts.T).T
    return Model(logdensity, position_of(np.asarray(vectors, target.center.dtype), shapes), data=target)
