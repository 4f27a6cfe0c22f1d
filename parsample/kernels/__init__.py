"""The kernels that `sample` steps with; a new one is a new file, and a line here."""

from parsample.kernels.base import Kernel
from parsample.kernels.hmc import HMC, MALA
from parsample.kernels.metropolis import Metropolis
from parsample.kernels.nuts import NUTS

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (HMC(), NUTS(), MALA(), Metropolis())}
