"""One long Markov chain, evaluated in parallel over its own length: the same chain, sooner, and certified."""

from parsample.adapters import Recursion, as_recursion
from parsample.check import check
from parsample.coalescence import Coalescence, coalescence_times
from parsample.compare import KernelComparison, KernelForecast, compare_kernels
from parsample.corrections import Newton
from parsample.gibbs import Conditional, Gibbs
from parsample.linearize import Dense, Diagonal, Identity, Zero
from parsample.lyapunov import LyapunovExponent, lyapunov_exponent
from parsample.multishift import ExactMeetingInfo, multishift_random_walk, with_exact_meeting
from parsample.plan import Plan
from parsample.recursion import deer, rollout
from parsample.report import Report
from parsample.run import evaluate_inference_algorithm, run_inference_algorithm
from parsample.sampling import SampleResult, check_sampler, sample
from parsample.solution import DEER, Sequential, Solution
from parsample.status import ParallelStallWarning, Status
from parsample.version import __version__

__all__ = [
    "DEER",
    "Coalescence",
    "Conditional",
    "Dense",
    "Diagonal",
    "ExactMeetingInfo",
    "Gibbs",
    "Identity",
    "KernelComparison",
    "KernelForecast",
    "LyapunovExponent",
    "Newton",
    "ParallelStallWarning",
    "Plan",
    "Recursion",
    "Report",
    "SampleResult",
    "Sequential",
    "Solution",
    "Status",
    "Zero",
    "__version__",
    "as_recursion",
    "check",
    "check_sampler",
    "coalescence_times",
    "compare_kernels",
    "deer",
    "evaluate_inference_algorithm",
    "lyapunov_exponent",
    "multishift_random_walk",
    "rollout",
    "run_inference_algorithm",
    "sample",
    "with_exact_meeting",
]
