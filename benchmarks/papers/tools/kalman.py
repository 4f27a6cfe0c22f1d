"""Gains of the Kalman filter that keeps corrections of block starts within a trust region.

The Levenberg-Marquardt step on a chain's residuals is the posterior mean of a linear Gaussian state space model. The
step over the blocks up to each block is the filter's mean, which a parallel scan computes: ELK (Gonzalez et al., arXiv
2407.19115). In units of the chain's scale,

    delta_c = A_{c-1} delta_{c-1} + d_c + N(0, I),    0 = delta_c + N(0, I / weight),

where the second equation is the penalty on long corrections. The filtered covariances P_c do not depend on the defects,
so one scan gives them. With gains G_c = I - K_c the means obey an affine recursion, which `affine` solves:
m_c = G_c (A_{c-1} m_{c-1} + d_c).
"""

import jax
import jax.numpy as jnp

from parsample.solver.affine import shifted
from parsample.solver.operators import Operator


def gains(operators: Operator, weight: float) -> Operator:
    """G_c of all blocks, where `operators` has A_{c-1} at index c; in turn on a CPU, else by a scan."""
    return jax.lax.platform_dependent(
        operators,
        cpu=lambda each: _gains(each, _covariances_in_turn(each, weight), weight),
        default=lambda each: _gains(each, _covariances_by_scan(each, weight), weight),
    )


def _gains(operators: Operator, filtered: Operator, weight: float) -> Operator:
    """G_c = (I + weight (A P_{c-1} A^T + I))^-1, from the filtered covariances P_c."""
    return _gain(_predict(operators, shifted(filtered)), weight)


def _covariances_in_turn(operators: Operator, weight: float) -> Operator:
    """Filtered covariances P_c step by step."""

    def advance(before: Operator, operator: Operator) -> tuple[Operator, Operator]:
        predicted = _predict(operator, before)
        after = _gain(predicted, weight).compose(predicted)
        return after, after

    zero = jax.tree.map(lambda values: jnp.zeros_like(values[0]), operators)
    return jax.lax.scan(advance, zero, operators)[1]


def _covariances_by_scan(operators: Operator, weight: float) -> Operator:
    """Filtered covariances P_c as an associative scan over the filter's elements (Sarkka & Garcia-Fernandez 2021)."""
    share = 1 / (1 + weight)
    information = weight * share * operators.transpose().compose(operators)
    elements = (share * operators, share * operators.unit(), information)

    def compose(first: tuple[Operator, ...], second: tuple[Operator, ...]) -> tuple[Operator, ...]:
        (maps_1, covariance_1, information_1), (maps_2, covariance_2, information_2) = first, second
        inner = (maps_1.unit() + covariance_1.compose(information_2)).inverse()
        reach = maps_2.compose(inner)
        back = maps_1.transpose().compose(inner.transpose())
        return (
            reach.compose(maps_1),
            _sandwich(reach, covariance_1, maps_2) + covariance_2,
            back.compose(information_2.compose(maps_1)) + information_1,
        )

    return jax.lax.associative_scan(compose, elements)[1]


def _predict(operator: Operator, covariance: Operator) -> Operator:
    return _sandwich(operator, covariance, operator) + operator.unit()


def _sandwich(left: Operator, middle: Operator, right: Operator) -> Operator:
    return left.compose(middle).compose(right.transpose())


def _gain(predicted: Operator, weight: float) -> Operator:
    return (predicted.unit() + weight * predicted).inverse()
