"""Properties of the paths of `DEER`: those of the recursion, with a defect that bounds every jump away from it.

Targets, starts and keys are arguments of one compiled program for each setting of the solver.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import slow
from random_targets import FAMILIES, SHAPES, Target, dimension_of, drawn, logdensity, model_of, position_of, target_of

from parsample import (
    DEER,
    Conditional,
    Dense,
    Diagonal,
    Gibbs,
    Identity,
    Newton,
    Solution,
    Status,
    Zero,
    as_recursion,
    deer,
    evaluate_inference_algorithm,
    rollout,
    with_exact_meeting,
)

NUM_STEPS = 50
LOOSE = {"float32": 1e-2, "float64": 1e-3}  # tolerances far above rounding, so that jumps are seen

_checks = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
few, many = (settings(max_examples=number, **_checks) for number in (5, 40))
