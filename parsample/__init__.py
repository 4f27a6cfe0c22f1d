"""One long Markov chain, evaluated in parallel over its own length: the same chain, sooner, and certified."""

from parsample.chain.gibbs import Conditional, Gibbs
from parsample.chain.multishift import ExactMeetingInfo, multishift_random_walk, with_exact_meeting
from parsample.chain.recursion import Recursion, as_recursion
from parsample.draws.reductions import Covariance, Moments, Quantiles, Reduction
from parsample.internal.compilation import clear_caches
from parsample.models import transforms
from parsample.models.model import Model
from parsample.models.numpyro_model import from_numpyro
from parsample.models.pymc_model import from_pymc
from parsample.planning.check import check
from parsample.planning.plan import Plan
from parsample.planning.report import Report
from parsample.predictability.coalescence import Coalescence, coalescence_times
from parsample.predictability.lyapunov import LyapunovExponent, lyapunov_exponent
from parsample.samplers.blackjax_run import evaluate_inference_algorithm, run_inference_algorithm
from parsample.samplers.compare import KernelComparison, KernelForecast, compare_kernels
from parsample.samplers.diagnostics import Diagnostics, SamplingWarning
from parsample.samplers.result import SampleResult
from parsample.samplers.resume import resume
from parsample.samplers.sample import check_sampler, sample
from parsample.samplers.stopping import StopAt
from parsample.solver.corrections import Newton
from parsample.solver.entry import deer, rollout
from parsample.solver.linearization import Dense, Diagonal, Identity, Zero
from parsample.solver.method import DEER, Sequential
from parsample.solver.solution import Solution
from parsample.solver.status import ParallelStallWarning, Status, UncertifiedChainWarning
from parsample.version import __version__
from parsample.warmup.adaptation import Adaptation

__all__ = [
    "DEER",
    "Adaptation",
    "Coalescence",
    "Conditional",
    "Covariance",
    "Dense",
    "Diagnostics",
    "Diagonal",
    "ExactMeetingInfo",
    "Gibbs",
    "Identity",
    "KernelComparison",
    "KernelForecast",
    "LyapunovExponent",
    "Model",
    "Moments",
    "Newton",
    "ParallelStallWarning",
    "Plan",
    "Quantiles",
    "Recursion",
    "Reduction",
    "Report",
    "SampleResult",
    "SamplingWarning",
    "Sequential",
    "Solution",
    "Status",
    "StopAt",
    "UncertifiedChainWarning",
    "Zero",
    "__version__",
    "as_recursion",
    "check",
    "check_sampler",
    "clear_caches",
    "coalescence_times",
    "compare_kernels",
    "deer",
    "evaluate_inference_algorithm",
    "from_numpyro",
    "from_pymc",
    "lyapunov_exponent",
    "multishift_random_walk",
    "resume",
    "rollout",
    "run_inference_algorithm",
    "sample",
    "transforms",
    "with_exact_meeting",
]
