"""The networks that online methods start from: runs of `training.train` in folders of their own, and loading them."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoModelForTimeSeriesPrediction, PreTrainedModel

from training.cell_runs import at_work, failure_of
from training.model_config import build_model_config
from training.online_config import OnlineConfig
from training.online_streams import series_path
from training.run_config import claim_output_dir, flatten
from training.run_summary import SUMMARY_FILE
from training.study_cells import train_run
from training.study_config import Cell, run_arguments

WEIGHTS_FILE = "model.safetensors"


def start_cell(config: OnlineConfig, name: str, *, dataset: str, horizon: int, seed: int) -> Cell:
    """Return the run that pre-trains a network on a dataset for a horizon with a seed."""
    network, stream, place = config.pretrained[name], config.streams[dataset], f"{dataset}-{horizon}"
    cell_name = f"pretrained/{name}/{place}/seed-{seed}"
    folder = Path(config.output_dir, cell_name)
    options: dict[str, Any] = {
        "model.prediction_length": horizon,
        "model.context_length": stream.context_length,
        "evaluation.protocol.horizons": [horizon],
        "evaluation.protocol.context_length": stream.context_length,
    }
    options |= flatten(network.overrides) | flatten(stream.overrides) | flatten(network.overrides_at.get(place, {}))
    options |= {"evaluation.name": name, "evaluation.dataset_name": dataset}
    options |= {"data.path": str(series_path(config, dataset))}
    options |= flatten(dataclasses.asdict(stream.series), "data.series")
    options |= {"training.seed": seed, "data.seed": seed, "training.output_dir": str(folder)}
    options |= {"training.disable_tqdm": True}
    return Cell(cell_name, name, dataset, horizon, None, seed, folder, run_arguments(network.config, options))


def check_start(cell: Cell, changed: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError, naming the cell, unless its run resolves and its model takes each set of changed fields."""
    run, _ = cell.resolve()
    for fields in ({}, *changed):
        try:
            build_model_config(run.model | fields, run.task)
        except ValueError as error:
            raise ValueError(f"cell {cell.name}: {error}") from error


def pretrain(cell: Cell, *, study: Path) -> str | None:
    """Train what is missing of a network; return what went wrong, None if nothing did.

    Where another process is at work on it, it is waited for. What training prints goes to log.txt.
    """

    def work() -> None:
        config, resolved = cell.resolve()
        with at_work(cell.name, cell.folder, study=study):
            train_run(cell, config, resolved)

    return failure_of(cell.name, work)


def check_trained(cell: Cell, fingerprint: str, *, study: Path) -> None:
    """Refuse a trained network that is none of the run that the study asks for.

    fingerprint: of the series that it is to be trained on.
    Raises: FileExistsError naming the settings that differ; ValueError as `Cell.resolve` does.
    """
    _, resolved = cell.resolve()
    resolved["data"]["fingerprint"] = fingerprint
    with at_work(cell.name, cell.folder, study=study):
        claim_output_dir(resolved, cell.folder)


def is_trained(cell: Cell) -> bool:
    """Return whether the run is finished."""
    return (cell.folder / SUMMARY_FILE).is_file()


def digest_of(cell: Cell) -> str:
    """Return the hash of a network's weights.

    Raises: FileNotFoundError if it was not trained.
    """
    if not is_trained(cell):
        raise FileNotFoundError(f"{cell.folder} must hold a trained network, found none; see its log.txt.")
    return hashlib.sha256((cell.folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def load_network(cell: Cell, fields: dict[str, Any]) -> PreTrainedModel:
    """Return a trained network with fields of its configuration changed; weights that it then lacks are left behind.

    Raises: ValueError if the changed network has weights that the trained one has not.
    """
    network, report = AutoModelForTimeSeriesPrediction.from_pretrained(cell.folder, output_loading_info=True, **fields)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise ValueError(
            f"model must leave a trained network no weight to begin anew, found {missing[:3]} with {fields}; pre-train "
            "a network with these fields."
        )
    return network
