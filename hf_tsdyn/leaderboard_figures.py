"""Pictures of a leaderboard: how errors grow, where rollouts end, what accuracy costs, what attractors look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .comparisons import is_larger_better
from .figures import (
    COLOURS,
    CONTEXT_COLOUR,
    FORECAST_COLOUR,
    TRUTH_COLOUR,
    growth_quartiles,
    new_figure,
)
from .leaderboard import Board, Column
from .leaderboard_attractors import TRUE_SERIES, Attractors
from .leaderboard_criteria import DIVERGENCE, SPECTRUM, criteria, overall_ranks
from .leaderboard_tables import cpu_ms_of
from .reconstruction_figures import embedding_delay, phase_axes, phase_coordinates
from .results import METRIC_LABELS, STEP_METRIC, EvaluationResults, SummaryRow
from .scoring import TRUTH
from .series_figures import MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ATTRACTORS = 6
"""Models that the figure of attractors shows, the best."""
GROWTH_COLUMNS = 4
LABEL_LENGTH = 26


class NothingToDrawError(ValueError):
    """A board has nothing that the figure shows."""


def nothing_to_draw(what: str, board: Board) -> NothingToDrawError:
    """Return the error that says what a figure needs and the board lacks."""
    metrics = sorted({row.metric for row in board.summary})
    return NothingToDrawError(
        f"the figure needs {what}, found none under the condition {board.condition!r} with the models "
        f"{list(board.models)} and metrics {metrics}; evaluate them."
    )


def short_label(board: Board, model: str) -> str:
    """Return a model's label, cut where it is too long for a panel's title."""
    label = board.label(model)
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def error_growth_figure(board: Board) -> Figure:
    """Draw how the error of a single step grows with its distance, a panel a model, the others in grey behind it.

    Medians over systems, the quartiles as a band. Time is in Lyapunov times over the systems that have one, in periods
    where none has, in steps where no period is known. Where fewer than half of the systems reach, a curve ends.
    Raises: NothingToDrawError without errors of single steps; ImportError without matplotlib.
    """
    unit, rates = _steps_per_unit(board)
    header = {"models": list(board.models), "systems": {name: {"steps_per_period": r} for name, r in rates.items()}}
    rows = [row for row in board.rows if row.metric == STEP_METRIC and row.system in rates]
    results = EvaluationResults(header, rows, [], [])
    models = [model for model in overall_ranks(board) if any(row.model == model for row in rows)]
    if not models:
        raise nothing_to_draw(f"rows of {STEP_METRIC!r}", board)
    curves = {model: growth_quartiles(results, model) for model in models}
    panels, figure = _shared_panels(len(models))
    for model, axes in zip(models, panels, strict=True):
        for other in models:
            axes.plot(curves[other][0], curves[other][1][1], color=CONTEXT_COLOUR, linewidth=0.6, alpha=0.7)
        times, quartiles = curves[model]
        axes.fill_between(times, quartiles[0], quartiles[2], color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(times, quartiles[1], color=COLOURS[0], linewidth=2)
        axes.set_title(short_label(board, model), fontsize=10)
        axes.set(xscale="log", yscale="log")
        plain(axes)
    figure.supxlabel(f"time ahead ({unit}), {len(rates)} systems", fontsize=11)
    figure.supylabel(METRIC_LABELS[STEP_METRIC], fontsize=11)
    return figure


def _steps_per_unit(board: Board) -> tuple[str, dict[str, float]]:
    """The unit of time that is known, and how many steps of each system it has."""
    periods = {name: facts["steps_per_period"] for name, facts in board.systems.items() if facts["steps_per_period"]}
    lyapunov = {name: board.systems[name].get("lyapunov_times_per_period") for name in periods}
    rates = {name: periods[name] / times for name, times in lyapunov.items() if times}
    if rates:
        return "Lyapunov times", rates
    return ("periods", periods) if periods else ("steps", dict.fromkeys(board.systems, 1.0))


def _shared_panels(count: int) -> tuple[list[Axes], Figure]:
    """`count` axes of the same limits, in rows of at most `GROWTH_COLUMNS`."""
    columns = min(GROWTH_COLUMNS, count)
    figure = new_figure(2.9 * columns + 0.5, 2.3 * -(-count // columns) + 0.5)
    panels = figure.subplots(-(-count // columns), columns, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)  # above a panel that is not shown too
    return panels[:count], figure


def tail_figure(board: Board) -> Figure:
    """Draw divergence and spectrum distance of every model over the whole rollout and over its tail.

    Medians over systems with their intervals; lines are the medians of truth against truth, the floors. Infinite ends
    reach the edge. The best model overall is on top.
    Raises: NothingToDrawError without statistics of a tail; ImportError without matplotlib.
    """
    titles = {DIVERGENCE: "state-space divergence, nats", SPECTRUM: "spectrum distance"}
    found = {metric: (board.column("", metric), board.column("", f"{metric}@tail")) for metric in titles}
    pairs = {metric: (whole, tail) for metric, (whole, tail) in found.items() if whole and tail}
    if not pairs:
        raise nothing_to_draw(f"{DIVERGENCE!r} or {SPECTRUM!r} with a tail", board)
    models = list(overall_ranks(board))
    figure = new_figure(2.4 + 4.2 * len(pairs), 1.5 + 0.3 * len(models))
    panels = figure.subplots(1, len(pairs), squeeze=False, sharey=True)[0]
    for axes, (metric, (whole, tail)) in zip(panels, pairs.items(), strict=True):
        looks = [
            (whole, "whole rollout", COLOURS[0], "o", "--", -0.14),
            (tail, _tail(board), COLOURS[1], "D", ":", 0.14),
        ]
        edge = _upper_edge(
            [cell for column in (whole, tail) for model in models if (cell := board.cell(model, column))]
        )
        for column, text, colour, marker, style, shift in looks:
            _draw_intervals(axes, board, models, column, colour, marker, shift, edge, text)
            floor = board.cell(TRUTH, column)
            if floor is not None and floor.median > 0:
                axes.axvline(floor.median, color=colour, linestyle=style, linewidth=1.2, label=f"floor, {text}")
        axes.set_title(titles[metric], fontsize=12)
        logarithmic(axes, "x", last=edge)
        plain(axes)
    panels[0].set_yticks(range(len(models)), [short_label(board, model) for model in models], fontsize=9)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _tail(board: Board) -> str:
    start = board.protocol.get("rollout_tail")
    return "tail" if start is None else f"steps from {start} on"


def _upper_edge(cells: Sequence[SummaryRow]) -> float:
    finite = [value for cell in cells for value in (cell.median, cell.high) if np.isfinite(value)]
    return 1.3 * max(finite, default=1.0)


def _draw_intervals(
    axes: Axes,
    board: Board,
    models: Sequence[str],
    column: Column,
    colour: str,
    marker: str,
    shift: float,
    edge: float,
    label: str,
) -> None:
    """Draw a column's medians and intervals, one model a line, cut at the edge."""
    cells = [(place, cell) for place, model in enumerate(models) if (cell := board.cell(model, column))]
    heights = [place + shift for place, _ in cells]
    low, middle, high = ([min(getattr(cell, end), edge) for _, cell in cells] for end in ("low", "median", "high"))
    axes.hlines(heights, low, high, color=colour, linewidth=1.4, alpha=0.8)
    axes.plot(middle, heights, marker, color=colour, markersize=6, label=label, clip_on=False)


