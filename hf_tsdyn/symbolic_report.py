"""What a piecewise linear model of a system says about it, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .metrics import kaplan_yorke_dimension
from .metrics.invariants import InvariantOptions, spectrum_distance, state_space_divergence
from .model_card import render_strictly
from .models.alrnn.fixed_points import Cycle, FixedPoint
from .models.alrnn.symbolic import SymbolicOrbit, region_code
from .symbolic_analysis import (
    FIXED_POINT_REGIONS,
    LONGEST_CYCLE,
    SymbolicAnalysis,
    analyse_symbols,
    regions_to_solve,
)
from .symbolic_figures import region_name

if TYPE_CHECKING:
    from torch import Tensor

    from .models.alrnn import ALRNNForPrediction

LISTED_REGIONS = 64
"""The most visited; the rest is counted."""
LISTED_EXITS = 12
"""Of a region, the likeliest."""
LISTED_CYCLES = 6
"""The shortest real ones; virtual ones where none is real."""
LISTED_EXPONENTS = 6
COMMON_SHARE = 0.01
"""Share of the time above which a region counts as one of the model's own."""
ROWS = 12
"""Of a table; the rest is counted."""
ZERO_RATE = 1e-6
"""Per step, up to which an exponent counts as 0 however sure it is: weights are float32."""
TEMPLATE = Path(__file__).parent / "templates" / "symbolic_report.md"


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
    analysis: SymbolicAnalysis,
    *,
    truth: np.ndarray | None = None,
    options: InvariantOptions | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """Return the numbers of a report, ready for JSON; None is a number that is not finite or was not seen.

    Regions go by their codes, a sign a unit, + where it is active; long codes by `region_name`.
    Args:
        truth: (time, channels) of the same sampling, data units, to compare the free run with.
        options: how it is compared, `InvariantOptions()` by default.
        note: why there is no comparison, where one was asked for.
    Raises: ValueError if the truth has gaps or other channels.
    """
    orbit = analysis.orbit
    per_time = orbit.switch_rate / analysis.dt
    entropy = orbit.switch_entropy
    return {
        "num_steps": len(orbit.symbols),
        "dt": analysis.dt,
        "num_relu_units": orbit.regions.shape[1],
        "num_regions": len(orbit.regions),
        "num_regions_above_1_percent": int((orbit.occupancy > COMMON_SHARE).sum()),
        "regions": _regions(orbit),
        "flips_per_step": orbit.flips.tolist(),
        "topological_entropy": orbit.topological_entropy,
        "switch_entropy": entropy,
        "switches_per_time": per_time,
        "switch_entropy_per_time": None if entropy is None else entropy * per_time,
        "fixed_points": [_fixed_point(orbit, point) for point in analysis.fixed_points],
        "num_regions_searched": len(regions_to_solve(orbit)),
        "cycles": _cycles(analysis),
        **_spectrum(analysis),
        "comparison": None if truth is None else _comparison(truth, orbit.observed, options or InvariantOptions()),
        "comparison_note": note,
    }


def _regions(orbit: SymbolicOrbit) -> list[dict[str, Any]]:
    listed = min(len(orbit.regions), LISTED_REGIONS)
    exits, dwell_times = orbit.exits(listed), orbit.dwell_times
    return [
        {
            "code": orbit.label(region),
            "name": region_name(orbit, region),
            "share": float(orbit.occupancy[region]),
            "mean_dwell_steps": float(dwell_times[region].mean()) if dwell_times[region].size else None,
            "num_exits": int(np.count_nonzero(exits[region])),
            "exits": {
                region_name(orbit, other): float(exits[region, other])
                for other in np.argsort(-exits[region], kind="stable")[:LISTED_EXITS]
                if exits[region, other] > 0
            },
        }
        for region in range(listed)
    ]


def _fixed_point(orbit: SymbolicOrbit, point: FixedPoint) -> dict[str, Any]:
    found = np.flatnonzero((orbit.regions == point.region).all(axis=1))
    return {
        "region": region_name(orbit, int(found[0])) if found.size else region_code(point.region),
        "is_real": point.is_real,
        "visited": bool(found.size),
        "kind": point.kind,
        "position": point.observed.tolist(),
        "largest_modulus": float(np.abs(point.eigenvalues).max()),
    }


