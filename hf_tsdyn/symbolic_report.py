"""What a piecewise linear model of a system says about it, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .metrics import kaplan_yorke_dimension
from .metrics.invariants import InvariantOptions, spectrum_distance, state_space_divergence
from .model_card import render_strictly
from .models.alrnn.fixed_points import Cycle, FixedPoint, find_cycles, fixed_points
from .models.alrnn.symbolic import PiecewiseLinearMap, SymbolicOrbit, lyapunov_exponents, symbolic_orbit
from .symbolic_figures import region_name

if TYPE_CHECKING:
    from torch import Tensor

    from .metrics import LyapunovSpectrum
    from .models.alrnn import ALRNNForPrediction

FIXED_POINT_REGIONS = 256
"""Regions whose fixed points are computed, the most visited."""
CYCLE_LENGTHS = (8, 40, 250)
"""Longest cycles of each search, in steps: a search of long ones alone has no candidates left for short ones."""
LISTED_CYCLES = 6
"""The shortest real ones; virtual ones where none is real."""
LISTED_EXPONENTS = 6
COMMON_SHARE = 0.01
"""Share of the time above which a region counts as one of the model's own."""
ROWS = 12
"""Of a table; the rest is counted."""
TEMPLATE = Path(__file__).parent / "templates" / "symbolic_report.md"
STAGES = ("free run", "fixed points", "cycles", "Lyapunov exponents")


@dataclass(frozen=True, eq=False)
class SymbolicAnalysis:
    """All that a report and its figures are made of.

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
    Raises: ValueError on other channels than the model's, a `dt` not above 0, or if the model diverges.
    """
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be above 0 and finite, found {dt}; give the time between two steps.")
    progress(STAGES[0])
    orbit = symbolic_orbit(model, past_values, num_steps=num_steps)
    progress(STAGES[1])
    points = fixed_points(model, orbit.regions[:FIXED_POINT_REGIONS])
    progress(STAGES[2])
    cycles = _find_cycles(model, orbit)
    progress(STAGES[3])
    lyapunov = lyapunov_exponents(model, orbit.states, dt=dt)
    maps = PiecewiseLinearMap.of(model)
    log_volumes = np.array([np.linalg.slogdet(maps.jacobian(region)).logabsdet for region in orbit.regions])
    return SymbolicAnalysis(orbit, points, cycles, lyapunov, float(orbit.occupancy @ log_volumes) / dt, dt)


def _find_cycles(model: ALRNNForPrediction, orbit: SymbolicOrbit) -> list[Cycle]:
    """Search for cycles up to each of `CYCLE_LENGTHS`, those that are longer than the one before."""
    cycles = []
    for shorter, longest in zip((1, *CYCLE_LENGTHS), CYCLE_LENGTHS, strict=False):
        found = find_cycles(model, orbit, max_length=longest)
        cycles += [cycle for cycle in found if len(cycle.symbols) > shorter]
    return cycles


