"""Pictures of forecasts of one's own series: errors against size, bars, forecasts of every channel, where it pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, CONTEXT_COLOUR, LINE_STYLES, TRUTH_COLOUR, new_figure
from .series_results import SeriesResults, claim_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC_NAMES = {"mse": "MSE", "mae": "MAE"}
MARKERS = "osD^vP"  # as many as have no divisor in common with the colours
CUT = 2.0
"""In medians of a panel's errors: longer bars are cut there, and say so."""
MOST_NAMED_IN_A_CELL = 12
MOST_CHANNELS = 16
"""That one figure shows; of more, the first."""


def efficiency_figure(results: SeriesResults, *, dataset: str, horizon: int, split: str = "test") -> Figure:
    """Draw the MSE of each model against its number of parameters, on a logarithmic axis, with its spread over seeds.

    Claims are hollow, and named by their kind. The line joins the measured models that no smaller one is better than.
    What has no parameters, or of which their number is not known, has no place on the axis and is left out.
    Raises: ValueError if that leaves nothing; ImportError without matplotlib.
    """
    sizes = results.header["num_parameters"]
    points = {
        results.label(model): (sizes[model], found.mean, found.std)
        for model in results.header["models"]
        if sizes.get(model) and (found := results.mean_of(model, "mse", dataset, horizon, split=split))
    }
    claims = {
        claim_label(name, claim): (claim["num_parameters"], claim["mse"])
        for name, claim in results.claims_at(dataset, horizon).items()
        if claim.get("num_parameters") and claim.get("mse") is not None
    }
    if not points and not claims:
        raise _nothing(results, "parameters and an MSE", dataset, horizon, split)
    figure = new_figure(8.6, 4.8)
    axes = figure.add_subplot()
    for place, (label, (size, mean, std)) in enumerate(sorted(points.items(), key=lambda item: -item[1][1])):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        look |= {"markersize": 8, "linestyle": "none", "capsize": 3, "elinewidth": 1}
        axes.errorbar(size, mean, yerr=std or None, label=label, zorder=3, **look)
    for place, (label, (size, mean)) in enumerate(sorted(claims.items(), key=lambda item: -item[1][1])):
        look = {"marker": MARKERS[place % len(MARKERS)], "markersize": 8, "linestyle": "none"}
        axes.plot(size, mean, markerfacecolor="none", markeredgecolor="#555555", label=label, **look)
    _draw_frontier(axes, [(size, mean) for size, mean, _ in points.values()])
    axes.set(xscale="log", xlabel="parameters", ylabel=f"MSE, {dataset}, {horizon} steps ahead")
    axes.margins(x=0.08, y=0.1)
    _plain(axes)
    figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return figure


def _draw_frontier(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    best: list[tuple[float, float]] = []
    for size, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((size, error))
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color=CONTEXT_COLOUR, linewidth=1, zorder=1)


def error_bars_figure(
    results: SeriesResults, *, dataset: str, horizons: Sequence[int], split: str = "test", models: Sequence[str] = ()
) -> Figure:
    """Draw MSE and MAE of each model as bars from 0, a column of panels a horizon; whiskers are std over seeds.

    Claims are hollow, and named by their kind.
    models: to show, in this order; all by default.
    Raises: ValueError if nothing was scored there; ImportError without matplotlib.
    """
    shown = list(models) or results.header["models"]
    scored = {
        (metric, horizon): _bars(results, shown, metric, dataset, horizon, split)
        for metric in METRIC_NAMES
        for horizon in horizons
    }
    names = list(dict.fromkeys(name for bars in scored.values() for name in bars))
    if not names:
        raise _nothing(results, "errors", dataset, list(horizons), split)
    rows, columns = (1, 2) if len(horizons) == 1 else (2, len(horizons))
    figure = new_figure(2.4 + 2.7 * columns, rows * (0.7 + 0.25 * len(names)))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, ((metric, horizon), bars) in zip(panels, scored.items(), strict=True):
        _draw_bars(axes, names, bars)
        axes.set_title(f"{METRIC_NAMES[metric]}, {horizon} steps", fontsize=12)
    panels[0].invert_yaxis()
    return figure


def _bars(
    results: SeriesResults, models: Sequence[str], metric: str, dataset: str, horizon: int, split: str
) -> dict[str, tuple[float, float, bool]]:
    """(mean, std over seeds, whether it is a claim) by label."""
    bars = {}
    for model in models:
        found = results.mean_of(model, metric, dataset, horizon, split=split)
        if found is not None:
            bars[results.label(model)] = (found.mean, found.std, False)
    for name, claim in results.claims_at(dataset, horizon).items():
        if claim.get(metric) is not None:
            bars[claim_label(name, claim)] = (claim[metric], 0.0, True)
    return bars


