"""The pictures that a card and a README show: matplotlib without a display, its global settings left alone."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .results import METRIC_LABELS, EvaluationResults, ResultRow, rows_of, write_atomically
from .scoring import STEP_METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers; yellow left out as too faint on white."""
LINE_STYLES = ("-", "--", "-.", ":")
DRAWN_ERRORS = (1e-6, 1e3)
"""In context standard deviations; errors beyond (exact and failed forecasts) are drawn at the bound."""
TRUTH_COLOUR, FORECAST_COLOUR, CONTEXT_COLOUR = "#000000", "#D55E00", "#9A9A9A"


@dataclass(frozen=True, eq=False)
class AttractorPanel:
    """One series of an attractor figure: context, truth and forecast, each (time, channels) with 2 or more channels."""

    title: str
    past_values: np.ndarray
    future_values: np.ndarray
    forecast: np.ndarray


@dataclass(frozen=True, eq=False)
class FanPanel:
    """One channel of a fan figure: context and truth (time,), and (time, 3) low quantile, median, high quantile."""

    title: str
    past_values: np.ndarray
    future_values: np.ndarray
    quantiles: np.ndarray


def _matplotlib() -> ModuleType:
    """matplotlib with the parts used here; figures are made without pyplot, so that no display is needed."""
    try:
        import matplotlib.figure
        import mpl_toolkits.mplot3d  # noqa: F401  (registers the 3-D projection)
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib, found none; install it with: pip install 'hf_tsdyn[plot]'"
        ) from error
    return matplotlib


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width and height in inches, that needs no display."""
    return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def attractor_figure(panels: Sequence[AttractorPanel], *, num_columns: int = 3) -> Figure:
    """Draw each panel's truth and forecast in phase space, with the context behind them.

    The first three channels are drawn in three dimensions, or both of two in the plane, each axis in the data's
    units. Unseen values leave gaps.
    Raises: ValueError without panels, or with one of fewer than 2 channels; ImportError without matplotlib.
    """
    if not panels or any(panel.future_values.shape[1] < 2 for panel in panels):
        shapes = {panel.title: panel.future_values.shape for panel in panels}
        raise ValueError(
            f"an attractor figure needs series (time, channels) with 2 or more channels, found {shapes}; add a "
            "delayed copy of a single channel."
        )
    num_columns = min(num_columns, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = new_figure(4.0 * num_columns, 3.8 * num_rows + 0.5)
    for place, panel in enumerate(panels, start=1):
        projection = "3d" if panel.future_values.shape[1] >= 3 else None
        _draw_panel(figure.add_subplot(num_rows, num_columns, place, projection=projection), panel)
    handles = figure.axes[0].get_lines()
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
    return figure


def _draw_panel(axes: Any, panel: AttractorPanel) -> None:
    dimension = min(panel.future_values.shape[1], 3)
    # The lines start at the last seen state, so that truth and forecast leave it together.
    start = panel.past_values[-1:]
    series = {
        "context": (panel.past_values, CONTEXT_COLOUR, 0.8),
        "truth": (np.concatenate([start, panel.future_values]), TRUTH_COLOUR, 1.2),
        "forecast": (np.concatenate([start, panel.forecast]), FORECAST_COLOUR, 1.2),
    }
    for label, (values, colour, width) in series.items():
        axes.plot(*values[:, :dimension].T, color=colour, linewidth=width, label=label)
    axes.set_title(panel.title, fontsize=12, y=0.93 if dimension == 3 else 1.0)
    axes.set_xlabel("channel 0")
    axes.set_ylabel("channel 1")
    axes.tick_params(labelsize=8)
    if dimension == 3:
        axes.set_zlabel("channel 2")
        axes.locator_params(nbins=5)
        axes.set_box_aspect(None, zoom=0.85)  # room for the z label


def forecast_fan_figure(panels: Sequence[FanPanel], *, nominal: float = 0.8, num_columns: int = 3) -> Figure:
    """Draw each panel's context, truth and median over time, and the interval of coverage `nominal` as a band.

    Steps count from the end of the context; values are in the data's units. Unseen values leave gaps.
    Raises: ValueError without panels, or with quantiles of another shape; ImportError without matplotlib.
    """
    if not panels or any(panel.quantiles.shape != (len(panel.future_values), 3) for panel in panels):
        shapes = {panel.title: panel.quantiles.shape for panel in panels}
        raise ValueError(
            f"a fan figure needs low, middle and high quantiles (time, 3) of every panel, found {shapes}; take one "
            "channel of a forecast of three levels."
        )
    num_columns = min(num_columns, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = new_figure(4.6 * num_columns, 2.6 * num_rows + 0.5)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, num_columns, place)
        ahead = np.arange(1, len(panel.future_values) + 1)
        low, median, high = panel.quantiles.T
        axes.fill_between(
            ahead, low, high, color=FORECAST_COLOUR, alpha=0.25, linewidth=0, label=f"{100 * nominal:g} % interval"
        )
        axes.plot(np.arange(1 - len(panel.past_values), 1), panel.past_values, color=CONTEXT_COLOUR, label="context")
        axes.plot(ahead, panel.future_values, color=TRUTH_COLOUR, linewidth=1.2, label="truth")
        axes.plot(ahead, median, color=FORECAST_COLOUR, linewidth=1.2, label="median")
        axes.set_title(panel.title, fontsize=12)
        axes.set_xlabel("steps ahead")
        axes.spines[["top", "right"]].set_visible(False)
    _legend_beside(figure)
    return figure


def calibration_figure(results: EvaluationResults, *, model: str) -> Figure:
    """Draw the share of targets at or below each quantile against its level, a line a horizon; right is the diagonal.

    Raises: ValueError if the model was scored without a distribution; ImportError without matplotlib.
    """
    calibration = results.header.get("calibration", {})
    if model not in calibration:
        raise ValueError(
            f"calibration needs a model scored with its distribution, found {model!r} and those of "
            f"{list(calibration)}; evaluate it with quantile levels."
        )
    figure = new_figure(5.2, 5.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=CONTEXT_COLOUR, linewidth=1, label="calibrated")
    for place, entry in enumerate(calibration[model]):
        shares = np.array(entry["share_below"], dtype=float)  # None, where nothing was seen, becomes NaN
        colour, style = _style(place)
        label = f"first {entry['horizon']} steps"
        axes.plot(entry["levels"], shares, color=colour, linestyle=style, linewidth=1.5, marker="o", label=label)
    axes.set(xlabel="level of the quantile", ylabel="share of targets below", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_beside(figure, num_columns=3)
    return figure


def error_growth_figure(results: EvaluationResults, *, models: Sequence[str] | None = None) -> Figure:
    """Draw how the error of a single step grows with its distance, median over systems with the quartiles as a band.

    Steps are turned into periods of each system, unless that of one is unknown, and each curve is interpolated in the
    logarithm of time where it is defined; where fewer than half of the systems reach, the curve ends.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.add_subplot()
    for place, model in enumerate(models or results.header["models"]):
        times, quartiles = growth_quartiles(results, model)
        colour, style = _style(place)
        axes.plot(times, quartiles[1], color=colour, linestyle=style, linewidth=2, label=model)
        axes.fill_between(times, quartiles[0], quartiles[2], color=colour, alpha=0.12, linewidth=0)
    unit = "periods" if _periods_are_known(results) else "steps"
    axes.set(xscale="log", yscale="log", xlabel=f"time ahead ({unit})", ylabel=METRIC_LABELS[STEP_METRIC])
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    _legend_beside(figure)
    return figure