def _spectrum(analysis: SymbolicAnalysis) -> dict[str, Any]:
    """Exponents and what follows from them, those of which nobody can say that they are not 0 taken as 0."""
    exponents, errors = analysis.lyapunov
    certain = np.abs(exponents) > np.maximum(2 * errors, ZERO_RATE / analysis.dt)
    distinct = np.where(certain, exponents, 0.0)
    return {
        "lyapunov": {
            "exponents": [_finite(value) for value in exponents],
            "standard_errors": [_finite(value) for value in errors],
            "sum": _finite(exponents.sum()),
            "sum_of_positive": float(distinct[distinct > 0].sum()),
            "sign_of_largest": int(np.sign(distinct[0])),
            "mean_log_determinant": _finite(analysis.mean_log_determinant),
        },
        "kaplan_yorke_dimension": _finite(kaplan_yorke_dimension(distinct)),
    }


def _cycles(analysis: SymbolicAnalysis) -> dict[str, Any]:
    orbit, found = analysis.orbit, analysis.cycles
    listed = [cycle for cycle in found if cycle.is_real] or found
    return {
        "longest_searched": LONGEST_CYCLE,
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
    flips = [_number(1000 * rate) for rate in report["flips_per_step"]]
    variables = {
        "report": report,
        "figures": figures or {},
        "number": _number,
        "unit": "step" if report["dt"] == 1 else "unit of time",
        "possible_regions": f"{2**units:,}" if units <= 20 else f"2^{units}",
        "has_all_regions": 2**units <= FIXED_POINT_REGIONS,
        "num_real": sum(point["is_real"] for point in report["fixed_points"]),
        "flips": _shortened(flips, ROWS),
        "exponents": ", ".join(f"{_number(value)} ± {_number(error, 1)}" for value, error in pairs),
        "region_table": _region_table(report["regions"], report["num_regions"]),
        "fixed_point_table": _fixed_point_table(report["fixed_points"]),
        "cycle_table": _cycle_table(report["cycles"]["shortest"]),
        "comparison_table": _comparison_table(report["comparison"]) if report["comparison"] else "",
    }
    return render_strictly(TEMPLATE, variables)


def _region_table(regions: Sequence[Mapping[str, Any]], num_regions: int) -> str:
    rows = []
    for region in regions[:ROWS]:
        exits = [f"`{name}` {100 * share:.0f} %" for name, share in region["exits"].items()]
        stay = "-" if region["mean_dwell_steps"] is None else f"{region['mean_dwell_steps']:,.1f}"
        rows.append((f"`{region['name']}`", f"{100 * region['share']:.1f} %", stay, _shortened(exits, 4) or "-"))
    return _table(("region", "time spent", "mean stay, steps", "goes on to"), rows, num_regions)


def _fixed_point_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Real ones first, and of both those of visited regions."""
    rows = []
    for point in sorted(points, key=lambda point: (not point["is_real"], not point["visited"])):
        position = _shortened([_number(value) for value in point["position"]], 5)
        where = "real" if point["is_real"] else "virtual"
        where += "" if point["visited"] else ", not visited"
        rows.append((f"`{point['region']}`", where, point["kind"], position, _number(point["largest_modulus"], 5)))
    return _table(("region", "where", "kind", "position, data units", "modulus"), rows, len(rows))


def _cycle_table(cycles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for cycle in cycles:
        visits = _shortened([f"`{name}` {steps:,}" for name, steps in cycle["visits"]], 8)
        where, modulus = "real" if cycle["is_real"] else "virtual", _number(cycle["largest_modulus"])
        period = _number(cycle["period"], 4)
        rows.append((f"{cycle['period_steps']:,}", period, where, cycle["kind"], modulus, visits))
    return _table(("steps", "period", "where", "kind", "modulus", "steps in each region in turn"), rows, len(rows))


def _comparison_table(comparison: Mapping[str, Any]) -> str:
    names = {"state_space_divergence": "state-space divergence, nats", "spectrum_distance": "spectrum distance, 0 to 1"}
    rows = [(label, _number(comparison[name]), _number(comparison[f"{name}_floor"])) for name, label in names.items()]
    return _table(("", "free run", "floor"), rows, len(rows))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> str:
    """The first rows, and how many more there are of all; empty without any."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows[:ROWS]]
    return "\n".join([*lines, *(["", f"{total - ROWS:,} more are not listed."] if total > ROWS else [])])


def _shortened(items: Sequence[str], longest: int) -> str:
    return ", ".join([*items[:longest], *(["..."] if len(items) > longest else [])])


def _number(value: float | None, digits: int = 3) -> str:
    """To so many digits, whole from 1,000 on and with powers of ten from a million on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.{digits}g}"
