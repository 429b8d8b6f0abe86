"""What a leaderboard shows of a board, and what the order of the models on it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean

from .comparisons import PairedTest, average_ranks, paired_tests
from .leaderboard import Board, Column
from .results import summarise

DIVERGENCE, SPECTRUM = "state_space_divergence", "spectrum_distance"
SUMMARISED = ("smape", "normalised_mae", "vpt_lyapunov", "vpt_periods", DIVERGENCE, SPECTRUM, "normalised_crps")
"""Metrics of the main table, without their thresholds and parts."""


def criteria(board: Board) -> list[Column]:
    """Return what the order of the models rests on: two measures of the forecast, two of where it goes in the long run.

    sMAPE near 128 steps, valid prediction time, state-space divergence and spectrum distance over the tail of the
    rollout (over all of it where it has no tail). Those that were not evaluated are left out.
    """
    columns = [
        board.column("sMAPE @ {horizon}", "smape", 128),
        _valid_time(board),
        _long_run(board, "divergence", DIVERGENCE),
        _long_run(board, "spectrum distance", SPECTRUM),
    ]
    return [column for column in columns if column]


def shown_columns(board: Board) -> list[Column]:
    """Return the columns of the main table."""
    columns = [
        board.column("sMAPE @ {horizon}", "smape", 128),
        board.column("MAE / std @ {horizon}", "normalised_mae", 512),
        _valid_time(board),
        board.column("divergence @ {horizon}, nats", DIVERGENCE),
        board.column(_tail_title(board, "divergence"), f"{DIVERGENCE}@tail"),
        _long_run(board, "spectrum distance", SPECTRUM),
        board.column("CRPS / std @ {horizon}", "normalised_crps", 128),
    ]
    return [column for column in columns if column]


def _valid_time(board: Board) -> Column | None:
    lyapunov = board.column("valid time, Lyapunov times", "vpt_lyapunov@")
    return lyapunov or board.column("valid time, periods", "vpt_periods@")


def _long_run(board: Board, title: str, metric: str) -> Column | None:
    tail = board.column(_tail_title(board, title), f"{metric}@tail")
    return tail or board.column(title + " @ {horizon}", metric)


def _tail_title(board: Board, title: str) -> str:
    start = board.protocol.get("rollout_tail")
    return f"{title}, tail" if start is None else f"{title}, steps from {start} to {{horizon}}"


def ranks_by_criterion(board: Board) -> dict[Column, dict[str, float]]:
    """Return per criterion the average rank of every model over systems; one without any value is the last of all."""
    models = list(board.models)
    return {
        column: average_ranks(board.rows_at(column), column.metric, column.horizon, models=models)
        for column in criteria(board)
    }


def paired_tests_by_criterion(board: Board) -> dict[Column, list[PairedTest]]:
    """Return per criterion the paired tests of all models that have it, the best overall first."""
    found = {}
    for column in criteria(board):
        models = [model for model in overall_ranks(board) if board.cell(model, column)]
        found[column] = paired_tests(board.rows_at(column), column.metric, column.horizon, models=models)
    return found


def overall_ranks(board: Board) -> dict[str, float]:
    """Return the mean over criteria of each model's average rank, the best model first."""
    ranks = list(ranks_by_criterion(board).values())
    overall = {model: fmean(each[model] for each in ranks) if ranks else math.nan for model in board.models}
    return dict(sorted(overall.items(), key=lambda item: (item[1], item[0])))


def of_systems(board: Board, systems: Iterable[str]) -> Board:
    """Return a board of some systems alone: its summary is made anew, of the metrics that tables and order rest on."""
    kept = set(systems)
    rows = [row for row in board.rows if row.system in kept]
    options = {name: board.protocol[name] for name in ("seed", "num_resamples", "confidence")}
    summary, _ = summarise([row for row in rows if row.metric.partition("@")[0] in SUMMARISED], baselines=(), **options)
    facts = {system: facts for system, facts in board.systems.items() if system in kept}
    return replace(board, rows=rows, summary=summary, systems=facts)
