"""Settings of all tests: float64, no silent rank promotion, eight CPU devices, one of them used by default.

pyproject.toml turns warnings into errors. Nothing here imports parsample, so that pytest's jaxtyping hook can check the
types of all its modules.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def one_device_unasked():
    """Use one device unless a test asks for several, because programs for several take longer to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parsample.internal.devices.default_devices", lambda: jax.local_devices()[:1])
        yield


# Linux permits 65,530 memory maps per process; a compiled program takes dozens. Beyond that, XLA ends the process.
MAX_MAPS = 25_000


@pytest.fixture(autouse=True)
def _few_programs(request):
    """Forget compiled programs before there are too many; most tests compile their own."""
    yield
    maps = Path("/proc/self/maps")
    if request.node.get_closest_marker("slow") and maps.exists() and len(maps.read_bytes().splitlines()) > MAX_MAPS:
        jax.clear_caches()


@pytest.fixture
def as_users_have_it():
    """Disable jaxtyping's checks, which would catch much bad input before parsample's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def float32():
    """Run the test in jax's default precision; arrays must be made inside it."""
    with jax.enable_x64(False):
        yield


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Names of the programs that XLA compiles during the test."""
    names: list[str] = []

    def listen(event: str, _: float, **details: str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)
