"""The chaotic systems that the demo brings along, integrated when they are first asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NUM_STEPS = 12_000
"""Of a shipped series: contexts and forecasts from many steps, and two stretches of the attractor to compare."""
TRANSIENT_STEPS = 2_000
"""Steps before the first, so that the series starts on the attractor."""
START = (1.0, 0.5, 0.2)
"""State at the first of those."""
SUBSTEPS = 4
"""Of the integration, in a step of a series."""

State = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A series to forecast.

    values: (time, channels), float32; NaN = unseen. channel_names: none where channels are numbered.
    dt: time between two steps. lyapunov_time: in the unit of `dt`; None where nobody knows it.
    remark: a sentence about it, if there is anything to say.
    """

    title: str
    values: np.ndarray
    channel_names: tuple[str, ...] = ()
    dt: float = 1.0
    lyapunov_time: float | None = None
    remark: str = ""

    def channel_name(self, channel: int) -> str:
        """Name a channel, by its number where it has no name."""
        return self.channel_names[channel] if self.channel_names else f"channel {channel}"


@dataclass(frozen=True)
class System:
    """Equations, sampling, and the largest Lyapunov exponent per unit of time that the source gives for them.

    loc, scale: mean and standard deviation of the series' channels.
    """

    derivative: Callable[[float, float, float], State]
    dt: float
    lyapunov_exponent: float
    loc: State = (0.0, 0.0, 0.0)
    scale: State = (1.0, 1.0, 1.0)


def _lorenz(x: float, y: float, z: float) -> State:
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z


def _rossler(x: float, y: float, z: float) -> State:
    return -y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)


def _halvorsen(x: float, y: float, z: float) -> State:
    a = 1.27
    return -a * x - 4 * y - 4 * z - y * y, -a * y - 4 * z - 4 * x - z * z, -a * z - 4 * x - 4 * y - x * x


def _thomas(x: float, y: float, z: float) -> State:
    b = 0.18
    return math.sin(y) - b * x, math.sin(z) - b * y, math.sin(x) - b * z


SYSTEMS = {
    "Lorenz-63": System(
        _lorenz, dt=0.01, lyapunov_exponent=0.9056, loc=(0.110, 0.098, -0.048), scale=(0.998, 1.012, 1.054)
    ),
    "Rössler": System(_rossler, dt=0.08, lyapunov_exponent=0.0714),
    "Halvorsen": System(_halvorsen, dt=0.02, lyapunov_exponent=0.7899),
    "Thomas": System(_thomas, dt=0.2, lyapunov_exponent=0.0349),
}
"""Equations and exponents: Sprott, Elegant Chaos (2010). Time steps, and Lorenz-63's units, are those of the series
that this project's AL-RNNs learnt, which know no others; elsewhere a turn takes some 60 to 150 steps."""

_RESCALED = "Its channels are rescaled: their means are about 0, their standard deviations about 1."


@lru_cache(maxsize=len(SYSTEMS))
def shipped_trajectory(name: str, *, num_steps: int = NUM_STEPS) -> Trajectory:
    """Integrate a system of `SYSTEMS` from a fixed state.

    Raises: KeyError on another name.
    """
    system = SYSTEMS[name]
    states = _integrate(system, TRANSIENT_STEPS + num_steps)[TRANSIENT_STEPS:]
    scaled = (states - states.mean(axis=0)) / states.std(axis=0)
    values = (scaled * system.scale + system.loc).astype(np.float32)
    values.flags.writeable = False
    return Trajectory(name, values, ("x", "y", "z"), system.dt, 1 / system.lyapunov_exponent, _RESCALED)


def _integrate(system: System, num_steps: int) -> np.ndarray:
    """States (num_steps, 3) by the classical Runge-Kutta method, in plain floats: of three, arrays are slower."""
    derivative, h = system.derivative, system.dt / SUBSTEPS
    x, y, z = START
    states = np.empty((num_steps, 3))
    for step in range(num_steps):
        states[step] = x, y, z
        for _ in range(SUBSTEPS):
            a, b, c = derivative(x, y, z)
            d, e, f = derivative(x + h / 2 * a, y + h / 2 * b, z + h / 2 * c)
            p, q, r = derivative(x + h / 2 * d, y + h / 2 * e, z + h / 2 * f)
            u, v, w = derivative(x + h * p, y + h * q, z + h * r)
            x += h / 6 * (a + 2 * d + 2 * p + u)
            y += h / 6 * (b + 2 * e + 2 * q + v)
            z += h / 6 * (c + 2 * f + 2 * r + w)
    return states
