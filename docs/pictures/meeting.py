"""Draw docs/pictures/meeting.png: ``python docs/pictures/meeting.py`` from the root of the checkout.

Eight chains start apart, share their random numbers, and meet. The kernel is BlackJAX's HMC with multishift
moves, as in `sample`, on the logistic regression of models/; a short run of `sample` gives its metric and the starts.
"""

import runpy
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import parsample

NUM_PATHS, NUM_STEPS, STEP_SIZE, NUM_LEAPFROG, SHIFT = 8, 40, 0.16, 4, 0.25


def main() -> None:
    """Draw and write the picture."""
    intercepts, is_first = paths()
    met = NUM_STEPS - np.argmin(is_first[::-1], axis=0)  # first step from which a path equals path 0
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    steps = 1 + np.arange(NUM_STEPS)
    axis.plot(steps, intercepts[:, 0], lw=1.8, color="black", zorder=3)
    for number in range(1, NUM_PATHS):
        end = met[number] + 1
        axis.plot(steps[:end], intercepts[:end, number], lw=1.2)
        axis.plot(steps[end - 1 : end], intercepts[end - 1 : end, number], "o", ms=5, color="black", zorder=4)
    axis.set_xlabel("step")
    axis.set_ylabel("intercept of the regression")
    title = f"{NUM_PATHS} paths from different starts, the same random numbers; a dot: from here on equal, bit for bit"
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


def paths() -> tuple[np.ndarray, np.ndarray]:
    """The intercept on every path, and whether a path is bitwise equal to the first; both of shape (n, R)."""
    model = runpy.run_path("models/logistic_regression.py")
    position, unravel = ravel_pytree(jax.tree.map(jnp.asarray, model["initial_position"]))
    run = parsample.sample(
        jax.random.key(0), model["logdensity"], unravel(position), num_samples=1000, progress_bar=False
    )
    draws = jax.vmap(lambda draw: ravel_pytree(draw)[0])(jax.tree.map(lambda leaf: leaf[0], run.positions))
    mean, factor = draws.mean(axis=0), jnp.linalg.cholesky(jnp.cov(draws.T))

    def logdensity(u: jax.Array) -> jax.Array:
        """The log density in whitened coordinates, like the kernels of `sample`."""
        return model["logdensity"](unravel(mean + factor @ u))

    hmc = blackjax.hmc(logdensity, STEP_SIZE, jnp.ones_like(position), NUM_LEAPFROG)
    algorithm = parsample.with_exact_meeting(hmc, logdensity, SHIFT)
    starts = 2 * jnp.linalg.solve(factor, (draws[:: len(draws) // NUM_PATHS] - mean).T).T  # wider than the posterior
    states = np.stack(
        [
            parsample.rollout(*parsample.as_recursion(jax.random.key(1), algorithm, start, NUM_STEPS))
            for start in starts[:NUM_PATHS]
        ],
        axis=1,
    )
    positions = np.asarray(mean + states @ factor.T)
    return positions[:, :, -1], (states == states[:, :1]).all(axis=-1)  # the intercept comes last


if __name__ == "__main__":
    main()
