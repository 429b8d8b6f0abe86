"""Pictures of the methods of an online study: bars, improvement, the road to a method, its parts, errors over time.

Each is of one place: dataset, horizon and protocol, which its title names, the immediate one as leaky.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, CONTEXT_COLOUR, LINE_STYLES, new_figure
from .online_results import (
    METRIC_LABELS,
    claims_at,
    difference_to,
    entries_at,
    learns,
    mean_at,
    methods_at,
    nothing_scored,
    role_of,
    seeds_at,
    shown_metrics,
    three_digits,
    title_of,
)
from .series_figures import CUT
from .series_results import SeriesResults, claim_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNER_COLOUR, FIXED_COLOUR = COLOURS[0], COLOURS[4]
BETTER_COLOUR, WORSE_COLOUR = COLOURS[0], COLOURS[1]
MOST_LINES = len(COLOURS)
SETTLED = 0.05
"""Part of a stretch after which its cumulative error is to be read; before, the axis may cut it."""


def method_bars_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the errors of every method as bars from 0, a panel a metric; whiskers are std over seeds.

    Claims of the protocol are hollow.
    Raises: ValueError if nothing was scored there; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    models, metrics = methods_at(results, *place), shown_metrics(results, *place)
    if not models:
        raise nothing_scored(results, "the figure", *place)
    claims = claims_at(results, *place)
    names = [results.label(model) for model in models] + [claim_label(name, claim) for name, claim in claims.items()]
    figure = new_figure(2.2 + 2.9 * len(metrics), 1.2 + 0.25 * len(names))
    figure.suptitle(title_of(*place), fontsize=12)
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        means = [(found.mean, found.std) if (found := mean_at(results, m, metric, *place)) else None for m in models]
        published = [claim.get(metric) for claim in claims.values()]
        means += [None if value is None else (value, 0.0) for value in published]
        looks = [_bar_look(results, model) for model in models]
        _draw_error_bars(axes, means, looks + [{"color": "none", "edgecolor": "#555555"}] * len(claims))
        axes.set_title(METRIC_LABELS[metric], fontsize=11)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].invert_yaxis()
    colours = {"learns online": LEARNER_COLOUR, "does not learn": FIXED_COLOUR} | ({"claim": None} if claims else {})
    _colour_legend(figure, colours)
    return figure


def _bar_look(results: SeriesResults, model: str) -> dict[str, Any]:
    return {"color": LEARNER_COLOUR if learns(results, model) else FIXED_COLOUR}


def _draw_error_bars(axes: Axes, bars: Sequence[tuple[float, float] | None], looks: Sequence[dict[str, Any]]) -> None:
    """Bars that are longer than `CUT` medians are cut there, and say so."""
    edge = CUT * float(np.median([bar[0] for bar in bars if bar]))
    for height, (bar, look) in enumerate(zip(bars, looks, strict=True)):
        if bar is None:
            continue
        mean, std = bar
        reach, whisker = min(mean, edge), std if mean + std < 1.15 * edge else 0.0
        axes.barh(height, reach, xerr=whisker or None, height=0.72, capsize=2, **look)
        text = three_digits(mean) + ("" if mean <= edge else ", cut")
        axes.annotate(text, (reach + whisker, height), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.32 * max(min(sum(bar), edge) for bar in bars if bar))
    axes.margins(y=0.02)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _colour_legend(figure: Figure, colours: Mapping[str, str | None]) -> None:
    """Name colours below all panels; a hollow box has none."""
    from matplotlib.patches import Patch

    boxes = [Patch(facecolor=each or "none", edgecolor=each or "#555555", label=text) for text, each in colours.items()]
    figure.legend(handles=boxes, loc="outside lower center", ncols=len(boxes), frameon=False, fontsize=10)


def improvement_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw by how much of the reference's MSE each method is below it, in percent; whiskers are paired intervals.

    Raises: ValueError if the reference or all others were not scored; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    reference = role_of(results, "reference")
    base = mean_at(results, reference, "mse", *place)
    models = [model for model in methods_at(results, *place) if model != reference]
    if base is None or not models:
        raise nothing_scored(results, "the figure", *place, needs=f"an MSE beside the reference {reference!r}")
    figure = new_figure(8.6, 1.4 + 0.27 * len(models))
    axes = figure.add_subplot()
    for height, model in enumerate(models):
        found = mean_at(results, model, "mse", *place)
        interval = difference_to(results, model, reference, *place)
        gain = 100 * (1 - found.mean / base.mean) if found else np.nan
        ends = None if interval is None else (-100 * interval.high / base.mean, -100 * interval.low / base.mean)
        _draw_signed_bar(axes, height, gain, ends, f"{gain:+.1f} %", good=gain > 0)
    axes.set_yticks(range(len(models)), [results.label(model) for model in models], fontsize=9)
    axes.set_xlabel(f"MSE below that of {results.label(str(reference))}, %")
    _finish_signed_bars(figure, axes, title_of(*place), ("better", "worse"))
    return figure


def leave_one_out_figure(results: SeriesResults, model: str, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw what is added to the MSE of a model by leaving out each of its parts, with the paired intervals.

    Raises: ValueError if no variant was scored beside the model; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    whole, parts = mean_at(results, model, "mse", *place), results.header.get("leave_one_out", {}).get(model, {})
    found = {part: mean_at(results, variant, "mse", *place) for variant, part in parts.items()}
    if whole is None or not any(found.values()):
        raise nothing_scored(results, "the figure", *place, needs=f"an MSE among {list(parts)} beside {model!r}")
    figure = new_figure(8.6, 1.4 + 0.3 * len(parts))
    axes = figure.add_subplot()
    for height, (variant, part) in enumerate(parts.items()):
        error, interval = found[part], difference_to(results, variant, model, *place)
        if error is not None:
            added = error.mean - whole.mean
            ends = None if interval is None else (interval.low, interval.high)
            _draw_signed_bar(axes, height, added, ends, f"{added:+.2g}", good=added > 0)
    axes.set_yticks(range(len(parts)), [f"without {part}" for part in parts.values()], fontsize=9)
    axes.set_xlabel(f"MSE added to the {whole.mean:.4f} of {results.label(model)}")
    _finish_signed_bars(figure, axes, title_of(*place), ("the part helps", "the part harms"))
    return figure


def _draw_signed_bar(
    axes: Axes, height: int, value: float, ends: tuple[float, float] | None, text: str, *, good: bool
) -> None:
    axes.barh(height, value, height=0.72, color=BETTER_COLOUR if good else WORSE_COLOUR)
    low, high = ends or (value, value)
    if ends is not None:
        axes.errorbar((low + high) / 2, height, xerr=(high - low) / 2, color="#000000", capsize=2.5, linewidth=1)
    outer, side = (max(high, value), 1) if value >= 0 else (min(low, value), -1)
    place: dict[str, Any] = {"ha": "left" if side > 0 else "right", "va": "center"}
    axes.annotate(text, (outer, height), (4 * side, 0), textcoords="offset points", fontsize=8, **place)


def _finish_signed_bars(figure: Figure, axes: Axes, title: str, meaning: tuple[str, str]) -> None:
    figure.suptitle(title, fontsize=12)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.16, y=0.02)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _colour_legend(figure, dict(zip(meaning, (BETTER_COLOUR, WORSE_COLOUR), strict=True)))


def bug_fix_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the errors of the methods of the role `bug_fix`: mean, std over seeds, and every seed.

    The axes do not start at 0.
    Raises: ValueError if fewer than two were scored; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    scored = methods_at(results, *place)
    models = [model for model in role_of(results, "bug_fix") or () if model in scored]
    if len(models) < 2:
        raise nothing_scored(results, "the figure", *place, needs="an MSE of two of the role `bug_fix`")
    metrics = shown_metrics(results, *place)
    figure = new_figure(2.0 + 2.7 * len(metrics), 1.5 + 0.42 * len(models))
    figure.suptitle(title_of(*place), fontsize=12)
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for height, model in enumerate(models):
            found, values = mean_at(results, model, metric, *place), seeds_at(results, model, metric, *place).values()
            if found is not None:
                look: dict[str, Any] = {"color": COLOURS[height % len(COLOURS)], "marker": "D", "capsize": 3}
                axes.errorbar(found.mean, height, xerr=found.std or None, markersize=7, **look)
                axes.plot(list(values), [height + 0.25] * len(values), "o", color=CONTEXT_COLOUR, markersize=4)
        axes.set_title(METRIC_LABELS[metric], fontsize=11)
        axes.margins(x=0.15, y=0.2)
        axes.locator_params(axis="x", nbins=4)
        _plain(axes)
    panels[0].set_yticks(range(len(models)), [results.label(model) for model in models], fontsize=10)
    panels[0].invert_yaxis()
    return figure


def curves_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the mean squared error of all forecasts so far against time, of `drawn_lines`, means over seeds.

    Raises: ValueError without curves; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    curves = entries_at(results.header, "curves", *place)
    models = [model for model in drawn_lines(results, *place) if model in curves]
    if not models:
        raise nothing_scored(results, "the figure", *place, needs="curves")
    figure, axes = _line_axes(title_of(*place))
    shown: list[float] = []
    for line, model in enumerate(models):
        steps, errors = np.asarray(curves[model]["step"]), np.asarray(curves[model]["mse"])
        axes.plot(steps, errors, **_line_look(line), label=results.label(model))
        shown += errors[steps >= steps[0] + SETTLED * (steps[-1] - steps[0])].tolist()
    low, high = min(shown), max(shown)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low) or None)
    axes.set(xlabel="step of the stretch", ylabel="cumulative MSE")
    figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return figure


def step_errors_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the MSE of each step of the forecasts that was scored by itself, of `drawn_lines`, means over seeds.

    Raises: ValueError if no step was scored by itself; ImportError without matplotlib.
    """
    place = (dataset, horizon, protocol)
    lines = {}
    for model in drawn_lines(results, *place):
        found = {step: mean_at(results, model, f"mse@{step}", *place) for step in range(1, horizon + 1)}
        known = {step: each.mean for step, each in found.items() if each is not None}
        if known:
            lines[model] = known
    if not lines:
        raise nothing_scored(results, "the figure", *place, needs="MSE of single steps")
    figure, axes = _line_axes(title_of(*place))
    for line, (model, errors) in enumerate(lines.items()):
        look = _line_look(line) | {"marker": "os^Dv<>"[line], "markersize": 4}
        axes.plot(list(errors), list(errors.values()), **look, label=results.label(model))
    axes.set(xlabel="step ahead", ylabel="MSE of that step")
    axes.locator_params(axis="x", integer=True)
    figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return figure


def drawn_lines(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> list[str]:
    """Return the methods that figures of lines show: persistence, frozen ridge, the reference, and the best others."""
    place = (dataset, horizon, protocol)
    errors = {model: mean_at(results, model, "mse", *place) for model in methods_at(results, *place)}
    named = [role_of(results, role) for role in ("persistence", "ridge", "reference")]
    first = [model for model in dict.fromkeys(named) if model in errors]
    others = sorted((model for model in errors if model not in first), key=lambda model: errors[model] or (0.0,))
    kept = {*first, *others[: MOST_LINES - len(first)]}
    return [model for model in errors if model in kept]


def _line_axes(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(8.8, 4.4)
    figure.suptitle(title, fontsize=12)
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _line_look(line: int) -> dict[str, Any]:
    style = LINE_STYLES[line % len(LINE_STYLES)]
    return {"color": COLOURS[line % len(COLOURS)], "linestyle": style, "linewidth": 1.6}


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
