"""Tables of a leaderboard, in Markdown: a model a row, in the order of `overall_ranks`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .comparisons import PairedTest, is_larger_better, wins_matrix
from .leaderboard import Board, Column
from .leaderboard_criteria import criteria, overall_ranks, ranks_by_criterion, shown_columns
from .metrics import bootstrap_paired_difference
from .results import METRIC_LABELS, STEP_METRIC, DifferenceRow, EvaluationResults, table_cell, verdict
from .scoring import TRUTH

SIGNIFICANT = 0.05
"""Adjusted p-values below are marked."""


def main_table(board: Board) -> str:
    """Return medians with intervals of every model, its rank, time and size, the best median of a column in bold.

    The last row has the floors: what the truth scores against another stretch of itself.
    """
    columns = shown_columns(board)
    titles = ["model", "overall rank", *(_title(board, each) for each in columns), "CPU ms a forecast", "parameters"]
    best = {column: _best(board, column) for column in columns}
    lines = _head(titles)
    for model, rank in overall_ranks(board).items():
        cells = [_cell(board, model, column, best[column]) for column in columns]
        size = board.models[model].get("num_parameters")
        lines.append(
            _line([board.label(model), f"{rank:.2f}", *cells, _cpu_ms(board, model), f"{size:,}" if size else "-"])
        )
    floors = [_cell(board, TRUTH, column, None) for column in columns]
    if set(floors) - {"-"}:
        lines.append(_line([f"*{TRUTH}*", "-", *floors, "-", "-"]))
    return "\n".join(lines)


def short_table(board: Board, num_models: int) -> str:
    """Return the first models with their ranks and what these rest on, the best median of a column in bold."""
    columns = criteria(board)
    best = {column: _best(board, column) for column in columns}
    lines = _head(["model", "overall rank", *(_title(board, column) for column in columns)])
    for model, rank in list(overall_ranks(board).items())[:num_models]:
        cells = [_cell(board, model, column, best[column]) for column in columns]
        lines.append(_line([board.label(model), f"{rank:.2f}", *cells]))
    return "\n".join(lines)


def _title(board: Board, column: Column) -> str:
    """A column's title, with the number of its systems where some have no such value."""
    count = max(cell.num_systems for model in board.models if (cell := board.cell(model, column)))
    return column.title if count == len(board.systems) else f"{column.title} ({count} of {len(board.systems)} systems)"


def _best(board: Board, column: Column) -> float:
    medians = [cell.median for model in board.models if (cell := board.cell(model, column))]
    return max(medians) if is_larger_better(column.metric) else min(medians)


def _cell(board: Board, model: str, column: Column, best: float | None) -> str:
    found = board.cell(model, column)
    if found is None:
        return "-"
    median, _, interval = table_cell(found).partition(" ")
    shown = f"**{median}**" if found.median == best else median
    return f"{shown} {interval}".rstrip()


def cpu_ms_of(board: Board, model: str, clock: str = "cpu_seconds") -> float | None:
    """Return the CPU milliseconds that a model takes to forecast one window; None if they were not measured."""
    seconds = board.costs[model].get(f"{clock}_per_forecast")
    return None if seconds is None else 1000 * seconds


def _cpu_ms(board: Board, model: str, clock: str = "cpu_seconds") -> str:
    found = cpu_ms_of(board, model, clock)
    return "-" if found is None else f"{found:.3g}"


def rank_table(board: Board) -> str:
    """Return each model's average rank over systems under every criterion, and their mean, which orders the models."""
    ranks = ranks_by_criterion(board)
    lines = _head(["model", "overall", *(column.title for column in ranks)])
    for model, overall in overall_ranks(board).items():
        lines.append(_line([board.label(model), f"{overall:.2f}", *(f"{each[model]:.2f}" for each in ranks.values())]))
    return "\n".join(lines)


def wins_table(board: Board, column: Column, tests: Iterable[PairedTest]) -> str:
    """Return on what share of systems, in percent, the row's model beats the column's; * where a paired test says so.

    Columns are the rows' numbers. Models without any value of the metric are left out.

    Args:
        tests: of `paired_tests_by_criterion`.
    """
    models = [model for model in overall_ranks(board) if board.cell(model, column)]
    wins = wins_matrix(board.rows_at(column), column.metric, column.horizon, models=models)
    different = {frozenset((test.model, test.other)) for test in tests if test.adjusted < SIGNIFICANT}
    lines = _head(["", "model", *(str(number) for number in range(1, len(models) + 1))], named=2)
    for number, (model, shares) in enumerate(zip(models, wins.shares, strict=True), start=1):
        cells = [
            "" if other == model else f"{100 * share:.0f}" + "\\*" * (frozenset((model, other)) in different)
            for other, share in zip(models, shares, strict=True)
        ]
        lines.append(_line([str(number), board.label(model), *cells]))
    return "\n".join(lines)


def leader_table(board: Board, tests: Mapping[Column, Iterable[PairedTest]]) -> str:
    """Return the paired tests of the first model against each other one, under every criterion; "" with one model.

    Adjusted p-values, corrected over all pairs of models under the criterion, and rank-biserial effects, 1 where the
    first model is better on every system.

    Args:
        tests: of `paired_tests_by_criterion`.
    """
    leader, *others = overall_ranks(board)
    own = {column: {test.other: test for test in found if test.model == leader} for column, found in tests.items()}
    lines = _head([f"{board.label(leader)} against", *(column.title for column in own)])
    for model in others:
        found = [each.get(model) for each in own.values()]
        cells = ["-" if test is None else f"{test.effect:+.2f}, p {_p_value(test.adjusted)}" for test in found]
        lines.append(_line([board.label(model), *cells]))
    return "\n".join(lines) if others and own else ""


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference_table(board: Board, reference: Board) -> str:
    """Return how each model's medians change from the reference's condition, paired by system, with intervals."""
    known = {(row.metric, row.horizon) for row in reference.summary}
    columns = [column for column in shown_columns(board) if (column.metric, column.horizon) in known]
    lines = _head(["model", *(column.title for column in columns)])
    for model in overall_ranks(board):
        if model in reference.models:
            cells = [_change(board, reference, model, column) for column in columns]
            lines.append(_line([board.label(model), *cells]))
    return "\n".join(lines) if len(lines) > 2 and columns else ""


