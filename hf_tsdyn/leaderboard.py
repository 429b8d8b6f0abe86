"""Merge the results files of a benchmark into one board a condition.

A results file takes part if its header has `benchmark`: {name, condition, models: {model: {label, kind, num_parameters,
training, cost, errors}}, series: {name: fingerprint}}; what is said of a model, and series, may be missing. Files of
one condition hold different models on the same windows; whatever lies in the folder takes part. Systems whose facts
have the `group` "series" are forecast as far as their lengths allow, and stand aside: no median over the others has
them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .results import EvaluationResults, ResultRow, SummaryRow, results_bytes
from .scoring import TRUTH

DISTURBANCES = ("noise", "missing")
"""Fields of a protocol that disturb contexts; 0, or absent, in a clean one."""
SERIES = "series"
GROUP_TITLES = {"base": "Base systems", "skew_product": "Skew products", SERIES: "Series"}
"""Titles of the `group` of systems; another goes by its own name."""


class Column(NamedTuple):
    """One metric at one horizon, and what a table calls it."""

    title: str
    metric: str
    horizon: int


@dataclass(frozen=True, eq=False)
class Board:
    """All models under one condition.

    protocol, fingerprint, split: of each of its files. systems: what their headers say of each. models: what
    `benchmark` says of each; costs: of each, from the header and from there, with its number of windows. rows,
    summary: of all models and of the truth against itself. files: per file its header. series: the part that stands
    aside, without a summary; None if there is none, or nothing else.
    """

    condition: str
    protocol: Mapping[str, Any]
    fingerprint: str
    split: str
    systems: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Mapping[str, float]]
    rows: Sequence[ResultRow]
    summary: Sequence[SummaryRow]
    files: Mapping[str, Mapping[str, Any]]
    series: Board | None = None

    def label(self, model: str) -> str:
        """Return what a table calls a model: its label, with its name where two models share one."""
        labels = [facts.get("label") for facts in self.models.values()]
        own = str(self.models.get(model, {}).get("label") or model)
        return f"{own} ({model})" if labels.count(own) > 1 else own

    @property
    def is_clean(self) -> bool:
        """Whether forecasters saw the contexts as they are."""
        return not any(self.protocol.get(name) for name in DISTURBANCES)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The systems below the titles of their groups; one without a group is in that of "other systems"."""
        found: dict[str, list[str]] = {}
        for system, facts in self.systems.items():
            group = str(facts.get("group") or "other systems")
            found.setdefault(GROUP_TITLES.get(group, group), []).append(system)
        return found

    def cell(self, model: str, column: Column) -> SummaryRow | None:
        """Return the median of a model over systems with its interval, None if it has none."""
        for row in self.summary:
            if (row.model, row.metric, row.horizon) == (model, column.metric, column.horizon):
                return row
        return None

    def rows_at(self, column: Column) -> list[ResultRow]:
        """Return all rows of a column, those of the truth too."""
        return self._rows_by_place.get((column.metric, column.horizon), [])

    def values(self, model: str, column: Column) -> dict[str, float]:
        """Return the values of a model by system."""
        return {row.system: row.value for row in self.rows_at(column) if row.model == model}

    @cached_property
    def _rows_by_place(self) -> dict[tuple[str, int], list[ResultRow]]:
        found: dict[tuple[str, int], list[ResultRow]] = {}
        for row in self.rows:
            found.setdefault((row.metric, row.horizon), []).append(row)
        return found

    def column(self, title: str, metric: str, horizon: int | None = None) -> Column | None:
        """Return a metric at the evaluated horizon that is nearest, the largest by default; None if there is none.

        A name that ends in "@" stands for its first threshold. {horizon} in the title becomes the horizon found.
        """
        models = set(self.models)
        found = [row for row in self.summary if row.model in models and _is_named(row.metric, metric)]
        if not found:
            return None
        name = found[0].metric
        horizons = sorted({row.horizon for row in found if row.metric == name})
        nearest = horizons[-1] if horizon is None else min(horizons, key=lambda each: abs(math.log(each / horizon)))
        return Column(title.format(horizon=nearest), name, nearest)


def _is_named(metric: str, wanted: str) -> bool:
    return metric.startswith(wanted) if wanted.endswith("@") else metric == wanted


def reference_of(board: Board, boards: Iterable[Board]) -> Board | None:
    """Return the board that a condition is read against, window by window; None if there is none.

    That of a disturbed one has the same contexts undisturbed, that of a clean one shorter contexts, the shortest there
    are, with the same forecast origins.
    """
    length = board.protocol["context_length"]
    found = [
        other
        for other in boards
        if other.is_clean and _origins(other) == _origins(board) and _is_simpler(other, board, length)
    ]
    return min(found, key=lambda other: (other.protocol["context_length"], other.condition), default=None)


def _is_simpler(other: Board, board: Board, length: int) -> bool:
    own = other.protocol["context_length"]
    return own < length if board.is_clean else own == length


def _origins(board: Board) -> tuple[Any, ...]:
    """What decides where forecasts begin."""
    protocol = board.protocol
    back = protocol.get("look_back") or protocol["context_length"]
    ahead = protocol.get("look_ahead") or max(protocol["horizons"])
    return board.fingerprint, board.split, back, ahead, protocol["num_windows"], protocol["seed"]