def _draw_bars(axes: Axes, names: Sequence[str], bars: Mapping[str, tuple[float, float, bool]]) -> None:
    edge = CUT * float(np.median([mean for mean, _, _ in bars.values()])) if bars else 1.0
    for name, (mean, std, is_claim) in bars.items():
        place, reach = names.index(name), min(mean, edge)
        look: dict[str, Any] = {"color": "none", "edgecolor": "#555555"} if is_claim else {"color": COLOURS[5]}
        axes.barh(place, reach, xerr=std if std and mean < edge else None, height=0.72, capsize=2.5, **look)
        text = f"{mean:.3f}" if mean <= edge else f"{mean:.3f}, cut"
        end = reach + (std if mean < edge else 0)
        axes.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.margins(y=0.02)
    longest = max((min(mean + std, edge) for mean, std, _ in bars.values()), default=1.0)
    axes.set_xlim(0, 1.35 * longest)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def channel_forecasts_figure(
    past_values: np.ndarray,
    future_values: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    *,
    channel_names: Sequence[str],
    times: np.ndarray | None = None,
) -> Figure:
    """Draw every channel of a window in a panel of its own: the end of the context, the truth, and the forecasts.

    Of more channels than `MOST_CHANNELS` the first are drawn, as the title says.

    Args:
        past_values: (time, channels), data units; what of the context is to be seen. NaN leaves gaps.
        future_values: (horizon, channels), the same units.
        forecasts: (horizon, channels) by the name that the legend gives them, at most 4.
        times: (time + horizon,) dates of all steps; without them steps count from the end of the context.
    Raises: ValueError if shapes, names or times do not belong together; ImportError without matplotlib.
    """
    _check_forecasts(past_values, future_values, forecasts, channel_names, times)
    steps: Any = np.arange(1 - len(past_values), len(future_values) + 1) if times is None else times
    num_shown = min(len(channel_names), MOST_CHANNELS)
    figure = new_figure(10.0, 1.0 + 0.875 * num_shown)
    panels, blank = panel_grid(figure, num_shown, 2)
    for channel, axes in enumerate(panels):
        of_channel = {name: values[:, channel] for name, values in forecasts.items()}
        _draw_channel(axes, steps, past_values[:, channel], future_values[:, channel], of_channel)
        axes.set_title(channel_names[channel], fontsize=11)
        if times is not None:
            date_axis(axes)
    for axes in panels[-2:]:
        axes.set_xlabel("steps ahead" if times is None else "")
    legend_of(figure, blank)
    say_what_is_shown(figure, len(channel_names))
    return figure


def _draw_channel(
    axes: Axes, steps: Any, past: np.ndarray, future: np.ndarray, forecasts: Mapping[str, np.ndarray]
) -> None:
    axes.plot(steps[: len(past)], past, color=CONTEXT_COLOUR, linewidth=1.0, label="context")
    truth = np.concatenate([past[-1:], future])
    axes.plot(steps[len(past) - 1 :], truth, color=TRUTH_COLOUR, linewidth=1.2, label="truth")
    for place, (name, values) in enumerate(forecasts.items()):
        look: dict[str, Any] = {"color": COLOURS[1 - place], "linestyle": LINE_STYLES[place]}
        axes.plot(steps[len(past) :], values, linewidth=1.4, label=name, **look)
    axes.spines[["top", "right"]].set_visible(False)


def say_what_is_shown(figure: Figure, num_channels: int) -> None:
    """Title a figure that shows fewer channels than there are."""
    if num_channels > MOST_CHANNELS:
        figure.suptitle(f"the first {MOST_CHANNELS} of {num_channels:,} channels", fontsize=11)


def _check_forecasts(
    past_values: np.ndarray,
    future_values: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    channel_names: Sequence[str],
    times: np.ndarray | None,
) -> None:
    shapes = {name: values.shape for name, values in {"future_values": future_values, **forecasts}.items()}
    num_steps = len(past_values) + len(future_values)
    if set(shapes.values()) != {(len(future_values), len(channel_names))} or not 1 <= len(forecasts) <= 4:
        raise ValueError(
            f"truth and 1 to 4 forecasts must be (horizon, channels) with the {len(channel_names)} channels "
            f"{list(channel_names)}, found {shapes}; select channels and steps."
        )
    if times is not None and len(times) != num_steps:
        raise ValueError(f"times must be those of all {num_steps} steps, found {len(times)}; give one a step.")


