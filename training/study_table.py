"""What came of a study, as far as its cells are done: results and tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from hf_tsdyn.results import write_atomically
from hf_tsdyn.series_evaluation import WindowErrors
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow, intervals_of_errors, rows_of_errors
from training.fold_tables import render_folds
from training.run_config import RunConfig
from training.series_scoring import SeriesScorer, provenance
from training.study_cells import cpu_seconds, load_cell, load_summary, split_name, splits
from training.study_config import Cell, StudyConfig

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"

Place = tuple[str, str, str, int]
"""Row, dataset, split as results call it, horizon."""


def collect_results(config: StudyConfig, cells: Sequence[Cell]) -> SeriesResults:
    """Return the results of all cells that are done, whatever launch did them.

    Raises: ValueError if none is, or rows cut one dataset differently.
    """
    rows: list[SeriesRow] = []
    found: dict[Place, list[WindowErrors]] = {}
    costs: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    facts, runs = _DatasetFacts(), {}
    for cell in cells:
        setting = (cell.row, cell.dataset, cell.horizon)
        if setting not in runs:
            runs[setting] = cell.resolve()[0]
        run, summary = runs[setting], None
        for split in splits(final=cell.fold is None):
            errors = load_cell(cell, split, run)
            if errors is None:
                continue
            summary = load_summary(cell)
            name = split_name(cell, split)
            place: dict[str, Any] = {"dataset": cell.dataset, "split": name, "horizon": cell.horizon}
            rows += rows_of_errors(errors, model=cell.row, seed=cell.seed if summary["steps"] else None, **place)
            found.setdefault((cell.row, cell.dataset, name, cell.horizon), []).append(errors)
            facts.add(cell, run, summary, name, errors)
        if summary is not None:
            cost = (summary["num_parameters"], cpu_seconds(cell))
            costs.setdefault(setting, []).append(cost)
    if not rows:
        raise ValueError(f"a study must have a cell that is done, found none in {config.output_dir}; see its log.txt.")
    header = _header(config, costs) | {"datasets": facts.to_header()} | provenance()
    return SeriesResults(header, rows, _intervals(config, found))


class _DatasetFacts:
    """What the header says of each dataset, gathered from cells."""

    def __init__(self) -> None:
        self._scorers: dict[str, SeriesScorer] = {}
        self._errors: dict[str, dict[tuple[str, int], WindowErrors]] = {}

    def add(self, cell: Cell, run: RunConfig, summary: dict[str, Any], split: str, errors: WindowErrors) -> None:
        if cell.dataset not in self._scorers:
            self._scorers[cell.dataset] = SeriesScorer(run.data, run.evaluation.protocol)
        expected = self._scorers[cell.dataset].series_fingerprint
        if cell.fold is not None:
            expected = cell.fold.fingerprint_of(expected)
        if summary["dataset_fingerprint"] != expected:
            raise ValueError(
                f"cell {cell.name} must be of the same {cell.dataset} as the others, found fingerprint "
                f"{summary['dataset_fingerprint']} in place of {expected}; give all rows the same data.series, or "
                "delete the cells of another file."
            )
        self._errors.setdefault(cell.dataset, {})[split, cell.horizon] = errors

    def to_header(self) -> dict[str, Any]:
        return {name: scorer.facts(self._errors[name]) for name, scorer in self._scorers.items()}


def _header(config: StudyConfig, costs: dict[tuple[str, str, int], list[tuple[int, float]]]) -> dict[str, Any]:
    """All but what the datasets and the machine say; costs of a row are those of its first setting that is done."""
    first = {row: each for (row, _, _), each in reversed(costs.items())}
    return {
        "name": config.name,
        "models": [row for row in config.rows if row in first],
        "labels": {name: row.label for name, row in config.rows.items() if row.label is not None},
        "num_parameters": {row: each[0][0] for row, each in first.items()},
        "cpu_seconds": {row: round(mean(seconds for _, seconds in each), 1) for row, each in first.items()},
        "claims": {name: asdict(claim) for name, claim in config.claims.items()},
        "protocol": _bootstrap_options(config) | ({} if config.folds is None else {"folds": asdict(config.folds)}),
    }


def _bootstrap_options(config: StudyConfig) -> dict[str, Any]:
    return {
        "num_resamples": config.num_resamples,
        "confidence": config.confidence,
        "seed": config.bootstrap_seed,
    }


def _intervals(config: StudyConfig, found: dict[Place, list[WindowErrors]]) -> list[SeriesInterval]:
    options, intervals = _bootstrap_options(config), []
    for (row, dataset, split, horizon), errors in found.items():
        place: dict[str, Any] = {"dataset": dataset, "split": split, "horizon": horizon}
        intervals += intervals_of_errors(errors, model=row, **place, **options)
    for model, baseline in config.compare:
        for (row, dataset, split, horizon), errors in found.items():
            reference = found.get((baseline, dataset, split, horizon))
            if row == model and reference is not None:
                place = {"dataset": dataset, "split": split, "horizon": horizon}
                intervals += intervals_of_errors(errors, reference, model=row, baseline=baseline, **place, **options)
    return intervals


def render_page(results: SeriesResults) -> str:
    """Return the results as a Markdown page: a table for each dataset and horizon, an overview, the differences."""
    parts = [f"# {results.header['name']}"]
    if "folds" in results.header["protocol"]:
        return "\n\n".join([*parts, *render_folds(results), _notes(results)]) + "\n"
    for split in reversed(dict.fromkeys(row.split for row in results.rows)):
        parts.append(f"## {split.capitalize()} windows")
        for dataset, horizon in results.scored_on(split):
            count = results.header["datasets"][dataset]["num_windows"][split][str(horizon)]
            table = results.table(dataset, horizon, split=split)
            parts += [f"### {dataset}, {horizon} steps ahead, {count:,} windows", table]
        if len(results.scored_on(split)) > 1:
            parts += ["### All, MSE / MAE", results.overview(split=split)]
        differences = results.differences_table(split=split)
        if differences:
            parts += ["### Differences, paired by window", differences]
    return "\n\n".join([*parts, f"{_notes(results)} {results.claims_note}".rstrip()]) + "\n"


def _notes(results: SeriesResults) -> str:
    confidence = results.header["protocol"]["confidence"]
    return (
        "Errors are in units of the training rows' standard deviations, over all windows at stride 1: mean ± standard "
        f"deviation over (n) seeds. Intervals ({100 * confidence:g} %) are of a bootstrap over blocks of consecutive "
        "windows of errors averaged over seeds. Seconds are CPU seconds of preparation and training on one thread, "
        "means over seeds."
    )


def write_results(results: SeriesResults, folder: Path) -> None:
    """Write results.json and results.md."""
    results.write(folder / RESULTS_FILE)
    write_atomically(folder / TABLE_FILE, render_page(results).encode())
