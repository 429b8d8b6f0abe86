"""Which pictures an online study has, and what is written below them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import online_figures, online_heat_maps, online_tradeoffs
from .figures import save_figure
from .online_results import IMMEDIATE, PROTOCOLS, NothingScoredError, methods_at, results_at, role_of, title_of
from .series_results import SeriesResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {
    # {ROLE}: the labels of its methods.
    "bars": (online_figures.method_bars_figure, "Errors of every method; whiskers are standard deviations over seeds"),
    "curves": (online_figures.curves_figure, "Mean squared error of all forecasts so far, means over seeds"),
    "improvement": (
        online_figures.improvement_figure,
        "By how much each method is below the reference; whiskers are paired intervals",
    ),
    "ranking": (online_tradeoffs.ranking_figure, "All metrics, best MSE first; the lighter, the better the rank"),
    "radar": (
        online_tradeoffs.radar_figure,
        "All metrics of errors: the rim is the best of all methods, half way is twice its error",
    ),
    "pareto": (online_tradeoffs.pareto_figure, "Error against time; the line joins what nothing faster is better than"),
    "step_errors": (online_figures.step_errors_figure, "Error of each step of the forecasts, means over seeds"),
    "roadmap": (
        online_tradeoffs.roadmap_figure,
        "The road {roadmap}: diamonds are means, dots are seeds, bars are the changes",
    ),
    "bug_fix": (
        online_figures.bug_fix_figure,
        "{bug_fix}: diamonds are means with standard deviations, dots are seeds",
    ),
    "triggers": (online_heat_maps.trigger_figure, "Share of steps with the trigger set, by layer and time"),
    "memory": (online_heat_maps.memory_figure, "Norms of the slots of each layer's memory at the end"),
}
EVERYWHERE = ("bars", "curves")
"""What places but the first have."""
DPI = 110


class Picture(NamedTuple):
    """A file's name, the text below it, and the function that draws it, which raises where there is nothing to show."""

    file: str
    caption: str
    draw: Callable[[], Figure]


def pictures_of(results: SeriesResults) -> Iterator[Picture]:
    """Yield what could be drawn of a study: all of the first dataset and horizon, bars and curves of the others."""
    for number, (dataset, horizon) in enumerate(results.settings):
        for protocol in PROTOCOLS:
            place = (dataset, horizon, protocol)
            found = results_at(results, *place)
            end = f"{dataset}-{horizon}_{'leaky' if protocol == IMMEDIATE else protocol}.png"
            roles = {role: _role_text(results, role, place) for role in ("roadmap", "bug_fix")}
            for kind, (figure, text) in FIGURES.items():
                if number == 0 or kind in EVERYWHERE:
                    caption = f"{text.format(**roles)} ({title_of(*place)})"
                    yield Picture(f"{kind}_{end}", caption, partial(figure, found, *place))
            for model in results.header.get("leave_one_out", {}):
                draw = partial(online_figures.leave_one_out_figure, found, model, *place)
                text = f"What is added to the MSE of {results.label(model)} by leaving out each part, paired intervals"
                yield Picture(f"leave_one_out_{model}_{end}", f"{text} ({title_of(*place)})", draw)


def _role_text(results: SeriesResults, role: str, place: tuple[str, int, str]) -> str:
    """The labels of the methods of a role that were scored at a place."""
    scored = methods_at(results, *place)
    labels = [results.label(model) for model in role_of(results, role) or () if model in scored]
    return (" → " if role == "roadmap" else "; ").join(labels)


def draw_pictures(results: SeriesResults, folder: Path) -> None:
    """Write into a folder every picture that there is something to show in."""
    for picture in pictures_of(results):
        with suppress(NothingScoredError):
            save_figure(picture.draw(), folder / picture.file, dpi=DPI)
