"""The kernels of `sample`; a new kernel needs a new file and an entry in `KERNELS`."""

from parsample.kernels.base import Kernel
from parsample.kernels.hmc import HMC, MALA
from parsample.kernels.metropolis import Metropolis
from parsample.kernels.nuts import NUTS

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (HMC(), NUTS(), MALA(), Metropolis())}
