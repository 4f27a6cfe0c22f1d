"""One long Markov chain, evaluated in parallel over its own length: the same chain, sooner, and certified."""

from parsample.adapters import Recursion, as_recursion
from parsample.check import Report, check
from parsample.coalescence import Coalescence, coalescence_times
from parsample.compare import KernelComparison, KernelForecast, compare_kernels
from parsample.coordinates import Coordinates
from parsample.corrections import GradientDescent, Newton, TrustRegion
from parsample.gibbs import Conditional, Gibbs
from parsample.leapfrog import PhasePoint, integrate, leapfrog_step
from parsample.linearize import BlockDiagonal, Dense, Diagonal, Identity, Zero
from parsample.lyapunov import (
    LyapunovExponent,
    LyapunovSpectrum,
    lyapunov_exponent,
    lyapunov_exponent_of_jacobians,
    lyapunov_spectrum,
    spectral_norms,
)
from parsample.multishift import ExactMeetingInfo, multishift_random_walk, with_exact_meeting
from parsample.plan import Plan
from parsample.predictability import Conditioning, conditioning, merit, predicted_sweeps
from parsample.recursion import deer, rollout
from parsample.run import evaluate_inference_algorithm, run_inference_algorithm
from parsample.sampler_report import SamplerReport
from parsample.sampling import SampleResult, check_sampler, sample
from parsample.solution import DEER, Sequential, Solution
from parsample.status import ParallelStallWarning, Status
from parsample.surrogate import surrogate_hmc, surrogate_mala
from parsample.version import __version__

__all__ = [
    "DEER",
    "BlockDiagonal",
    "Coalescence",
    "Conditional",
    "Conditioning",
    "Coordinates",
    "Dense",
    "Diagonal",
    "ExactMeetingInfo",
    "Gibbs",
    "GradientDescent",
    "Identity",
    "KernelComparison",
    "KernelForecast",
    "LyapunovExponent",
    "LyapunovSpectrum",
    "Newton",
    "ParallelStallWarning",
    "PhasePoint",
    "Plan",
    "Recursion",
    "Report",
    "SampleResult",
    "SamplerReport",
    "Sequential",
    "Solution",
    "Status",
    "TrustRegion",
    "Zero",
    "__version__",
    "as_recursion",
    "check",
    "check_sampler",
    "coalescence_times",
    "compare_kernels",
    "conditioning",
    "deer",
    "evaluate_inference_algorithm",
    "integrate",
    "leapfrog_step",
    "lyapunov_exponent",
    "lyapunov_exponent_of_jacobians",
    "lyapunov_spectrum",
    "merit",
    "multishift_random_walk",
    "predicted_sweeps",
    "rollout",
    "run_inference_algorithm",
    "sample",
    "spectral_norms",
    "surrogate_hmc",
    "surrogate_mala",
    "with_exact_meeting",
]
