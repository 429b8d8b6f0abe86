"""The free run of a piecewise linear model of a system, and all that a report on it is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .models.alrnn.fixed_points import Cycle, FixedPoint, find_cycles, fixed_points
from .models.alrnn.symbolic import PiecewiseLinearMap, SymbolicOrbit, lyapunov_exponents, symbolic_orbit

if TYPE_CHECKING:
    from torch import Tensor

    from .metrics import LyapunovSpectrum
    from .models.alrnn import ALRNNForPrediction

FIXED_POINT_REGIONS = 256
"""Regions whose fixed points are computed: all that a model has if they are no more, else the most visited."""
LONGEST_CYCLE = 250
"""In steps, of those that are searched for."""
CYCLE_CANDIDATES = 600
SHORTEST_RUN = 540
"""Steps of the shortest free run: what `lyapunov_exponents` needs."""
STAGES = ("free run", "fixed points", "cycles", "Lyapunov exponents")

_JACOBIANS_AT_ONCE = 500
_MAX_VOLUMES = 4000


@dataclass(frozen=True, eq=False)
class SymbolicAnalysis:
    """All that a report and its figures are made of.

    fixed_points: of `regions_to_solve`, of visited regions first.
    mean_log_determinant: of the Jacobians along the orbit, per unit of time: the rate at which volume grows.
    dt: time between two steps.
    """

    orbit: SymbolicOrbit
    fixed_points: list[FixedPoint]
    cycles: list[Cycle]
    lyapunov: LyapunovSpectrum
    mean_log_determinant: float
    dt: float


def analyse_symbols(
    model: ALRNNForPrediction,
    past_values: ArrayLike | Tensor,
    *,
    dt: float = 1.0,
    num_steps: int = 20_000,
    progress: Callable[[str], None] = lambda stage: None,
) -> SymbolicAnalysis:
    """Run the model freely from the end of a series and analyse the orbit and the map it follows.

    Args:
        past_values: (time, channels), data units; NaN = unseen.
        dt: time between two steps, the unit of exponents.
        num_steps: of the free run, after a transient.
        progress: called with each of `STAGES` as it begins.
    Raises: ValueError on other channels than the model's, a `dt` not above 0, a run below `SHORTEST_RUN`, or if the
        model diverges.
    """
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be above 0 and finite, found {dt}; give the time between two steps.")
    if num_steps < SHORTEST_RUN:
        raise ValueError(
            f"num_steps must be at least {SHORTEST_RUN}, which Lyapunov exponents need, found {num_steps}; raise it."
        )
    progress(STAGES[0])
    orbit = symbolic_orbit(model, past_values, num_steps=num_steps)
    progress(STAGES[1])
    points = fixed_points(model, regions_to_solve(orbit))
    progress(STAGES[2])
    cycles = find_cycles(model, orbit, max_length=LONGEST_CYCLE, max_candidates=CYCLE_CANDIDATES)
    progress(STAGES[3])
    lyapunov = lyapunov_exponents(model, orbit.states, dt=dt)
    return SymbolicAnalysis(orbit, points, cycles, lyapunov, _mean_log_determinant(model, orbit) / dt, dt)


def regions_to_solve(orbit: SymbolicOrbit) -> NDArray[np.bool_]:
    """Return the regions, (regions, relu units), whose fixed points are worth it: visited ones, by falling occupancy.

    After them come all others where a model has at most `FIXED_POINT_REGIONS` in all, visited or not.
    """
    num_units = orbit.regions.shape[1]
    if 2**num_units > FIXED_POINT_REGIONS:
        return orbit.regions[:FIXED_POINT_REGIONS]
    visited = set(map(tuple, orbit.regions.tolist()))
    others = [code for code in itertools.product((False, True), repeat=num_units) if code not in visited]
    return np.concatenate([orbit.regions, np.array(others, dtype=bool).reshape(len(others), num_units)])


def _mean_log_determinant(model: ALRNNForPrediction, orbit: SymbolicOrbit) -> float:
    """Mean of log |det J| over the orbit's steps; where it visits very many regions, over some, evenly spread."""
    maps, regions, shares = PiecewiseLinearMap.of(model), orbit.regions, orbit.occupancy
    if len(regions) > _MAX_VOLUMES:
        steps = np.linspace(0, len(orbit.symbols) - 1, _MAX_VOLUMES).astype(np.int64)
        regions, shares = regions[orbit.symbols[steps]], np.full(_MAX_VOLUMES, 1 / _MAX_VOLUMES)
    parts = [regions[first : first + _JACOBIANS_AT_ONCE] for first in range(0, len(regions), _JACOBIANS_AT_ONCE)]
    return float(shares @ np.concatenate([np.linalg.slogdet(maps.jacobian(part)).logabsdet for part in parts]))
