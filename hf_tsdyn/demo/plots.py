"""The pictures of the demo's page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures import CONTEXT_COLOUR, FORECAST_COLOUR, TRUTH_COLOUR, AttractorPanel, attractor_figure, new_figure
from ..reconstruction_figures import embedding_delay, phase_coordinates, reconstruction_figure
from ..symbolic_figures import symbol_figure, transition_figure
from .forecasts import BAND_LEVELS, THRESHOLD, ForecastStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
DRAWN_CHANNELS = 4
BAND_LABEL = f"{BAND_LEVELS[1] - BAND_LEVELS[0]:.0%} band"
_LOWEST_ERROR = 1e-7
"""About what 32-bit numbers resolve; smaller ones are drawn there."""
_VALID_COLOUR = "#0072B2"


def phase_figure(study: ForecastStudy) -> Figure:
    """Draw context, truth and forecast in phase space, a single channel against itself one delay later."""
    drawn = _in_frame(study, study.forecast)
    series = (study.past_values, study.future_values, drawn)
    delay = embedding_delay(np.concatenate([study.past_values, study.future_values]))
    if delay:  # a delay may not reach beyond the shorter of the two stretches
        delay = min(delay, len(study.past_values) - 1, len(drawn) - 1)
    figure = attractor_figure([AttractorPanel("", *(phase_coordinates(values, delay) for values in series))])
    if delay:
        figure.axes[0].set_ylabel(f"channel 0, {delay} step{'' if delay == 1 else 's'} later")
    return _finished(figure, study, (5.0, 5.0))


def channel_figure(study: ForecastStudy) -> Figure:
    """Draw the first channels over time, the end of the context before 0, and where the forecast stops being valid."""
    count = min(study.past_values.shape[1], DRAWN_CHANNELS)
    shown = min(len(study.past_values), max(len(study.forecast) // 2, 64))
    ahead = study.step_time * np.arange(1, len(study.forecast) + 1)
    before = study.step_time * np.arange(1 - shown, 1)
    drawn = _in_frame(study, study.forecast)
    figure = new_figure(8.2, 5.0)
    stacked = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for channel, axes in enumerate(stacked):
        axes.plot(before, study.past_values[-shown:, channel], color=CONTEXT_COLOUR, label="context")
        axes.plot(ahead, study.future_values[:, channel], color=TRUTH_COLOUR, linewidth=1.4, label="truth")
        axes.plot(ahead, drawn[:, channel], color=FORECAST_COLOUR, linewidth=1.4, label="forecast")
        if study.band is not None:
            low, high = np.clip(study.band[:, channel].T, *(each[channel] for each in _frame(study)))
            look = {"color": FORECAST_COLOUR, "alpha": 0.2, "linewidth": 0, "label": BAND_LABEL}
            axes.fill_between(ahead[: len(low)], low, high, **look)
        _mark_valid(axes, study)
        axes.set_ylabel(f"channel {channel}")
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    stacked[-1].set_xlabel(f"time ahead, {study.time_unit}")
    handles, labels = stacked[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=11)
    return _finished(figure, study)


def error_figure(study: ForecastStudy) -> Figure:
    """Draw how the error grows with time, on a logarithmic axis, and the threshold of valid prediction."""
    figure = new_figure(6.4, 5.4)
    axes = figure.add_subplot()
    ahead = study.step_time * np.arange(1, len(study.error) + 1)
    error = np.where(np.isfinite(study.error), np.maximum(study.error, _LOWEST_ERROR), np.nan)
    axes.plot(ahead, error, color=FORECAST_COLOUR, linewidth=1.8)
    if study.trajectory.lyapunov_time is not None:
        _draw_growth(axes, ahead, error)
    axes.axhline(THRESHOLD, color=CONTEXT_COLOUR, linestyle="--", linewidth=1.2, label=f"threshold {THRESHOLD:g}")
    _mark_valid(axes, study)
    axes.set(yscale="log", xlabel=f"time ahead, {study.time_unit}", ylabel="error / standard deviation of the truth")
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=11)
    return _finished(figure, study)


def _draw_growth(axes: Any, ahead: np.ndarray, error: np.ndarray) -> None:
    """Draw how the first error would grow by the Lyapunov exponent alone, up to the size of the attractor."""
    seen = np.flatnonzero(np.isfinite(error))
    if not seen.size:
        return
    first, time = error[seen[0]], ahead[seen[0]]
    end = min(ahead[-1], time + max(np.log(1 / first), 0.0))
    drawn = np.array([time, end])
    label = "first error, growing as $e^t$"
    axes.plot(drawn, first * np.exp(drawn - time), color=CONTEXT_COLOUR, linestyle="-.", linewidth=1.4, label=label)


def run_figure(study: ForecastStudy) -> Figure:
    """Draw the attractor that the truth fills and the forecast that was rolled out as far, side by side."""
    return _finished(reconstruction_figure(study.attractor, _in_frame(study, study.run)), study, (9.0, 4.6))


def graph_figure(study: ForecastStudy) -> Figure | None:
    """Draw which region of an AL-RNN follows which; None for other models."""
    return None if study.orbit is None else _finished(transition_figure(study.orbit), study)


def region_figure(study: ForecastStudy) -> Figure | None:
    """Draw the orbit of an AL-RNN coloured by region; None for other models."""
    return None if study.orbit is None else _finished(symbol_figure(study.orbit, study.points), study)


def _mark_valid(axes: Any, study: ForecastStudy) -> None:
    """Draw a line at the valid prediction time, unless the forecast was valid to its end."""
    if not study.valid.saturated[0]:
        time = int(study.valid.steps[0]) * study.step_time
        label = f"valid for {time:.3g} {study.time_unit}"
        axes.axvline(time, color=_VALID_COLOUR, linestyle=":", linewidth=1.6, label=label)


def _frame(study: ForecastStudy) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value drawn of each channel: as far outside the truth's range as that is wide."""
    truth = study.trajectory.values.astype(np.float64)
    low, high = np.nanmin(truth, axis=0), np.nanmax(truth, axis=0)
    width = np.maximum(high - low, np.finfo(np.float32).tiny)
    return low - width, high + width


def _in_frame(study: ForecastStudy, forecast: np.ndarray) -> np.ndarray:
    """Leave out values further outside the truth's range than that is wide: they would hide everything else."""
    low, high = _frame(study)
    with np.errstate(invalid="ignore"):
        return np.where((forecast >= low) & (forecast <= high), forecast, np.nan)


def _finished(figure: Figure, study: ForecastStudy, inches: tuple[float, float] | None = None) -> Figure:
    """Call the channels by their names, which are no formulas, and set the size."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis, getattr(axes, "zaxis", None)):
            if axis is not None and (numbered := re.match(r"channel (\d+)", axis.label.get_text())):
                name = study.trajectory.channel_name(int(numbered[1]))
                axis.label.set(text=name + numbered.string[numbered.end() :], parse_math=False)
    if inches is not None:
        figure.set_size_inches(inches)
    figure.set_dpi(DPI)
    return figure
