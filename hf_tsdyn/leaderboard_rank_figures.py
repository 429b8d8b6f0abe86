"""Pictures of who is better than whom on a leaderboard: average ranks, wins, and every system by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import average_ranks, is_larger_better, paired_tests, wins_matrix
from .figures import COLOURS, CONTEXT_COLOUR, new_figure
from .leaderboard import Board, Column
from .leaderboard_criteria import criteria, overall_ranks
from .leaderboard_figures import logarithmic, nothing_to_draw, plain, short_label
from .leaderboard_tables import SIGNIFICANT
from .scoring import TRUTH
from .series_figures import MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panels = tuple[Figure, list[tuple[Axes, tuple[Column, list[str]]]]]

MOST_IN_FOREST = 5
"""Models that a forest shows, the best."""
TIE_COLOUR = "#555555"


def _compared_panels(board: Board, *, width: float, height: float) -> Panels:
    """A figure with a panel for each criterion that two models or more have, and these, the best overall first.

    width, height: of a panel without models, in inches; each model adds to it.
    """
    models = list(overall_ranks(board))
    found = {column: [model for model in models if board.cell(model, column)] for column in criteria(board)}
    compared = {column: named for column, named in found.items() if len(named) > 1}
    if not compared:
        raise nothing_to_draw("two models with a criterion of the order", board)
    rows, columns = -(-len(compared) // 2), min(2, len(compared))
    most = max(map(len, compared.values()))
    figure = new_figure(width * columns, (height + 0.27 * most) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels[len(compared) :]:
        axes.set_visible(False)
    return figure, list(zip(panels, compared.items(), strict=False))


def ranks_figure(board: Board) -> Figure:
    """Draw the average ranks under each criterion; a bar joins models that no paired test tells apart.

    Raises: NothingToDrawError with fewer than two models; ImportError without matplotlib.
    """
    figure, panels = _compared_panels(board, width=5.6, height=1.1)
    for axes, (column, models) in panels:
        ranks = average_ranks(board.rows_at(column), column.metric, column.horizon, models=models)
        ordered = sorted(models, key=lambda model: ranks[model])
        axes.plot([ranks[model] for model in ordered], range(len(ordered)), "o", color=COLOURS[0], markersize=7)
        ends: list[int] = []  # of the last bar in each lane
        for first, last in _undecided_groups(board, column, ordered):
            lane = next((number for number, end in enumerate(ends) if end < first), len(ends))
            ends[lane : lane + 1] = [last]
            place = {"transform": axes.get_yaxis_transform(), "color": TIE_COLOUR, "linewidth": 3}
            axes.plot([1.02 + 0.025 * lane] * 2, [first - 0.3, last + 0.3], clip_on=False, **place)
        axes.set_yticks(range(len(ordered)), [short_label(board, model) for model in ordered], fontsize=9)
        axes.invert_yaxis()
        axes.set_title(column.title, fontsize=11)
        axes.set_xlabel("average rank, 1 is the best")
        plain(axes)
    return figure


def _undecided_groups(board: Board, column: Column, ordered: Sequence[str]) -> list[tuple[int, int]]:
    """First and last place of the longest stretches of the order within which no pair differs."""
    tests = paired_tests(board.rows_at(column), column.metric, column.horizon, models=ordered)
    place = {model: number for number, model in enumerate(ordered)}
    differing = {frozenset((place[test.model], place[test.other])) for test in tests if test.adjusted < SIGNIFICANT}
    groups: list[tuple[int, int]] = []
    for first in range(len(ordered)):
        last = first
        while last + 1 < len(ordered) and not any(
            frozenset((member, last + 1)) in differing for member in range(first, last + 1)
        ):
            last += 1
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def wins_figure(board: Board) -> Figure:
    """Draw on what share of systems, in percent, the row's model beats the column's, a panel a criterion.

    Raises: NothingToDrawError with fewer than two models; ImportError without matplotlib.
    """
    most = len(board.models)
    figure, panels = _compared_panels(board, width=max(2.4 + 0.3 * most, 5.0), height=1.2 + 0.03 * most)
    for axes, (column, models) in panels:
        wins = wins_matrix(board.rows_at(column), column.metric, column.horizon, models=models)
        shares = 100 * np.where(np.eye(len(models), dtype=bool), np.nan, wins.shares)
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        for row, line in enumerate(shares):
            for place, share in enumerate(line):
                if np.isfinite(share):
                    colour = "#FFFFFF" if share < 55 else "#000000"
                    axes.text(place, row, f"{share:.0f}", color=colour, fontsize=7, ha="center", va="center")
        labels = [short_label(board, model) for model in models]
        axes.set_yticks(range(len(models)), [f"{name}  {n}" for n, name in enumerate(labels, start=1)], fontsize=8)
        axes.set_xticks(range(len(models)), [str(n) for n in range(1, len(models) + 1)], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{column.title}, {wins.num_systems} systems", fontsize=10)
    return figure


def forest_figure(board: Board) -> Figure:
    """Draw every system by itself: the values of the best models, and the floors, of an error and of the long run.

    A system a line, those of a group together, the best model's lowest errors on top. Infinite values reach the edge.
    Raises: NothingToDrawError without a criterion that is an error; ImportError without matplotlib.
    """
    columns = [column for column in criteria(board) if not is_larger_better(column.metric)][:2]
    models = list(overall_ranks(board))[:MOST_IN_FOREST]
    values = {(model, column): board.values(model, column) for model in (*models, TRUTH) for column in columns}
    if not columns or not any(values[model, columns[0]] for model in models):
        raise nothing_to_draw("an error of a system", board)
    leading = next(values[model, columns[0]] for model in models if values[model, columns[0]])
    known = {name for found in values.values() for name in found}
    systems: list[tuple[str, str]] = []
    for group, members in board.groups.items():
        ordered = sorted(known.intersection(members), key=lambda name: (leading.get(name, np.inf), name))
        systems += [(group, name) for name in ordered]
    figure = new_figure(2.6 + 3.6 * len(columns), 1.4 + 0.19 * len(systems))
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    places = {name: place for place, (_, name) in enumerate(systems)}
    for axes, column in zip(panels, columns, strict=True):
        _draw_values(axes, {model: values[model, column] for model in (*models, TRUTH)}, places, board)
        axes.set_xlabel(column.title, fontsize=10)
    _separate(panels, [group for group, _ in systems])
    panels[0].set_yticks(range(len(systems)), [name for _, name in systems], fontsize=7.5)
    panels[0].set_ylim(len(systems) - 0.4, -0.6)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_values(axes: Axes, values: dict[str, dict[str, float]], places: dict[str, int], board: Board) -> None:
    """Draw the values of each model on each system, the truth's as ticks."""
    finite = [value for found in values.values() for value in found.values() if np.isfinite(value) and value > 0]
    low, edge = min(finite, default=0.1), 1.2 * max(finite, default=1.0)
    for number, (model, found) in enumerate(values.items()):
        x = [min(max(value, low), edge) for name, value in found.items() if name in places]
        y = [places[name] for name in found if name in places]
        look: dict[str, Any] = {"color": COLOURS[number % 6], "marker": MARKERS[number], "s": 22, "alpha": 0.9}
        if model == TRUTH:
            look = {"color": "#000000", "marker": "|", "s": 60, "linewidths": 1.6}
        if x:
            axes.scatter(x, y, **look, zorder=3, label=short_label(board, model))
    logarithmic(axes, "x", last=edge * 1.05)
    plain(axes)


def _separate(panels: Sequence[Axes], groups: Sequence[str]) -> None:
    """Draw lines between the lines of different groups, and name them on the right."""
    for group in dict.fromkeys(groups):
        first, count = groups.index(group), groups.count(group)
        for axes in panels:
            axes.axhline(first - 0.5, color=CONTEXT_COLOUR, linewidth=1 if first else 0)
        place: dict[str, Any] = {"transform": panels[-1].get_yaxis_transform(), "ha": "left", "va": "center"}
        name = group if count > len(group) / 4 else ""  # no room
        panels[-1].text(1.02, first + (count - 1) / 2, name, rotation=270, fontsize=9, **place)