def panel_grid(figure: Figure, num_panels: int, num_columns: int) -> tuple[list[Axes], Axes | None]:
    """Return axes that share the horizontal axis, row by row, and a cell that is left over, for the legend.

    What the last row would lack is left out of the first, so that the axis is labelled below every column.
    """
    num_columns = min(num_columns, num_panels)
    cells = list(figure.subplots(-(-num_panels // num_columns), num_columns, squeeze=False, sharex=True).ravel())
    blanks = cells[num_columns - (len(cells) - num_panels) : num_columns]
    for axes in blanks:
        axes.set_axis_off()
    return [axes for axes in cells if axes not in blanks], blanks[0] if blanks else None


def legend_of(figure: Figure, blank: Axes | None) -> None:
    """Name the lines of a grid's panels, which are alike, in its blank cell, or above all panels."""
    panels = [axes for axes in figure.axes if axes is not blank]
    handles, labels = panels[0].get_legend_handles_labels()
    look: dict[str, Any] = {"frameon": False, "fontsize": 11}
    if blank is not None and len(labels) <= MOST_NAMED_IN_A_CELL:
        blank.legend(handles, labels, loc="center", ncols=-(-len(labels) // 4), **look)
    else:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 7), **look)


def date_axis(axes: Axes) -> None:
    """Mark dates on the horizontal axis as short as they can be told apart."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def difference_figure(
    difference: np.ndarray, times: np.ndarray, *, smoothing: int, title: str, num_bins: int = 24
) -> Figure:
    """Draw where one forecaster is better than another: the difference of their errors over time and time of day.

    Args:
        difference: (num_windows,), the first one's error less the other's; below 0 the first is better; NaN = unseen.
        times: (num_windows,) dates of the windows' first targets, evenly spaced.
        smoothing: windows of the running mean over time.
        num_bins: equal parts of the day.
    Raises: ValueError if lengths differ or are below `smoothing`, or nothing is seen; ImportError without matplotlib.
    """
    seen = np.isfinite(difference)
    if difference.shape != times.shape or not 1 <= smoothing <= len(times) or not seen.any():
        raise ValueError(
            f"difference and times must be (num_windows,) with at least `smoothing` windows, found {difference.shape} "
            f"with {seen.sum()} seen, {times.shape} and {smoothing}; give one date a window, or smooth less."
        )
    figure = new_figure(9.4, 3.6)
    over_time, over_day = figure.subplots(1, 2, sharey=False, width_ratios=[3, 2])
    dates = times.astype("datetime64[s]")
    mean = _running_mean(difference, smoothing)
    over_time.plot(dates[(smoothing - 1) // 2 :][: len(mean)], mean, color=COLOURS[0], linewidth=1.2)
    over_time.set_title(f"running mean over {smoothing:,} windows", fontsize=11)
    date_axis(over_time)
    bins = (dates - dates.astype("datetime64[D]")).astype(int) * num_bins // 86_400
    hours = np.unique(bins[seen])
    means = [difference[seen & (bins == each)].mean() for each in hours]
    over_day.plot((hours + 0.5) * 24 / num_bins, means, color=COLOURS[0], marker="o", markersize=3.5, linewidth=1.2)
    over_day.set_title("mean by time of day of the first step", fontsize=11)
    over_day.set(xlabel="hour", xlim=(0, 24), xticks=range(0, 25, 6))
    over_time.set_ylabel(title)
    for axes in (over_time, over_day):
        axes.axhline(0, color=CONTEXT_COLOUR, linewidth=1, zorder=1)
        _plain(axes)
    return figure


def _running_mean(values: np.ndarray, length: int) -> np.ndarray:
    """Means of what is seen of so many values in a row; NaN where nothing is."""
    seen = np.isfinite(values)
    sums, counts = (np.convolve(each, np.ones(length), mode="valid") for each in (np.where(seen, values, 0.0), seen))
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0.5)


def _nothing(results: SeriesResults, wanted: str, dataset: str, horizon: object, split: str) -> ValueError:
    found = sorted({(row.dataset, row.split, row.horizon) for row in results.rows})
    return ValueError(
        f"the figure needs models with {wanted} on {dataset!r}, {split}, {horizon} steps ahead, found none; scored "
        f"were {found}."
    )


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
