"""One long Markov chain, evaluated in parallel over its own length: the same chain, sooner, and certified."""

from parsample.check import Report, check
from parsample.compare import KernelComparison, KernelForecast, compare_kernels
from parsample.costs import StepCosts
from parsample.linearize import Dense, Diagonal, Identity, Zero
from parsample.lyapunov import Coalescence, LyapunovExponent, coalescence_times, lyapunov_exponent
from parsample.recursion import deer, rollout
from parsample.run import evaluate_inference_algorithm, run_inference_algorithm
from parsample.sampling import SampleResult, check_sampler, sample
from parsample.solution import DEER, Sequential, Solution
from parsample.status import ParallelStallWarning, Status
from parsample.version import __version__

__all__ = [
    "DEER",
    "Coalescence",
    "Dense",
    "Diagonal",
    "Identity",
    "KernelComparison",
    "KernelForecast",
    "LyapunovExponent",
    "ParallelStallWarning",
    "Report",
    "SampleResult",
    "Sequential",
    "Solution",
    "Status",
    "StepCosts",
    "Zero",
    "__version__",
    "check",
    "check_sampler",
    "coalescence_times",
    "compare_kernels",
    "deer",
    "evaluate_inference_algorithm",
    "lyapunov_exponent",
    "rollout",
    "run_inference_algorithm",
    "sample",
]
