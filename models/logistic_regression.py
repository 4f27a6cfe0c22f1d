"""Logistic regression on the Wisconsin diagnostic breast cancer data.

569 tumours, malignant or benign, and the means of 10 features of their cell nuclei, standardised;
some features are almost collinear. Coefficients and intercept have N(0, 2.5^2) priors.

Data: W. H. Wolberg, W. N. Street and O. L. Mangasarian, Breast Cancer Wisconsin (Diagnostic), UCI
Machine Learning Repository (1995), https://doi.org/10.24432/C5DW2B, licence CC BY 4.0. The file
holds the 10 "mean" features of the copy that scikit-learn ships, with malignant coded 1.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

PRIOR_SD = 2.5

path = Path(__file__).parent / "data" / "breast_cancer.csv"
feature_names = path.read_text().splitlines()[0].split(",")[1:]
table = np.loadtxt(path, delimiter=",", skiprows=1)
sign = 2.0 * table[:, 0] - 1.0  # +1 malignant, -1 benign
features = (table[:, 1:] - table[:, 1:].mean(axis=0)) / table[:, 1:].std(axis=0)
signed_features = sign[:, None] * features


def logdensity(position: dict[str, jax.Array]) -> jax.Array:
    """Log posterior, up to a constant: log sigmoid of the signed margins, plus the priors."""
    intercept, beta = position["intercept"], position["beta"]
    margin = signed_features @ beta + sign * intercept
    log_prior = -0.5 * (intercept**2 + jnp.sum(beta**2)) / PRIOR_SD**2
    # log(1 + exp(-margin)), by log rather than log1p: on a CPU XLA's log takes a third of the time,
    # and its error where exp is tiny, 6e-8 a row in float32, is below the rounding of the sum.
    loss = jnp.maximum(-margin, 0) + jnp.log(1 + jnp.exp(-jnp.abs(margin)))
    return log_prior - jnp.sum(loss)


initial_position = {"intercept": np.zeros(()), "beta": np.zeros(10)}

dims = {"beta": ["feature"]}
coords = {"feature": feature_names}

# Long run: NUTS with a dense metric in float64, 4 chains of 60,000 draws after 2,000 of warm-up,
# target acceptance 0.8, seed 1. R-hat at most 1.0001; mcse by ArviZ.
reference = {
    "intercept": {
        "mean": -0.5079,
        "sd": 0.2847,
        "mcse_mean": 0.00043,
        "mcse_sd": 0.00063,
    },
    "beta": {
        "mean": [0.7544, 1.6803, 0.5485, 2.6648, 1.1552, -0.6613, 1.1960, 2.1642, 0.4900, -0.3195],
        "sd": [1.9713, 0.2722, 2.0023, 1.9758, 0.4366, 0.7002, 0.6292, 0.9813, 0.3013, 0.5659],
        "mcse_mean": [
            0.00288,
            0.00042,
            0.00294,
            0.00290,
            0.00065,
            0.00104,
            0.00094,
            0.00147,
            0.00045,
            0.00084,
        ],
        "mcse_sd": [
            0.00446,
            0.00060,
            0.00441,
            0.00443,
            0.00096,
            0.00155,
            0.00139,
            0.00216,
            0.00067,
            0.00124,
        ],
    },
}

kernels = ("nuts", "hmc", "mala")
