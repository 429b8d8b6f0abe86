"""What came of a sweep: one row a model, the best of each cell, the floor that a perfect model would have."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_tsdyn.metrics.invariants import (
    Floor,
    complete_series,
    spectrum_distance,
    state_space_divergence,
    truth_floor,
)
from hf_tsdyn.models.alrnn.fitting import FitStatus
from hf_tsdyn.provenance import git_revision, hardware_class, package_versions
from hf_tsdyn.reconstruction import ReconstructionProtocol
from hf_tsdyn.results import write_atomically
from training.sweep_config import Cell, SweepConfig
from training.sweep_data import SweepSeries
from training.sweep_folder import DELETE, Member, SweepFolder, from_json, to_json

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"
SCORE_LABELS = {
    "state_space_divergence": "test divergence",
    "spectrum_distance": "test spectrum distance",
    "prediction_error": "test n-step error",
    "num_regions": "regions",
    "num_regions_above_1_percent": "regions > 1 %",
}
"""Columns of the scores on test data, in this order."""


def choose_best(members: Sequence[Member]) -> Member | None:
    """Return the member that is closest to the validation series; None if all exploded."""
    fit = [member for member in members if member.status is FitStatus.COMPLETED]
    return min(fit, key=lambda member: member.best_divergence, default=None)


def collect_results(
    config: SweepConfig,
    cells: Sequence[Cell],
    series: SweepSeries,
    floor: Mapping[str, Floor],
    folder: SweepFolder,
    *,
    wall_seconds: float,
) -> dict[str, Any]:
    """Return the results of a finished sweep as plain values: `header`, `rows` in the grid's order, `floor`.

    wall_seconds: of the last launch; CPU seconds are those of all training, with what an interrupted launch did.
    """
    rows = []
    for cell in cells:
        members = folder.load_members(cell.name, config.all_seeds)
        best = choose_best(members)
        rows += [_row(cell, member, selected=member is best) for member in members]
    protocol = config.evaluation
    lengths = {"train": len(series.train), "validation": len(series.validation)}
    if series.test is not None:
        lengths["test"] = len(protocol.compared(series.test))
    header = {
        "name": config.name,
        "num_steps": lengths,
        "discard": protocol.discard,
        "invariants": vars(protocol.invariants),
        "dataset_fingerprint": series.fingerprint,
        "test_fingerprint": series.test_fingerprint,
        "wall_seconds_of_last_launch": round(wall_seconds, 1),
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 1),
        "versions": package_versions(),
        "hardware": hardware_class(torch.device("cpu")),
        "git_revision": git_revision(),
    }
    floors = {name: entry._asdict() for name, entry in floor.items()}
    return {"header": header, "rows": rows, "floor": floors}


def _row(cell: Cell, member: Member, *, selected: bool) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "values": cell.values,
        "seed": member.seed,
        "status": member.status.name.lower(),
        "selected": selected,
        "best_epoch": member.best_epoch,
        "validation_divergence": member.best_divergence,
        "scores": member.scores,
        "cpu_seconds": member.cpu_seconds,
    }


def floor_scores(series: SweepSeries, protocol: ReconstructionProtocol) -> dict[str, Floor]:
    """Return, by column, what a perfect model would score at half the length, and the steps of that.

    Raises: ValueError, naming the part of the series that cannot be scored on: too short, or constant in a channel.
    """
    options = protocol.invariants

    def divergence(truth: np.ndarray, generated: np.ndarray) -> float:
        return state_space_divergence(truth, generated, options, rng=np.random.default_rng(protocol.seed))

    def distance(truth: np.ndarray, generated: np.ndarray) -> float:
        return spectrum_distance(truth, generated, smoothing=options.spectrum_smoothing)

    part, floor = "validation", {}
    try:
        floor["validation_divergence"] = truth_floor(series.validation, divergence)
        if series.test is not None:
            part, truth = "test", protocol.compared(series.test)
            complete_series("truth", protocol.predicted(series.test, context_length=1))
            floor["state_space_divergence"] = truth_floor(truth, divergence)
            floor["spectrum_distance"] = truth_floor(truth, distance)
    except ValueError as error:
        raise ValueError(f"the {part} part of the series cannot be scored on: {error}") from error
    return floor


def write_results(results: Mapping[str, Any], folder: SweepFolder) -> None:
    """Write the results as JSON, infinite numbers as "Infinity", and as a table."""
    write_atomically(folder.path / TABLE_FILE, render_table(results).encode())
    write_atomically(folder.path / RESULTS_FILE, to_json(results))


def load_results(folder: SweepFolder) -> dict[str, Any] | None:
    """Return the results that `write_results` wrote, None if there are none yet; ValueError on a damaged file."""
    file = folder.path / RESULTS_FILE
    try:
        return from_json(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise ValueError(f"{file} must be whole JSON, found {error}; {DELETE}.") from error


def render_table(results: Mapping[str, Any]) -> str:
    """Return the results as a Markdown page: a row a model, the chosen of each cell in bold; the floor below."""
    header, rows, floor = results["header"], results["rows"], results["floor"]
    fields = list(rows[0]["values"])
    scores = [name for name in SCORE_LABELS if any(name in row["scores"] for row in rows)]
    titles = [field.partition(".")[2] for field in fields] + ["seed", "status", "best epoch", "validation divergence"]
    titles += [SCORE_LABELS[name] for name in scores] + ["CPU s"]
    lines = [f"# {header['name']}", "", _line(titles), "|" + "---|" * len(titles)]
    for row in rows:
        cells = [row["seed"], row["status"], row["best_epoch"], row["validation_divergence"]]
        cells += [row["scores"].get(name) for name in scores] + [row["cpu_seconds"]]
        shown = [str(row["values"][field]) for field in fields] + [_shown(cell) for cell in cells]
        lines.append(_line([f"**{cell}**" for cell in shown] if row["selected"] else shown))
    return "\n".join([*lines, "", *_notes(header, rows, floor), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _notes(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers."""
    steps = header["num_steps"]
    labels = {"validation_divergence": "validation divergence"} | SCORE_LABELS
    floors = [f"{labels[name]} {_shown(entry['value'])} ({entry['steps']:,} steps)" for name, entry in floor.items()]
    tested = (
        f"; test scores on {steps['test']:,} steps after {header['discard']}, which chose nothing (n-step error: "
        f"n = {header['invariants']['prediction_steps']})"
        if "test" in steps
        else "; no test series"
    )
    notes = [
        f"Bold: the least validation divergence of its cell, on {steps['validation']:,} steps{tested}.",
        f"The floor, one half of the true series scored against the other: {', '.join(floors)}. It falls with the "
        "number of steps, and that of the table's numbers, at full length, is lower.",
        f"{header['cpu_seconds']:,} CPU seconds of training, {header['wall_seconds_of_last_launch']:,} seconds of the "
        "last launch.",
    ]
    found = [FitStatus[row["status"].upper()] for row in rows]
    failed = [status for status in FitStatus if status is not FitStatus.COMPLETED and status in found]
    counts = [f"{found.count(status)} of {len(rows)}" for status in failed]
    return notes + [
        f"{status.name.capitalize()} ({count}): {status.value}." for status, count in zip(failed, counts, strict=True)
    ]
