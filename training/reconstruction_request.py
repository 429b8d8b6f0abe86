"""What an evaluation of a model of one system is asked for, and what results say that it was asked for."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from hf_tsdyn.metrics.invariants import InvariantOptions
from hf_tsdyn.models.alrnn import ALRNNConfig
from hf_tsdyn.results import EvaluationResults
from training.reconstruction_config import ReconstructionConfig
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE
from training.sweep_config import cell_name
from training.sweep_data import SweepData
from training.sweep_folder import DELETE


@dataclass(frozen=True)
class Request:
    """What to evaluate and on what; `run_config` and `summary` are empty for a checkpoint of another origin.

    data: the run's, with its training and its test part; None for a checkpoint of another origin.
    test_path, second_path: true series, NPY or CSV, to score on in place of the run's, and for the floor.
    """

    checkpoint: Path
    data: SweepData | None
    test_path: str | None
    second_path: str | None
    evaluation: ReconstructionConfig
    run_config: dict[str, Any]
    summary: dict[str, Any]


def load_request(arguments: Sequence[str] | None = None) -> Request:
    """Return the request of a command line, its defaults taken from the run that made the checkpoint.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without such a model.
    """
    parser = ArgumentParser(
        prog="python -m training.evaluate_reconstruction",
        description="Score how a model reproduces the attractor of its system.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="folder of a model: best, of a cell of training.sweep")
    parser.add_argument("--data", type=str, help="true series, NPY or CSV; the run's test series by default")
    parser.add_argument("--second_data", type=str, help="another true series, at least as long")
    parser.add_argument("--dt", type=float, help="time between two steps; evaluation.dt by default")
    parser.add_class_arguments(ReconstructionConfig, "evaluation")
    checkpoint = Path(parser.parse_args(arguments)["checkpoint"])
    _check_model(parser, checkpoint)
    run_config, summary = _records(checkpoint)
    parser.set_defaults(_defaults(checkpoint, run_config))
    namespace = parser.parse_args(arguments)
    if namespace["data"] is None and not run_config:
        parser.error("--data must name a true series for a checkpoint that is no run of training.sweep.")
    try:
        evaluation = parser.instantiate(namespace)["evaluation"]
        data = SweepData(**run_config["data"]) if run_config else None
    except ValueError as error:
        parser.error(str(error))
    if namespace["dt"] is not None:
        evaluation = replace(evaluation, dt=namespace["dt"])
    if evaluation.ship_weights and not run_ships_weights(run_config):
        parser.error(
            "--evaluation.ship_weights must be false for a run whose settings say so, found true; if the licence of "
            "the series allows it, run the same sweep with --evaluation.ship_weights true first, which only notes it."
        )
    return Request(checkpoint, data, namespace["data"], namespace["second_data"], evaluation, run_config, summary)


def _check_model(parser: ArgumentParser, checkpoint: Path) -> None:
    if not (checkpoint / "config.json").is_file():
        parser.error(f"checkpoint must be a folder with config.json, found none in {str(checkpoint)!r}; train first.")
    found = json.loads((checkpoint / "config.json").read_text()).get("model_type")
    if found != ALRNNConfig.model_type:
        parser.error(
            f"checkpoint must be a model of one system ({ALRNNConfig.model_type}), found {found!r} in "
            f"{str(checkpoint)!r}; score forecasts with training.evaluate_checkpoint."
        )


def _records(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training.sweep says of the model; nothing of one that it did not make."""
    file = checkpoint / SUMMARY_FILE
    if not was_swept(checkpoint) or not file.is_file():
        return {}, {}
    try:
        summary = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} must be whole JSON, found {error}; {DELETE}.") from error
    return yaml.safe_load((checkpoint / CONFIG_FILE).read_text()), summary


def run_ships_weights(run: dict[str, Any]) -> bool:
    """Return whether a run's settings let weights and pictures of its series be shipped; true without a run."""
    return run.get("evaluation", {}).get("ship_weights", True)


def was_swept(checkpoint: Path) -> bool:
    """Return whether the checkpoint is the best of a cell of training.sweep, and not a run of training.train."""
    file = checkpoint / CONFIG_FILE
    return file.is_file() and "fit" in yaml.safe_load(file.read_text())


def _defaults(checkpoint: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The run's settings; its name with the cell's, where the grid has several, as the name of a folder."""
    if not run:
        return {"evaluation.name": checkpoint.resolve().name}
    cell = "" if run["cell"] == cell_name({}) else "-" + re.sub(r"[^\w.]+", "-", run["cell"])
    given = {name: value for name, value in run["evaluation"].items() if value is not None}
    return {f"evaluation.{name}": value for name, value in ({"name": run["name"] + cell} | given).items()}


def as_evaluated(request: Request, results: EvaluationResults) -> ReconstructionConfig:
    """Return the settings that the results were made with; weights may be shipped if they and the run say so.

    Raises: ValueError on results that do not hold them.
    """
    found = results.header.get("evaluation")
    if found is None:
        raise ValueError(
            f"the results of {request.checkpoint} must hold the settings of their evaluation, found none; evaluate it "
            "again with training.evaluate_reconstruction."
        )
    invariants = InvariantOptions(**found["invariants"])
    ship_weights = found["ship_weights"] and run_ships_weights(request.run_config)
    return ReconstructionConfig(**found | {"invariants": invariants, "ship_weights": ship_weights})
