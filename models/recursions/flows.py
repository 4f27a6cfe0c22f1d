"""Chaotic flows, discretised by Euler's method: recursions that are not predictable.

Parameters, starts on the attractor and largest Lyapunov exponents are from Gilpin, *Chaos as an interpretable
benchmark* (arXiv 2110.05266, data of dysts 0.96), who names the original sources.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from parsample import Recursion


class Flow(NamedTuple):
    """``ds/dt = field(s)`` in three dimensions.

    Attributes
    ----------
    field
        ``field(x, y, z)``: the three time derivatives.
    start
        A state on the attractor.
    lle
        Largest Lyapunov exponent as published, nats per unit of time.
    dt
        Step size, small enough for Euler's method to stay on the attractor.
    """

    field: Callable[[Array, Array, Array], tuple]
    start: tuple[float, float, float]
    lle: float
    dt: float = 0.01


def _lorenz(x: Array, y: Array, z: Array, sigma: float = 10, rho: float = 28, beta: float = 8 / 3) -> tuple:
    return sigma * (y - x), x * (rho - z) - y, x * y - beta * z


def _rossler(x: Array, y: Array, z: Array, a: float = 0.2, b: float = 0.2, c: float = 5.7) -> tuple:
    return -y - z, x + a * y, b + z * (x - c)


def _thomas(x: Array, y: Array, z: Array, a: float = 1.85, b: float = 10) -> tuple:
    return b * jnp.sin(y) - a * x, b * jnp.sin(z) - a * y, b * jnp.sin(x) - a * z


def _glycolysis(a: Array, b: Array, c: Array) -> tuple:
    source, first_scale, second_scale, decay = 1.0, 5e8, 100.0, 4.422
    first_rate, second_rate, first_yield, second_yield = 22.2222, 22.2222, 50.0, 0.02
    first = a * (1 + a) * (1 + b) ** 2 / (first_scale + ((1 + a) * (1 + b)) ** 2)
    second = b * (1 + c) ** 2 / (second_scale + (1 + c) ** 2)
    return (
        source - first_rate * first,
        first_yield * first_rate * first - second_rate * second,
        second_yield * second_rate * second - decay * c,
    )


def _guckenheimer_holmes(x: Array, y: Array, z: Array) -> tuple:
    a, b, c, d, e, f = 0.4, 20.25, 3.0, 1.6, 1.7, 0.44
    radius = x**2 + y**2
    return a * x - b * y + c * z * x + d * z * radius, a * y + b * x + c * z * y, e - z**2 - f * radius - a * z**3


def _halvorsen(x: Array, y: Array, z: Array, a: float = 1.4, b: float = 4.0) -> tuple:
    return -a * x - b * (y + z) - y**2, -a * y - b * (z + x) - z**2, -a * z - b * (x + y) - x**2


def _chua(x: Array, y: Array, z: Array) -> tuple:
    alpha, beta, inner, outer = 15.6, 28.0, -1.142857, -0.71429
    diode = outer * x + 0.5 * (inner - outer) * (jnp.abs(x + 1) - jnp.abs(x - 1))
    return alpha * (y - x - diode), x - y + z, -beta * y


def _duffing(x: Array, y: Array, phase: Array) -> tuple:
    alpha, beta, delta, gamma, omega = 1.0, -1.0, 0.1, 0.35, 1.4
    return y, -delta * y - beta * x - alpha * x**3 + gamma * jnp.cos(phase), omega + 0 * phase


def _kawczynski_strizhak(x: Array, y: Array, z: Array) -> tuple:
    beta, gamma, kappa, mu = -0.4, 0.49, 0.2, 2.1
    return gamma * (y - x**3 + 3 * mu * x), -2 * mu * x - y - z + beta, kappa * (x - z)


def _isothermal_chemical(a: Array, b: Array, c: Array) -> tuple:
    delta, kappa, mu, sigma = 1.0, 2.5, 0.29786, 0.013
    reaction = a * b**2 + a
    return mu * (kappa + c) - reaction, (reaction - b) / sigma, (b - c) / delta


def _vallis_el_nino(x: Array, y: Array, z: Array, b: float = 102.0, c: float = 3.0) -> tuple:
    return b * y - c * x, x * z - y, 1 - z - x * y


def _rabinovich_fabrikant(x: Array, y: Array, z: Array, a: float = 1.1, g: float = 0.87) -> tuple:
    return y * (z - 1 + x**2) + g * x, x * (3 * z + 1 - x**2) + g * y, -2 * z * (a + x * y)


def _nose_hoover(x: Array, y: Array, z: Array, a: float = 1.5) -> tuple:
    return y, y * z - x, a - y**2


def _dadras(x: Array, y: Array, z: Array) -> tuple:
    c, e, o, p, r = 2.0, 9.0, 2.7, 3.0, 1.7
    return y - p * x + o * y * z, r * y - x * z + z, c * x * y - e * z


def _rikitake_dynamo(x: Array, y: Array, z: Array, a: float = 1.0, mu: float = 1.0) -> tuple:
    return y * z - mu * x, x * (z - a) - mu * y, 1 - x * y


def _aizawa(x: Array, y: Array, z: Array) -> tuple:
    a, b, c, d, e, f = 0.95, 0.7, 0.6, 3.5, 0.25, 0.1
    lift = c + a * z - z**3 / 3 - (x**2 + y**2) * (1 + e * z) + f * z * x**3
    return (z - b) * x - d * y, d * x + (z - b) * y, lift


def _arnold_beltrami_childress(x: Array, y: Array, z: Array) -> tuple:
    a, b, c = 3**0.5, 2**0.5, 1.0
    return a * jnp.sin(z) + c * jnp.cos(y), b * jnp.sin(x) + a * jnp.cos(z), c * jnp.sin(y) + b * jnp.cos(x)


def _chen_lee(x: Array, y: Array, z: Array, a: float = 5.0, b: float = -10.0, c: float = -0.38) -> tuple:
    return a * x - y * z, b * y + x * z, c * z + x * y / 3


def _sprott_b(x: Array, y: Array, z: Array) -> tuple:
    return y * z, x - y, 1 - x * y


FLOWS = {
    "Lorenz": Flow(_lorenz, (-9.7869, -15.0385, 20.5340), 0.892),
    "Rossler": Flow(_rossler, (6.5134, 0.4772, 0.3416), 0.151, dt=0.005),
    "Thomas": Flow(_thomas, (2.1994, 2.3634, 3.2202), 0.632, dt=0.005),
    "GlycolyticOscillation": Flow(_glycolysis, (29.4533, 130.1935, 0.1841), 0.0216),
    "GuckenheimerHolmes": Flow(_guckenheimer_holmes, (-0.5558, 0.0518, 0.3777), 0.789, dt=0.0002),
    "Halvorsen": Flow(_halvorsen, (-8.6807, -2.4741, 0.0708), 0.696, dt=0.002),
    "Chua": Flow(_chua, (1.1262, -0.1139, -0.7832), 1.23, dt=0.005),
    "Duffing": Flow(_duffing, (-1.1635, -0.5092, 0.0), 0.140),
    "KawczynskiStrizhak": Flow(_kawczynski_strizhak, (-1.1605, 5.8637, -1.2032), 0.0757),
    "IsothermalChemical": Flow(_isothermal_chemical, (0.5142, 0.9984, 1.0062), 0.450, dt=0.0002),
    "VallisElNino": Flow(_vallis_el_nino, (-6.9929, 0.0233, -0.1658), 0.548),
    "RabinovichFabrikant": Flow(_rabinovich_fabrikant, (-1.8207, 0.8344, 0.2078), 0.254, dt=0.001),
    "NoseHoover": Flow(_nose_hoover, (-1.9759, 0.2465, 0.7902), 0.0105),
    "Dadras": Flow(_dadras, (1.0284, -3.5349, -0.7208), 0.406, dt=0.002),
    "RikitakeDynamo": Flow(_rikitake_dynamo, (-0.7792, -0.6302, 2.6712), 0.132),
    "Aizawa": Flow(_aizawa, (-0.7845, -0.6289, -0.1762), 0.135),
    "ABC": Flow(_arnold_beltrami_childress, (3.3995, 2.7700, 6.0751), 0.367, dt=0.005),
    "ChenLee": Flow(_chen_lee, (0.1718, 0.1036, 6.2554), 0.164, dt=0.002),
    "SprottB": Flow(_sprott_b, (1.6878, 1.4848, -0.5371), 0.207),
}


def flow(name: str, num_steps: int = 30_000, *, dt: float | None = None) -> Recursion:
    """``s = s + dt field(s)``; the inputs are step numbers, and are not used.

    Parameters
    ----------
    name
        Key of `FLOWS`.
    num_steps
        Number of steps T.
    dt
        Step size; None: the flow's own.
    """
    if name not in FLOWS:
        raise ValueError(f"name must be one of {', '.join(FLOWS)}; got {name!r}.")
    found = FLOWS[name]
    length = found.dt if dt is None else dt

    def step(state: Array, _: Array) -> Array:
        return state + length * jnp.stack(found.field(*state))

    return Recursion(step, jnp.array(found.start), jnp.arange(num_steps))