def cost_figure(board: Board) -> Figure:
    """Draw accuracy against the CPU time of a forecast: one panel the error, one where the rollout ends.

    Medians over systems with their intervals; numbers are those of the legend, which has the best model overall first.
    The line joins the models that no faster one is better than.
    Raises: NothingToDrawError without a model that has both; ImportError without matplotlib.
    """
    columns = [column for column in criteria(board) if not is_larger_better(column.metric)][:2]
    times = {model: time for model in overall_ranks(board) if (time := cpu_ms_of(board, model))}
    if not times or not columns:
        raise nothing_to_draw("an error and the time of a forecast", board)
    figure = new_figure(3.2 + 4.4 * len(columns), max(4.4, 1.2 + 0.25 * len(times)))
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        _draw_costs(axes, board, times, column)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_costs(axes: Axes, board: Board, times: dict[str, float], column: Column) -> None:
    cells = {model: cell for model in times if (cell := board.cell(model, column))}
    edge = _upper_edge(list(cells.values()))
    for place, (model, cell) in enumerate(cells.items()):
        middle = min(cell.median, edge)
        ends = ([middle - min(cell.low, edge)], [min(cell.high, edge) - middle])
        number = list(times).index(model)
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        look |= {"markersize": 7, "linestyle": "none", "elinewidth": 0.8, "zorder": 3}
        axes.errorbar(times[model], middle, yerr=ends, label=f"{number + 1}  {short_label(board, model)}", **look)
        side = 6 if place % 2 else -6
        axes.annotate(
            str(number + 1),
            (times[model], middle),
            (side, 5),
            textcoords="offset points",
            fontsize=8,
            ha="left" if side > 0 else "right",
        )
    best: list[tuple[float, float]] = []
    for time, median in sorted((times[model], cell.median) for model, cell in cells.items()):
        if np.isfinite(median) and (not best or median < best[-1][1]):
            best.append((time, median))
    if best:
        axes.step(*zip(*best, strict=True), where="post", color=CONTEXT_COLOUR, linewidth=1, zorder=1)
    axes.set(xlabel="CPU ms a forecast", ylabel=column.title)
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    plain(axes)