def read_boards(folder: str | os.PathLike[str]) -> list[Board]:
    """Return a board a condition from the results files of a folder; those of no benchmark are passed over.

    Clean conditions come first, then those of more systems, then those of shorter contexts.
    Raises: FileNotFoundError if there is no results file of a benchmark; ValueError if files of one condition are not
        of the same data and protocol, or hold different rows of the same model.
    """
    files = sorted(file for ending in ("json", "json.gz") for file in Path(folder).glob(f"*.{ending}"))
    found: dict[str, dict[str, EvaluationResults]] = {}
    for file in files:
        if _is_of_benchmark(file):
            results = EvaluationResults.read(file)
            found.setdefault(results.header["benchmark"]["condition"], {})[file.name] = results
    if not found:
        raise FileNotFoundError(
            f"a leaderboard needs results files of a benchmark, found none among the {len(files)} JSON files of "
            f"{folder}; run training.benchmark and put its results files there."
        )
    boards = [_merge(condition, parts) for condition, parts in found.items()]
    return sorted(boards, key=_place)


def _place(board: Board) -> tuple[Any, ...]:
    return (not board.is_clean, -len(board.systems), board.protocol.get("context_length", 0), board.condition)


def _is_of_benchmark(file: Path) -> bool:
    try:
        content = json.loads(results_bytes(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} must be a results file, found no JSON: {error}; write it again.") from error
    header = content.get("header") if isinstance(content, dict) else None
    return isinstance(header, dict) and "benchmark" in header


def _merge(condition: str, parts: Mapping[str, EvaluationResults]) -> Board:
    """One board from the files of a condition, by their names."""
    first, reference = next(iter(parts.items()))
    found: dict[tuple[str, str], tuple[str, list[ResultRow]]] = {}
    summary: list[SummaryRow] = []
    models, costs, systems = {}, {}, {}
    for file, results in parts.items():
        _check_agreement(condition, (first, reference.header), (file, results.header))
        systems = results.header["systems"] | systems
        for place, own in _rows_by_place(file, results).items():
            _check_same(place, found.setdefault(place, (file, own)), (file, own))
        new = [model for model in results.header["benchmark"]["models"] if model not in models]
        with_truth = new if any(row.model == TRUTH for row in summary) else [*new, TRUTH]
        summary += [row for row in results.summary if row.model in with_truth]
        models |= {model: results.header["benchmark"]["models"][model] for model in new}
        costs |= {model: _costs(results.header, model) for model in new}
    board = Board(
        condition=condition,
        protocol=reference.header["protocol"],
        **{name: reference.header["dataset"][name] for name in ("fingerprint", "split")},
        systems=systems,
        models=models,
        costs=costs,
        rows=[row for _, own in found.values() for row in own],
        summary=summary,
        files={file: results.header for file, results in parts.items()},
    )
    return _with_series_aside(board)


def _with_series_aside(board: Board) -> Board:
    series = _of_group(board.systems, SERIES)
    if len(series) in (0, len(board.systems)):
        return board
    others = {name: facts for name, facts in board.systems.items() if name not in series}
    parts = {True: [], False: []}
    for row in board.rows:
        parts[row.system in series].append(row)
    aside = replace(board, systems=series, rows=parts[True], summary=[])
    return replace(board, systems=others, rows=parts[False], series=aside)


def _of_group(systems: Mapping[str, Mapping[str, Any]], group: str) -> dict[str, Mapping[str, Any]]:
    return {name: facts for name, facts in systems.items() if facts.get("group") == group}


def _costs(header: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What is known of a model's costs; seconds of one forecast are means over windows if nothing better is."""
    total, count = header["cost"].get(model, {}), header["dataset"]["num_windows"]
    each = {f"{clock}_per_forecast": seconds / count for clock, seconds in total.items() if clock.endswith("_seconds")}
    stated = header["benchmark"]["models"][model].get("cost") or {}
    return {"num_windows": count} | total | each | stated


def _rows_by_place(file: str, results: EvaluationResults) -> dict[tuple[str, str], list[ResultRow]]:
    """The rows of each model on each system."""
    found: dict[tuple[str, str], list[ResultRow]] = {}
    for row in results.rows:
        found.setdefault((row.model, row.system), []).append(row)
    named = set(results.header["benchmark"]["models"])
    wrong = sorted(named ^ ({model for model, _ in found} - {TRUTH}))
    if wrong:
        raise ValueError(
            f"the header's `benchmark` must name the models that {file} has rows of, found {wrong} in one of them "
            "alone; write the file with training.benchmark."
        )
    return found


def _check_same(
    place: tuple[str, str], one: tuple[str, Sequence[ResultRow]], other: tuple[str, Sequence[ResultRow]]
) -> None:
    if one[1] is not other[1] and set(one[1]) != set(other[1]):
        raise ValueError(
            f"a model must have the same rows wherever it appears, found others of {place[0]!r} on {place[1]!r} in "
            f"{one[0]} and {other[0]}; remove one of them, or give the newer model another name."
        )


def _check_agreement(condition: str, one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    own, others = _deciding(one[1]), _deciding(other[1])
    aside = [header["benchmark"].get("series", {}) for _, header in (one, other)]
    differing = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
    differing += [
        f"series {name}" for name in sorted(set(aside[0]) & set(aside[1])) if aside[0][name] != aside[1][name]
    ]
    if differing:
        found = "; ".join(f"{name} ({own.get(name)!r}, {others.get(name)!r})" for name in differing[:4])
        raise ValueError(
            f"results of the condition {condition!r} must be of the same data and protocol, found {one[0]} and "
            f"{other[0]} to differ in {len(differing)} places: {found}; evaluate again on the same, or name another "
            "condition."
        )


def _deciding(header: Mapping[str, Any]) -> dict[str, Any]:
    """What files of one condition agree in: data, protocol, and every system but series."""
    found = {f"dataset.{name}": header["dataset"][name] for name in ("fingerprint", "split")}
    found |= {f"protocol.{name}": value for name, value in header["protocol"].items()}
    systems = {name: facts for name, facts in header["systems"].items() if facts.get("group") != SERIES}
    return found | {f"systems.{name}": facts.get("num_windows") for name, facts in systems.items()}
