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
    return log_prior - jnp.sum(jax.nn.softplus(-margin))


initial_position = {"intercept": np.zeros(()), "beta": np.zeros(10)}

dims = {"beta": ["feature"]}
coords = {"feature": feature_names}

kernels = ("nuts", "hmc", "mala")