def symbolic_report(
    model: ALRNNForPrediction,
    past_values: ArrayLike | Tensor,
    *,
    dt: float = 1.0,
    num_steps: int = 20_000,
    truth: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return what `report_of` makes of an analysis from the end of `past_values`; arguments and errors of both."""
    return report_of(analyse_symbols(model, past_values, dt=dt, num_steps=num_steps), truth=truth)


def report_of(
    analysis: SymbolicAnalysis, *, truth: np.ndarray | None = None, options: InvariantOptions | None = None
) -> dict[str, Any]:
    """Return the numbers of a report, ready for JSON; None is a number that is not finite or was not seen.

    Regions go by their codes, a sign a unit, + where it is active; long codes by `region_name`.
    Args:
        truth: (time, channels) of the same sampling, data units, to compare the free run with.
        options: how it is compared, `InvariantOptions()` by default.
    Raises: ValueError if the truth has gaps or other channels.
    """
    orbit, exponents = analysis.orbit, analysis.lyapunov.exponents
    return {
        "num_steps": len(orbit.symbols),
        "dt": analysis.dt,
        "num_relu_units": orbit.regions.shape[1],
        "num_regions": len(orbit.regions),
        "num_regions_above_1_percent": int((orbit.occupancy > COMMON_SHARE).sum()),
        "regions": _regions(orbit),
        "flips_per_step": orbit.flips.tolist(),
        "topological_entropy": _finite(orbit.topological_entropy),
        "fixed_points": [_fixed_point(orbit, point) for point in analysis.fixed_points],
        "num_regions_searched": min(len(orbit.regions), FIXED_POINT_REGIONS),
        "cycles": _cycles(analysis),
        "lyapunov": {
            "exponents": [_finite(value) for value in exponents],
            "standard_errors": [_finite(value) for value in analysis.lyapunov.standard_errors],
            "sum": _finite(exponents.sum()),
            "mean_log_determinant": _finite(analysis.mean_log_determinant),
        },
        "kaplan_yorke_dimension": _finite(kaplan_yorke_dimension(exponents)),
        "comparison": None if truth is None else _comparison(truth, orbit.observed, options or InvariantOptions()),
    }


def _regions(orbit: SymbolicOrbit) -> list[dict[str, Any]]:
    exits, dwell_times = orbit.switch_matrix, orbit.dwell_times
    return [
        {
            "code": orbit.label(region),
            "name": region_name(orbit, region),
            "share": float(orbit.occupancy[region]),
            "mean_dwell_steps": float(dwell_times[region].mean()) if dwell_times[region].size else None,
            "exits": {
                region_name(orbit, other): float(exits[region, other])
                for other in np.argsort(-exits[region], kind="stable")
                if exits[region, other] > 0
            },
        }
        for region in range(len(orbit.regions))
    ]


def _fixed_point(orbit: SymbolicOrbit, point: FixedPoint) -> dict[str, Any]:
    region = int(np.flatnonzero((orbit.regions == point.region).all(axis=1))[0])
    return {
        "region": region_name(orbit, region),
        "is_real": point.is_real,
        "kind": point.kind,
        "position": point.observed.tolist(),
        "largest_modulus": float(np.abs(point.eigenvalues).max()),
    }


def _cycles(analysis: SymbolicAnalysis) -> dict[str, Any]:
    orbit, found = analysis.orbit, analysis.cycles
    listed = [cycle for cycle in found if cycle.is_real] or found
    return {
        "longest_searched": CYCLE_LENGTHS[-1],
        "num_real": sum(cycle.is_real for cycle in found),
        "num_virtual": sum(not cycle.is_real for cycle in found),
        "shortest": [
            {
                "period_steps": len(cycle.symbols),
                "period": len(cycle.symbols) * analysis.dt,
                "is_real": cycle.is_real,
                "kind": cycle.kind,
                "largest_modulus": float(np.abs(cycle.eigenvalues).max()),
                "visits": _visits(orbit, cycle),
            }
            for cycle in sorted(listed, key=lambda cycle: len(cycle.symbols))[:LISTED_CYCLES]
        ],
    }


def _visits(orbit: SymbolicOrbit, cycle: Cycle) -> list[tuple[str, int]]:
    """Regions in turn and the steps in each, from the start of a visit; a region that the orbit missed is "other"."""
    changes = np.flatnonzero(cycle.symbols != np.roll(cycle.symbols, 1))
    symbols = np.roll(cycle.symbols, -changes[0] if changes.size else 0).tolist()
    runs = [(symbol, len(list(steps))) for symbol, steps in groupby(symbols)]
    return [(region_name(orbit, symbol) if symbol >= 0 else "other", steps) for symbol, steps in runs]


def _comparison(truth: np.ndarray, generated: np.ndarray, options: InvariantOptions) -> dict[str, Any]:
    """Metrics of as many steps of both, beside what the next steps of the truth score against the same first ones."""
    length = min(len(truth) // 2, len(generated))
    reference, floor, orbit = truth[:length], truth[length : 2 * length], generated[:length]
    smoothing = options.spectrum_smoothing
    return {
        "num_steps": length,
        "state_space_divergence": _finite(state_space_divergence(reference, orbit, options)),
        "state_space_divergence_floor": _finite(state_space_divergence(reference, floor, options)),
        "spectrum_distance": spectrum_distance(reference, orbit, smoothing=smoothing),
        "spectrum_distance_floor": spectrum_distance(reference, floor, smoothing=smoothing),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def render_symbolic_report(report: Mapping[str, Any], *, figures: Mapping[str, str] | None = None) -> str:
    """Return a report as Markdown, with a line on what each number means: equal arguments, equal text.

    figures: captions by path, shown at the end.
    """
    units, spectrum = report["num_relu_units"], report["lyapunov"]
    pairs = list(zip(spectrum["exponents"], spectrum["standard_errors"], strict=True))[:LISTED_EXPONENTS]
    flips = [f"{1000 * rate:.3g}" for rate in report["flips_per_step"]]
    variables = {
        "report": report,
        "figures": figures or {},
        "number": _number,
        "possible_regions": f"{2**units:,}" if units <= 20 else f"2^{units}",
        "num_real": sum(point["is_real"] for point in report["fixed_points"]),
        "flips": _shortened(flips, ROWS),
        "exponents": ", ".join(f"{_number(value)} ± {_number(error, '.1g')}" for value, error in pairs),
        "region_table": _region_table(report["regions"]),
        "fixed_point_table": _fixed_point_table(report["fixed_points"]),
        "cycle_table": _cycle_table(report["cycles"]["shortest"]),
        "comparison_table": _comparison_table(report["comparison"]) if report["comparison"] else "",
    }
    return render_strictly(TEMPLATE, variables)


def _region_table(regions: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for region in regions:
        exits = [f"`{name}` {100 * share:.0f} %" for name, share in region["exits"].items()]
        stay = _number(region["mean_dwell_steps"], ".1f")
        rows.append((f"`{region['name']}`", f"{100 * region['share']:.1f} %", stay, _shortened(exits, 4) or "-"))
    return _table(("region", "time spent", "mean stay, steps", "goes on to"), rows)


def _fixed_point_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Real ones first."""
    rows = []
    for point in sorted(points, key=lambda point: not point["is_real"]):
        position = _shortened([f"{value:.3g}" for value in point["position"]], 5)
        where = "real" if point["is_real"] else "virtual"
        rows.append((f"`{point['region']}`", where, point["kind"], position, f"{point['largest_modulus']:.4f}"))
    return _table(("region", "where", "kind", "position, data units", "modulus"), rows)


def _cycle_table(cycles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for cycle in cycles:
        visits = _shortened([f"`{name}` {steps}" for name, steps in cycle["visits"]], 8)
        where, modulus = "real" if cycle["is_real"] else "virtual", f"{cycle['largest_modulus']:.3g}"
        rows.append((str(cycle["period_steps"]), f"{cycle['period']:.4g}", where, cycle["kind"], modulus, visits))
    return _table(("steps", "period", "where", "kind", "modulus", "steps in each region in turn"), rows)


def _comparison_table(comparison: Mapping[str, Any]) -> str:
    names = {"state_space_divergence": "state-space divergence, nats", "spectrum_distance": "spectrum distance, 0 to 1"}
    rows = [(label, _number(comparison[name]), _number(comparison[f"{name}_floor"])) for name, label in names.items()]
    return _table(("", "free run", "floor"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first rows, and how many more there are; empty without any."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows[:ROWS]]
    return "\n".join([*lines, *(["", f"{len(rows) - ROWS} more are not listed."] if len(rows) > ROWS else [])])


def _shortened(items: Sequence[str], longest: int) -> str:
    return ", ".join([*items[:longest], *(["..."] if len(items) > longest else [])])


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)
