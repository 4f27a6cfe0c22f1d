"""Comparison of two sets of draws by their means and standard deviations."""

import arviz
import numpy as np


def assert_same_moments(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], *, errors: float = 5) -> None:
    """Assert that means and standard deviations of every variable differ by at most `errors` Monte Carlo errors.

    Arrays have leading axes (chain, draw). Constant entries, such as the diagonal of a correlation, must be equal.
    """
    assert set(ours) == set(theirs)
    for name in theirs:
        pairs = [np.asarray(values[name], float).reshape(*values[name].shape[:2], -1) for values in (ours, theirs)]
        for entry in range(pairs[0].shape[-1]):
            one, other = (values[..., entry] for values in pairs)
            if np.ptp(other) < 1e-6:
                np.testing.assert_allclose(one, other[0, 0], atol=1e-5)
                continue
            for method in ("mean", "sd"):
                error = np.hypot(*(float(arviz.mcse(draws, method=method)) for draws in (one, other)))
                found = [float(getattr(draws, {"mean": "mean", "sd": "std"}[method])()) for draws in (one, other)]
                assert abs(found[0] - found[1]) <= errors * error, (name, entry, method, found, error)
