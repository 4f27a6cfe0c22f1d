"""The protocol of what lanes evaluate: what it is kept under, and who follows it."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from chains import fade, gaussian, gaussian_start

from parsample.chain.recursion import RecursionDynamics
from parsample.draws.layout import Layout
from parsample.kernels import KERNELS
from parsample.kernels.kernel_lanes import KernelLanes
from parsample.lanes.chain_lanes import ChainLanes
from parsample.lanes.dynamics import LaneDynamics


def of_kernel() -> LaneDynamics:
    return KernelLanes(gaussian, Layout.of(gaussian_start()), KERNELS["hmc"])


def of_chain() -> LaneDynamics:
    return ChainLanes.of(RecursionDynamics(fade), jnp.zeros(1), jnp.zeros((5, 1)))[0]


@pytest.mark.parametrize("lanes", [of_kernel, of_chain])
def test_lanes_of_the_same_functions_share_a_program(lanes: Callable[[], LaneDynamics]):
    assert isinstance(lanes(), LaneDynamics)
    assert lanes() is not lanes()
    assert (lanes(), hash(lanes())) == (lanes(), hash(lanes()))
