"""One cell of a study: trained in its own folder, then scored, each step once."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.results import write_atomically
from hf_tsdyn.series_evaluation import WindowErrors, load_errors, save_errors
from training.cell_runs import at_work, failure_of
from training.probe import verify_reload
from training.run_config import RunConfig
from training.run_summary import SUMMARY_FILE
from training.series_scoring import SeriesScorer
from training.study_config import Cell
from training.train import prepare, train

SECONDS_FILE = "cpu_seconds.json"


def run_cell(cell: Cell, study: Path, *, final: bool) -> str | None:
    """Train and score what is missing of a cell; return what went wrong, None if nothing did.

    Where another process is at work on the same cell, it is waited for. What training prints goes to log.txt.

    final: score the test windows too.
    """

    def work() -> None:
        config, resolved = cell.resolve()
        scorer = SeriesScorer(config.data, config.evaluation.protocol)
        with at_work(cell.name, cell.folder, study=study):
            train_run(cell, config, resolved)
            for split in splits(final=final):
                _score(cell, split, config, scorer)

    return failure_of(cell.name, work)


def splits(*, final: bool) -> tuple[str, ...]:
    """Return the splits that a study scores, the test split only in the end."""
    return ("validation", "test") if final else ("validation",)


def split_name(cell: Cell, split: str) -> str:
    """Return what results call a split of a cell: that of a fold is the fold."""
    return split if cell.fold is None else fold_name(cell.fold.index)


def fold_name(index: int) -> str:
    """Return what results call a fold."""
    return f"fold-{index}"


def train_run(cell: Cell, config: RunConfig, resolved: dict[str, Any]) -> None:
    """Train what is missing of a cell, resolved, and add up the process time that it takes."""
    start = time.process_time()
    trainer = prepare(config, resolved)
    if trainer is None:
        return
    try:
        train(trainer)
    finally:
        seconds = cpu_seconds(cell) + time.process_time() - start
        write_atomically(cell.folder / SECONDS_FILE, json.dumps({"cpu_seconds": round(seconds, 2)}).encode())


def cpu_seconds(cell: Cell) -> float:
    """Return the process time of a cell's preparation and training, without launches that were killed."""
    file = cell.folder / SECONDS_FILE
    return json.loads(file.read_text())["cpu_seconds"] if file.is_file() else 0.0


def _score(cell: Cell, split: str, config: RunConfig, scorer: SeriesScorer) -> None:
    file, name = errors_file(cell, split), errors_name(config, cell.horizon)
    if file.is_file() and name in load_errors(file):
        return
    model: Any = AutoModelForTimeSeriesPrediction.from_pretrained(cell.folder)
    print(verify_reload(model, cell.folder, load_summary(cell)))
    save_errors({name: scorer.score(model, split, cell.horizon, show_progress=False)}, file)


def load_summary(cell: Cell) -> dict[str, Any]:
    """Return what came of the training of a cell that is done."""
    return json.loads((cell.folder / SUMMARY_FILE).read_text())


def load_cell(cell: Cell, split: str, config: RunConfig) -> WindowErrors | None:
    """Return the window errors of a cell; None if it was not trained and scored yet."""
    file = errors_file(cell, split)
    if not file.is_file() or not (cell.folder / SUMMARY_FILE).is_file():
        return None
    return load_errors(file).get(errors_name(config, cell.horizon))


def errors_file(cell: Cell, split: str) -> Path:
    """Return the file of the window errors of a cell on one split."""
    return cell.folder / f"{split}_errors.npz"


def errors_name(config: RunConfig, horizon: int) -> str:
    """Return the name of errors in that file: of another context length they would be others."""
    return f"context-{config.evaluation.protocol.context_length}-horizon-{horizon}"
