"""What filled gaps look like, and how large their errors are on every system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .completion import metric_of
from .figures import COLOURS, CONTEXT_COLOUR, FORECAST_COLOUR, LINE_STYLES, TRUTH_COLOUR, new_figure
from .results import EvaluationResults, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASK_LABELS = {
    "patches": "patches of each channel",
    "channel_consistent": "patches of all channels",
    "span": "one span of all channels",
}
ERROR_LABEL = "MAE of hidden values / window std"


@dataclass(frozen=True, eq=False)
class CompletionPanel:
    """One channel of one window, (time,) each: the truth, where it was hidden (boolean), and fillings by name."""

    title: str
    truth: np.ndarray
    hidden: np.ndarray
    fillings: Mapping[str, np.ndarray]


def completion_figure(panels: Sequence[CompletionPanel], *, num_columns: int = 2) -> Figure:
    """Draw each panel's truth over time, shade what was hidden, and lay every filling over it.

    The vertical range is that of the truth and a third beyond: fillings may leave it. A name has one colour in all
    panels.
    Raises: ValueError without panels, or with one whose parts differ in shape; ImportError without matplotlib.
    """
    shapes = {p.title: [np.shape(part) for part in (p.truth, p.hidden, *p.fillings.values())] for p in panels}
    if not panels or any(len(set(parts)) != 1 or len(parts[0]) != 1 for parts in shapes.values()):
        raise ValueError(
            f"a completion figure needs panels of one channel, (time,) each part, found {shapes}; select a channel."
        )
    num_columns = min(num_columns, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = new_figure(5.6 * num_columns, 2.1 * num_rows + 0.6)
    for place, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(num_rows, num_columns, place), panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=11)
    return figure


def _draw_panel(axes: Axes, panel: CompletionPanel) -> None:
    stretches = list(_stretches(panel.hidden))
    for start, end in stretches:
        axes.axvspan(start - 0.5, end - 0.5, color=CONTEXT_COLOUR, alpha=0.2, linewidth=0)
    axes.plot(np.where(panel.hidden, np.nan, panel.truth), color=CONTEXT_COLOUR, linewidth=4, label="seen")
    axes.plot(panel.truth, color=TRUTH_COLOUR, linewidth=1, label="truth")
    for place, (name, filling) in enumerate(panel.fillings.items()):
        colour, style = (FORECAST_COLOUR, COLOURS[0], COLOURS[2])[place % 3], LINE_STYLES[place % len(LINE_STYLES)]
        for number, (start, end) in enumerate(stretches):
            steps = np.arange(max(start - 1, 0), min(end + 1, len(filling)))  # from the last seen to the next seen
            label = name if number == 0 else None
            axes.plot(steps, filling[steps], color=colour, linestyle=style, linewidth=1.4, label=label)
    known = panel.truth[np.isfinite(panel.truth)]
    if known.size and known.min() < known.max():
        axes.set_ylim(known.min() - np.ptp(known) / 3, known.max() + np.ptp(known) / 3)
    axes.set_xlim(0, len(panel.truth) - 1)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)


def _stretches(hidden: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first step of each hidden stretch, and the first step after it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def completion_error_figure(results: EvaluationResults, *, model: str) -> Figure:
    """Draw the error on every system for each kind of mask: bars of `model`, marks of the baselines, medians as lines.

    Systems are sorted by the model's error under the first kind of mask. Infinite errors reach to the right edge.
    Raises: ValueError if the model has no such rows; ImportError without matplotlib.
    """
    kinds = results.header["protocol"]["mask_kinds"]
    first = rows_of(results.rows, model=model, metric=metric_of(kinds[0]))
    if not first:
        raise ValueError(
            f"bars need {metric_of(kinds[0])!r} rows of {model!r}, found none among the models "
            f"{results.header['models']}; evaluate it first."
        )
    systems = [row.system for row in sorted(first, key=lambda row: row.value)]
    figure = new_figure(3.4 * len(kinds) + 1.6, 1.5 + 0.27 * len(systems))
    for place, kind in enumerate(kinds, start=1):
        axes = figure.add_subplot(1, len(kinds), place)
        _draw_errors(axes, results, kind, [model, *(b for b in results.header["baselines"] if b != model)], systems)
        axes.set_yticks(range(len(systems)), systems if place == 1 else [""] * len(systems), fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    bars_first = [*handles[-1:], *handles[:-1]], [*labels[-1:], *labels[:-1]]  # matplotlib puts them last
    figure.legend(*bars_first, loc="outside upper center", ncols=min(len(labels), 6), frameon=False, fontsize=11)
    figure.supxlabel(f"{ERROR_LABEL}, median over windows; lines: median over systems", fontsize=11)
    return figure


def _draw_errors(
    axes: Axes, results: EvaluationResults, kind: str, models: Sequence[str], systems: Sequence[str]
) -> None:
    """Draw the first of `models` as bars and the others as marks, a row a system."""
    metric, horizon = metric_of(kind), results.header["protocol"]["context_length"]
    errors = {
        name: {row.system: row.value for row in rows_of(results.rows, model=name, metric=metric)} for name in models
    }
    finite = [error for group in errors.values() for error in group.values() if np.isfinite(error)]
    edge = 1.1 * max(finite, default=1.0)
    for index, (name, group) in enumerate(errors.items()):
        rows = [row for row, system in enumerate(systems) if system in group]
        widths = [min(group[systems[row]], edge) for row in rows]
        colour = COLOURS[index % len(COLOURS)]
        if index == 0:
            axes.barh(rows, widths, color=colour, alpha=0.75, height=0.7, label=name)
        else:
            look: dict[str, Any] = {"color": colour, "marker": "oDs^v"[index % 5], "s": 30}
            axes.scatter(widths, rows, **look, edgecolors="white", linewidths=0.6, zorder=3, label=name)
        median = results.summary_of(name, metric, horizon).median
        axes.axvline(min(median, edge), color=colour, linewidth=1.2, linestyle=LINE_STYLES[index % len(LINE_STYLES)])
    axes.set_title(MASK_LABELS.get(kind, kind), fontsize=11)
    axes.set_xlim(0, edge)
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
