"""Which pictures a leaderboard has, and what is written below them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import leaderboard_figures, leaderboard_rank_figures
from .figures import save_figure
from .leaderboard import Board
from .leaderboard_attractors import Attractors
from .leaderboard_criteria import overall_ranks
from .leaderboard_figures import MOST_ATTRACTORS, NothingToDrawError
from .leaderboard_rank_figures import MOST_IN_FOREST
from .online_gallery import DPI, Picture

FIGURES = {
    "growth": (
        leaderboard_figures.error_growth_figure,
        "How the error of a single step grows with time: medians over systems, quartiles as a band, the other models "
        "in grey, the best model overall first",
    ),
    "tail": (
        leaderboard_figures.tail_figure,
        "Where rollouts end: medians over systems with their intervals over the whole rollout and over its tail; lines "
        "are the floors, truth against truth",
    ),
    "cost": (
        leaderboard_figures.cost_figure,
        "Accuracy against the time of a forecast; the line joins what nothing faster is better than",
    ),
    "ranks": (
        leaderboard_rank_figures.ranks_figure,
        "Average ranks over systems; a bar on the right joins models that no paired test tells apart",
    ),
    "wins": (
        leaderboard_rank_figures.wins_figure,
        "On what share of systems, in percent, the row's model beats the column's",
    ),
    "forest": (
        leaderboard_rank_figures.forest_figure,
        f"Every system by itself: the best {MOST_IN_FOREST} models, and the floor as a tick",
    ),
}
EVERYWHERE = ("growth", "tail", "ranks")
"""What clean conditions but the first have; disturbed ones have no pictures."""


def pictures_of(boards: Sequence[Board], attractors: Mapping[str, Attractors]) -> dict[str, list[Picture]]:
    """Return what could be drawn of each condition, all kinds of the first.

    attractors: rollouts by condition.
    """
    return {board.condition: list(_pictures(board, board is boards[0], attractors)) for board in boards}


def _pictures(board: Board, is_first: bool, attractors: Mapping[str, Attractors]) -> Iterator[Picture]:
    if not board.is_clean:
        return
    end = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', board.condition)}.png"
    for kind, (figure, text) in FIGURES.items():
        if is_first or kind in EVERYWHERE:
            yield Picture(f"{kind}_{end}", f"{text} ({board.condition})", partial(figure, board))
    found = attractors.get(board.condition)
    if found:
        drawn = {name for series in found.values() for name in series}
        count = min(len(drawn & set(overall_ranks(board))), MOST_ATTRACTORS)
        text = f"Attractors of {len(found)} systems: the truth, and rollouts of the best {count} models that have some"
        figure = leaderboard_figures.attractor_grid_figure
        yield Picture(f"attractors_{end}", f"{text} ({board.condition})", partial(figure, board, found))


def draw_leaderboard(boards: Sequence[Board], attractors: Mapping[str, Attractors], folder: Path) -> None:
    """Write into a folder every picture that there is something to show in."""
    for pictures in pictures_of(boards, attractors).values():
        for picture in pictures:
            with suppress(NothingToDrawError):
                save_figure(picture.draw(), folder / picture.file, dpi=DPI)