def _change(board: Board, reference: Board, model: str, column: Column) -> str:
    """The change of a metric with its interval, and whether it is one; a system that only one has is infinitely bad."""
    now, before = board.values(model, column), reference.values(model, column)
    if not now or not before:
        return "-"
    systems = sorted({*now, *before})
    lost = -np.inf if is_larger_better(column.metric) else np.inf
    options: dict[str, Any] = {name: board.protocol[name] for name in ("num_resamples", "confidence")}
    interval = bootstrap_paired_difference(
        [now.get(system, lost) for system in systems],
        [before.get(system, lost) for system in systems],
        rng=np.random.default_rng(board.protocol["seed"]),
        **options,
    )
    row = DifferenceRow(model, reference.condition, column.horizon, column.metric, *interval, len(systems))
    said = verdict(row)
    if is_larger_better(column.metric):
        said = {"better": "worse", "worse": "better"}.get(said, said)
    sign = "+" if interval.median > 0 else ""
    return f"{sign}{table_cell(row)}" + (f", {said}" if said in ("better", "worse") else "")


def metric_table(board: Board, metrics: Sequence[str]) -> str:
    """Return medians with intervals of some metrics at every horizon that they have; "" if there are none."""
    models = [*overall_ranks(board), TRUTH]
    present = {row.metric for row in board.summary if row.model in models}
    names = [name for name in dict.fromkeys(metrics) if name in present]
    if not names:
        return ""
    labels = {model: board.label(model) for model in models}
    rows = [row for row in board.summary if row.metric in names and row.model in labels]
    summary = [replace(row, model=labels[row.model]) for row in rows]
    return EvaluationResults({"models": list(labels.values())}, [], summary, []).summary_table(names)


def metric_tables(board: Board) -> dict[str, str]:
    """Return tables of everything in the summary, below what they are of."""
    names = sorted({row.metric for row in board.summary if row.metric != STEP_METRIC})
    kinds = {
        "Errors": ["smape", "normalised_mae", "normalised_mse", "mase"],
        "Valid prediction times": [name for name in names if name.startswith("vpt_")],
        "Distributions": [
            name
            for name in names
            if name.startswith(("normalised_crps", "weighted_quantile_loss", "coverage", "interval_width"))
        ],
    }
    listed = {name for kind in kinds.values() for name in kind}
    kinds["Attractors"] = [name for name in names if name not in listed]
    many_horizons = kinds.pop("Errors")
    tables = {METRIC_LABELS[name]: metric_table(board, [name]) for name in many_horizons}
    tables |= {title: metric_table(board, kind) for title, kind in kinds.items()}
    return {title: table for title, table in tables.items() if table}


def cost_table(board: Board) -> str:
    """Return what each model is, what it was trained on and for how long, what a forecast takes, what failed."""
    titles = ["model", "kind", "parameters", "trained on", "windows seen", "training, CPU s", "CPU ms a forecast"]
    titles += ["wall ms a forecast", "CPU ms of its quantiles", "failed windows"]
    found = sorted({name for costs in board.costs.values() for name in costs})
    others = [name for name in found if not name.endswith(("seconds", "windows", "_per_forecast"))]
    lines = _head([*titles, *(name.replace("_bytes", ", MB").replace("_", " ") for name in others)])
    for model in overall_ranks(board):
        facts, costs = board.models[model], board.costs[model]
        training, size = facts.get("training") or {}, facts.get("num_parameters")
        cells = [board.label(model), facts.get("kind", "-"), f"{size:,}" if size else "-"]
        data = training.get("data") or str(training.get("dataset_fingerprint") or "-")[:12]
        cells += [str(data), *(_number(training.get(name)) for name in ("windows_seen", "cpu_seconds"))]
        cells += [_cpu_ms(board, model, clock) for clock in ("cpu_seconds", "wall_seconds", "quantile_cpu_seconds")]
        cells += [str(costs.get("failed_windows", "-")), *(_number(costs.get(name), name) for name in others)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _number(value: float | None, name: str = "") -> str:
    if value is None:
        return "-"
    value = value / 1e6 if name.endswith("_bytes") else value
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def failures_note(board: Board) -> str:
    """Return a sentence on the windows whose forecast was not finite."""
    found = []
    for model in overall_ranks(board):
        costs, errors = board.costs[model], board.models[model].get("errors") or {}
        if costs.get("failed_windows"):
            said = "".join(f" (on {system}: {texts[0]})" for system, texts in list(errors.items())[:1])
            found.append(f"{board.label(model)} {costs['failed_windows']:,} of {costs['num_windows']:,}{said}")
    if not found:
        return "No forecast failed."
    return (
        f"Windows with a forecast that was not finite: {', '.join(found)}. They count as infinite errors (sMAPE "
        "100, spectrum distance 1), and in ranks, wins and tests as the worst."
    )


def _head(titles: Iterable[str], *, named: int = 1) -> list[str]:
    """The first two lines of a table, the first `named` columns left-aligned."""
    titles = list(titles)
    return [_line(titles), "|" + "---|" * named + "---:|" * (len(titles) - named)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