def attractor_grid_figure(board: Board, attractors: Attractors) -> Figure:
    """Draw rollouts in phase space, a system a row: the truth, then the best models, all on the truth's axes.

    Raises: NothingToDrawError if no model of the board has a rollout; ImportError without matplotlib.
    """
    drawn = {name for series in attractors.values() for name in series}
    models = [model for model in overall_ranks(board) if model in drawn][:MOST_ATTRACTORS]
    if not models:
        raise nothing_to_draw("rollouts beside its results", board)
    names = [TRUE_SERIES, *models]
    figure = new_figure(1.9 * len(names) + 0.3, 1.95 * len(attractors) + 0.3)
    for row, (system, series) in enumerate(attractors.items()):
        truth = series[TRUE_SERIES]
        delay = embedding_delay(truth)
        frame = phase_coordinates(truth, delay)
        for column, name in enumerate(names):
            axes = phase_axes(figure, (len(attractors), len(names), row * len(names) + column + 1), frame, delay)
            _strip(axes)
            if name in series:
                _draw_orbit(axes, phase_coordinates(series[name], delay), name == TRUE_SERIES)
            if row == 0:
                axes.set_title(name if name == TRUE_SERIES else short_label(board, name), fontsize=9)
            if column == 0:
                text = axes.text2D if frame.shape[1] == 3 else axes.text
                place: dict[str, Any] = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
                text(-0.02, 0.5, system.replace("->", "\n-> "), fontsize=9, **place)
    return figure


def _strip(axes: Any) -> None:
    """Take away ticks and labels; what is left is the orbit and its box."""
    setters: list[Callable[..., Any]] = [axes.set_xlabel, axes.set_ylabel]
    axes.set(xticks=[], yticks=[])
    if hasattr(axes, "set_zlabel"):
        axes.set(zticks=[])
        setters.append(axes.set_zlabel)
        axes.set_box_aspect(None, zoom=1.25)
    for setter in setters:
        setter("")


def _draw_orbit(axes: Any, points: np.ndarray, is_truth: bool) -> None:
    clip: dict[str, Any] = {"axlim_clip": True} if points.shape[1] == 3 else {}
    shown = np.where(np.isfinite(points), points, np.nan)
    axes.plot(*shown.T, color=TRUTH_COLOUR if is_truth else FORECAST_COLOUR, linewidth=0.4, **clip)


def logarithmic(axes: Axes, which: Literal["x", "y"], *, last: float | None = None) -> None:
    """Make an axis of what is drawn logarithmic, with 0.2, 0.5, 1 beside its ticks instead of powers of ten.

    last: where it ends; where the data do by default.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    if last is not None:
        axes.set(**{f"{which}lim": (None, last)})
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    span = high / low
    parts = (1,) if span > 1000 else (1, 2, 5) if span > 8 else (1, 1.5, 2, 3, 4, 6, 8)
    axis.set_major_locator(LogLocator(subs=parts) if span > 2 else MaxNLocator(4))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def plain(axes: Axes) -> None:
    """Give axes a faint grid behind the data and no frame above and right."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