def _periods_are_known(results: EvaluationResults) -> bool:
    return all(facts["steps_per_period"] is not None for facts in results.header["systems"].values())


def growth_quartiles(results: EvaluationResults, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `(times, quartiles)`: a grid of times ahead and the three quartiles (3, times) over systems."""
    curves: dict[str, list[ResultRow]] = {}
    for row in rows_of(results.rows, model=model, metric=STEP_METRIC):
        curves.setdefault(row.system, []).append(row)
    if not curves:
        raise ValueError(
            f"error growth needs {STEP_METRIC!r} rows of {model!r}, found none among the models "
            f"{results.header['models']}; evaluate it first."
        )
    times, values = [], []
    for system, rows in curves.items():
        rows = sorted(rows, key=lambda row: row.horizon)
        rate = results.header["systems"][system]["steps_per_period"] if _periods_are_known(results) else 1
        times.append(np.log([row.horizon / rate for row in rows]))
        values.append(np.log(np.clip([row.value for row in rows], *DRAWN_ERRORS)))
    grid = np.linspace(min(t[0] for t in times), max(t[-1] for t in times), 60)
    errors = np.stack([np.interp(grid, t, v, left=np.nan, right=np.nan) for t, v in zip(times, values, strict=True)])
    reached = np.isfinite(errors).mean(axis=0) >= 0.5
    return np.exp(grid[reached]), np.exp(np.nanpercentile(errors[:, reached], [25, 50, 75], axis=0))


def system_error_figure(
    results: EvaluationResults, *, model: str, horizon: int, metric: str = "normalised_mae"
) -> Figure:
    """Draw the error on every system: a bar for `model`, sorted by it, and a mark for each baseline.

    Infinite errors (forecasts that were not finite) reach to the right edge.
    Raises: ValueError if the model has no such rows; ImportError without matplotlib.
    """
    rows = sorted(rows_of(results.rows, model=model, metric=metric, horizon=horizon), key=lambda row: row.value)
    if not rows:
        raise ValueError(
            f"bars need {metric!r} rows of {model!r} at horizon {horizon}, found none among the models "
            f"{results.header['models']} and horizons {results.header['protocol']['horizons']}."
        )
    place = {row.system: index for index, row in enumerate(rows)}
    figure = new_figure(7.5, 1.3 + 0.27 * len(rows))
    axes = figure.add_subplot()
    others = [name for name in results.header["baselines"] if name != model]
    marks = {name: rows_of(results.rows, model=name, metric=metric, horizon=horizon) for name in others}
    finite = [row.value for group in (rows, *marks.values()) for row in group if np.isfinite(row.value)]
    edge = 1.1 * max(finite, default=1.0)
    bars = [min(row.value, edge) for row in rows]
    axes.barh(range(len(rows)), bars, color=COLOURS[0], alpha=0.75, height=0.7, label=model)
    for index, name in enumerate(others, start=1):
        x, y = [min(row.value, edge) for row in marks[name]], [place[row.system] for row in marks[name]]
        look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": "oDs^v"[index % 5], "s": 36}
        axes.scatter(x, y, **look, edgecolors="white", linewidths=0.6, zorder=3, label=name)
    axes.set_yticks(range(len(rows)), [row.system for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel(f"{METRIC_LABELS.get(metric, metric)}, first {horizon} steps, median over windows")
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_beside(figure)
    return figure


def _style(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], LINE_STYLES[place % len(LINE_STYLES)]


def _legend_beside(figure: Figure, *, num_columns: int = 4) -> None:
    """Put the legend above the axes, where it covers no data."""
    axes: Axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if axes.containers:  # bars come last in matplotlib's order, first in ours
        handles, labels = handles[-1:] + handles[:-1], labels[-1:] + labels[:-1]
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), num_columns), frameon=False, fontsize=11
    )


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure in the format of the path's suffix (png, svg, pdf), replacing `path` in one step.

    Equal figures give equal bytes: neither time nor version is written into the file.
    """
    suffix = Path(path).suffix.lstrip(".")
    unstamped: Mapping[str, dict[str, None]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    if suffix not in unstamped:
        raise ValueError(f"a figure's file must end in one of {sorted(unstamped)}, found {str(path)!r}; rename it.")
    buffer = io.BytesIO()
    with _matplotlib().rc_context({"svg.hashsalt": "hf_tsdyn"}):
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=unstamped[suffix])
    write_atomically(path, buffer.getvalue())
