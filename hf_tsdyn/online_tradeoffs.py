"""Pictures that weigh the methods of an online study: error against time, many metrics at once, the road to a method.

Each is of one place: dataset, horizon and protocol, which its title names, the immediate one as leaky.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, CONTEXT_COLOUR, new_figure
from .online_results import (
    METRIC_LABELS,
    entries_at,
    mean_at,
    methods_at,
    nothing_scored,
    role_of,
    seeds_at,
    shown_metrics,
    three_digits,
    title_of,
)
from .series_figures import MARKERS
from .series_results import SeriesResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RADARS = 12
RADARS_IN_A_ROW = 4
CPU_LABEL = "CPU ms a step"


def pareto_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the MSE of each method against its CPU milliseconds a step, both axes logarithmic; whiskers are std.

    The line joins the methods that no faster one is better than.
    Raises: ValueError if no method has both; ImportError without matplotlib.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    place = (dataset, horizon, protocol)
    times = entries_at(results.header, "cpu_ms", *place)
    found = {model: mean_at(results, model, "mse", *place) for model in methods_at(results, *place)}
    points = {
        model: (times[model], error.mean, error.std) for model, error in found.items() if error and model in times
    }
    if not points:
        raise nothing_scored(results, "the figure", *place, needs="an MSE and CPU ms a step")
    figure = new_figure(9.4, max(4.2, 0.9 + 0.24 * len(points)))
    figure.suptitle(title_of(*place), fontsize=12)
    axes = figure.add_subplot()
    for number, (model, (time, mean, std)) in enumerate(points.items()):
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        look |= {"markersize": 8, "linestyle": "none", "capsize": 3, "elinewidth": 1, "zorder": 3}
        axes.errorbar(time, mean, yerr=std or None, label=results.label(model), **look)
    best: list[tuple[float, float]] = []
    for time, mean, _ in sorted(points.values()):
        if not best or mean < best[-1][1]:
            best.append((time, mean))
    axes.step(*zip(*best, strict=True), where="post", color=CONTEXT_COLOUR, linewidth=1, zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="CPU ms a step, forecast and learning", ylabel="MSE")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def roadmap_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw how the MSE falls and rises along the methods of the role `roadmap`, each changing the one before it.

    A diamond is the mean over seeds with its std, a dot is a seed, a bar is the change. The axis does not start at 0.
    Raises: ValueError if fewer than two of them were scored; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    scored = methods_at(results, *place)
    models = [model for model in role_of(results, "roadmap") or () if model in scored]
    if len(models) < 2:
        raise nothing_scored(results, "the figure", *place, needs="an MSE of two of the role `roadmap`")
    figure = new_figure(8.8, 4.6)
    figure.suptitle(title_of(*place), fontsize=12)
    axes = figure.add_subplot()
    before = None
    for column, model in enumerate(models):
        before = _draw_stop(axes, column, results, model, place, before)
    for role, style in (("persistence", "--"), ("ridge", ":")):
        naive = role_of(results, role)
        level = mean_at(results, naive, "mse", *place)
        if naive is not None and level is not None:
            axes.axhline(level.mean, color="#555555", linestyle=style, linewidth=1.2, label=results.label(naive))
    axes.set_xticks(range(len(models)), [results.label(model).replace(" ", "\n") for model in models], fontsize=9)
    axes.set_ylabel("MSE")
    axes.margins(y=0.14)
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def _draw_stop(
    axes: Axes, column: int, results: SeriesResults, model: str, place: tuple[str, int, str], before: float | None
) -> float:
    """Draw one method and the change to it, and return its MSE."""
    found, values = mean_at(results, model, "mse", *place), list(seeds_at(results, model, "mse", *place).values())
    assert found is not None  # methods_at lists none without
    text = f"{found.mean:.4f}"
    if before is not None:
        change = found.mean - before
        axes.bar(column, change, bottom=before, width=0.62, alpha=0.75, color=COLOURS[0 if change <= 0 else 1])
        axes.plot([column - 1.31, column + 0.31], [before, before], color=CONTEXT_COLOUR, linewidth=1, zorder=1)
        text += f"\n({100 * change / before:+.1f} %)"
    look: dict[str, Any] = {"color": "#000000", "marker": "D", "markersize": 6, "capsize": 4, "zorder": 4}
    axes.errorbar(column, found.mean, yerr=found.std or None, **look)
    axes.plot([column + 0.18] * len(values), values, "o", color="#555555", markersize=3.5, zorder=4)
    top = max(found.mean + found.std, before or 0.0, *values)
    axes.annotate(text, (column, top), (0, 5), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    return found.mean


def radar_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw each method as an area over all metrics of its errors: the rim is the best of all, half way twice as bad.

    Of more methods than `MOST_RADARS` those of the lowest MSE are drawn, as the title says.
    Raises: ValueError if fewer than three metrics were scored; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    columns = {name: values for name, values in scores_at(results, *place).items() if name != CPU_LABEL}
    models = [model for model in methods_at(results, *place) if all(model in values for values in columns.values())]
    if len(columns) < 3 or not models:
        raise nothing_scored(results, "the figure", *place, needs="three metrics of errors")
    best = {name: min(values.values()) for name, values in columns.items()}
    kept = sorted(models, key=lambda model: columns["MSE"][model])[:MOST_RADARS]
    shown = [model for model in models if model in kept]
    num_columns = min(RADARS_IN_A_ROW, len(shown))
    figure = new_figure(2.6 * num_columns, 0.7 + 2.7 * -(-len(shown) // num_columns))
    of_all = f" (the best {len(shown)} of {len(models)})" if len(models) > len(shown) else ""
    figure.suptitle(title_of(*place) + of_all, fontsize=12)
    angles = np.linspace(0, 2 * np.pi, len(columns), endpoint=False)
    for number, model in enumerate(shown, start=1):
        rows = -(-len(shown) // num_columns)
        axes: Any = figure.add_subplot(rows, num_columns, number, projection="polar")
        values = [best[name] / columns[name][model] for name in columns]
        axes.fill(angles, values, facecolor=COLOURS[0], alpha=0.35, edgecolor=COLOURS[0], linewidth=1.5)
        axes.set_xticks(angles, list(columns), fontsize=8)
        axes.tick_params(axis="x", pad=8)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], [])
        axes.set(theta_offset=np.pi / 2, theta_direction=-1, ylim=(0, 1))
        axes.set_title(results.label(model), fontsize=9, pad=10)
    return figure


def ranking_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw a table of all metrics, a method a row, best MSE first; the lighter a cell, the better its rank.

    Raises: ValueError if nothing was scored there; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    columns = scores_at(results, *place)
    if not columns:
        raise nothing_scored(results, "the figure", *place)
    models = sorted(columns["MSE"], key=lambda model: columns["MSE"][model])
    ranks = np.full((len(models), len(columns)), np.nan)
    for column, values in enumerate(columns.values()):
        ordered = sorted(values.values())
        for row, model in enumerate(models):
            if model in values:
                ranks[row, column] = ordered.index(values[model]) / max(len(ordered) - 1, 1)
    figure = new_figure(2.4 + 1.05 * len(columns), 1.2 + 0.29 * len(models))
    figure.suptitle(title_of(*place), fontsize=12)
    axes = figure.add_subplot()
    axes.imshow(ranks, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
    for column, values in enumerate(columns.values()):
        for row, model in enumerate(models):
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
            colour = "#FFFFFF" if ranks[row, column] > 0.5 else "#000000"
            axes.text(column, row, three_digits(values[model]) if model in values else "-", color=colour, **look)
    axes.set_xticks(range(len(columns)), [name.replace(" a ", "\na ") for name in columns], fontsize=9)
    axes.set_yticks(range(len(models)), [results.label(model) for model in models], fontsize=9)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def scores_at(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> dict[str, dict[str, float]]:
    """Return {what is measured: {method: value}} of all that is to be low, errors first; without what none has."""
    place = (dataset, horizon, protocol)
    metrics = {METRIC_LABELS[name]: name for name in shown_metrics(results, *place)} | {"MASE": "mase"}
    metrics |= {f"MSE @ {step}": f"mse@{step}" for step in (1, horizon) if horizon > 1}
    models, columns = methods_at(results, *place), {}
    for text, metric in metrics.items():
        means = {model: mean_at(results, model, metric, *place) for model in models}
        columns[text] = {model: found.mean for model, found in means.items() if found is not None}
    times = entries_at(results.header, "cpu_ms", *place)
    columns[CPU_LABEL] = {model: times[model] for model in models if model in times}
    return {text: values for text, values in columns.items() if values}
