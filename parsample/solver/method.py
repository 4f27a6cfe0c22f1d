"""Settings of the evaluation of a chain: `DEER` in parallel, or `Sequential` step by step."""

from dataclasses import dataclass, field

from parsample.chain.transition import Vector
from parsample.internal.validation import checked_count, checked_number
from parsample.solver.corrections import Correction, Newton
from parsample.solver.linearization import Dense, Linearization, Zero
from parsample.solver.tolerance import Tolerance, default_tolerance


@dataclass(frozen=True)
class DEER:
    """Settings of block DEER; passed as ``method=``, requests the parallel evaluation with exactly these settings.

    Attributes
    ----------
    block_size
        Steps per block, 1 to T.
    linearization
        `Dense`, `Diagonal`, `Identity` or `Zero`.
    correction
        How block starts are corrected: `Newton`, or another rule.
    atol, rtol
        Two states count as the same where ``|difference| <= atol * scale + rtol * |state|``: `atol` in standard
        deviations of the chain. None: `atol` 1e-10 in float64 and 1e-5 in float32; `rtol` 8 units of rounding.
    max_iters
        Stop, with status MAX_ITERS, after this many sweeps. None: never stop before the path is right.
    stall_after
        Number of sweeps beyond which a sequential evaluation is cheaper. If the path does not converge within it, the
        rest is evaluated sequentially. None: a quarter of C / (1 + tangents), at least 16.
    clip
        Bound on the spectral norm of each A, for the correction only. It applies in sweeps where some correction would
        otherwise exceed `max_step`, and in all after 16 such sweeps (or if `max_step` is None). None: no bound.
    max_step
        Bound on a correction, in standard deviations of the chain; None: no bound.

    Examples
    --------
    >>> import parsample
    >>> method = parsample.DEER(block_size=64, linearization=parsample.Zero())
    >>> method.block_size
    64
    """

    block_size: int = 1
    linearization: Linearization = field(default_factory=Dense)
    atol: float | None = None
    rtol: float | None = None
    max_iters: int | None = None
    stall_after: int | None = None
    clip: float | None = 1.0
    max_step: float | None = 8.0
    correction: Correction = field(default_factory=Newton)

    def __post_init__(self) -> None:
        for name in ("block_size", "max_iters", "stall_after"):
            if (value := getattr(self, name)) is not None or name == "block_size":
                object.__setattr__(self, name, checked_count(name, value))
        for name in ("atol", "rtol", "clip", "max_step"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked_number(name, value))
        if isinstance(self.linearization, type) or not isinstance(self.linearization, Linearization):
            raise TypeError(
                f"linearization must be Dense(), Diagonal(), Identity() or Zero(); got {self.linearization!r}."
            )
        if isinstance(self.correction, type) or not isinstance(self.correction, Correction):
            raise TypeError(f"correction must be Newton(), or another rule; got {self.correction!r}.")

    @property
    def is_fixed_point(self) -> bool:
        """Whether a block starts where the previous one ended (A = 0), or keeps its start if that is close enough."""
        return isinstance(self.linearization, Zero) and isinstance(self.correction, Newton)

    def tolerance(self, scale: Vector) -> Tolerance:
        """The tolerance of these settings for a chain of standard deviation `scale`."""
        return default_tolerance(scale, self.atol, self.rtol)


@dataclass(frozen=True)
class Sequential:
    """Passed as ``method=``, requests the step-by-step evaluation.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, parsample
    >>> result = parsample.sample(
    ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2), method=parsample.Sequential(),
    ...     num_samples=100, progress_bar=False,
    ... )
    >>> result.status.name
    'SEQUENTIAL'
    """
