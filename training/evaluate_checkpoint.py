"""Score a trained checkpoint on held-out data and write its results, figures and card.

    python -m training.evaluate_checkpoint runs/quickstart/model
    python -m training.evaluate_checkpoint runs/quickstart/model --data DIR --evaluation.protocol.num_windows 8

The settings are those of the run (`evaluation` in run_config.yaml); options override them. First the checkpoint is
loaded and must repeat the forecast that `training.train` left beside it, to the bit. A checkpoint that was fine-tuned
is scored beside the one it started from, and beside others with `--beside '{"NAME": "FOLDER"}'`. Any other checkpoint
folder can be scored too, with `--data`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.baselines import BASELINES
from hf_tsdyn.data.series import SeriesOptions
from hf_tsdyn.evaluation import evaluate
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.model_card import counted, render_model_card
from hf_tsdyn.models import MASKED_MODELING
from hf_tsdyn.results import EvaluationResults, verdict, write_atomically
from training.card_facts import card_facts, loaded_from_its_folder
from training.checkpoint_figures import figure_captions, figures_place, present_figures, write_figures
from training.probe import verify_reload
from training.run_config import CONFIG_FILE, DataConfig, EvaluationConfig
from training.run_summary import SUMMARY_FILE

RESULTS_FILE = "results.json"
START_NAME = "before fine-tuning"
"""Of the checkpoint that a fine-tuned one started from, in tables and results."""


@dataclass(frozen=True)
class Request:
    """What to evaluate and on what; `run_config` and `summary` are empty for a checkpoint of another origin.

    beside: folders of other checkpoints by the names they have in the results.
    """

    checkpoint: Path
    data: DataConfig
    evaluation: EvaluationConfig
    run_config: dict[str, Any]
    summary: dict[str, Any]
    beside: dict[str, str] = field(default_factory=dict)


def build_parser(command: str, description: str) -> ArgumentParser:
    """Return a parser of the options that commands share which score a forecaster."""
    parser = ArgumentParser(prog=f"python -m training.{command}", description=description, allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="folder that training.train or save_pretrained wrote")
    parser.add_argument("--data", type=str, help="dataset folder, or series; the run's own by default")
    parser.add_class_arguments(SeriesOptions, "series")
    parser.add_class_arguments(EvaluationConfig, "evaluation")
    parser.set_defaults({"evaluation.name": "checkpoint"})
    return parser


def parse_request(parser: ArgumentParser, arguments: Sequence[str] | None) -> tuple[Request, Namespace]:
    """Return the request of a command line, its defaults taken from the run that made the checkpoint, and all options.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a checkpoint.
    """
    checkpoint = Path(parser.parse_args(arguments)["checkpoint"])
    if not (checkpoint / "config.json").is_file():
        parser.error(f"checkpoint must be a folder with config.json, found none in {str(checkpoint)!r}; train first.")
    _check_forecasts(parser, checkpoint)
    run_config, summary = {}, {}
    if (checkpoint / CONFIG_FILE).is_file() and (checkpoint / SUMMARY_FILE).is_file():
        run_config = yaml.safe_load((checkpoint / CONFIG_FILE).read_text())
        summary = json.loads((checkpoint / SUMMARY_FILE).read_text())
        parser.set_defaults({"data": run_config["data"]["path"], "evaluation": run_config["evaluation"]})
        parser.set_defaults({f"series.{name}": value for name, value in run_config["data"].get("series", {}).items()})
    else:
        parser.set_defaults({"evaluation.name": checkpoint.resolve().name})
    namespace = parser.parse_args(arguments)
    if namespace["data"] is None:
        parser.error("--data must name the dataset of a checkpoint that is no run of training.train.")
    try:
        settings = parser.instantiate(namespace)
    except ValueError as error:
        parser.error(str(error))
    unknown = sorted(set(settings["evaluation"].baselines) - set(BASELINES))
    if unknown:
        parser.error(f"baselines must be some of {sorted(BASELINES)}, found {unknown}; correct the names.")
    data = DataConfig(path=namespace["data"], series=settings["series"])
    return Request(checkpoint, data, settings["evaluation"], run_config, summary), namespace


def load_request(arguments: Sequence[str] | None = None) -> Request:
    """Return the request of a command line, as `parse_request` does, with other checkpoints to score beside.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a checkpoint.
    """
    parser = build_parser("evaluate_checkpoint", "Score a checkpoint on held-out systems.")
    parser.add_argument("--beside", type=dict[str, str], default={}, help="folders of other checkpoints, by name")
    request, namespace = parse_request(parser, arguments)
    beside = namespace["beside"]
    taken = sorted({request.evaluation.name, START_NAME, *request.evaluation.baselines} & beside.keys())
    lost = [folder for folder in beside.values() if not (Path(folder) / "config.json").is_file()]
    if taken or lost:
        parser.error(f"--beside must name other checkpoints by names not taken, found {taken or lost}; correct it.")
    return replace(request, beside=beside)


def _check_forecasts(parser: ArgumentParser, checkpoint: Path) -> None:
    """Refuse a masked model, which would be loaded with a head that was never trained."""
    found = json.loads((checkpoint / "config.json").read_text()).get("architectures") or []
    masked = {model_class.__name__ for model_class in MASKED_MODELING.values()}
    if masked & set(found):
        parser.error(
            f"checkpoint must be a model that forecasts, found {found[0]} in {str(checkpoint)!r}; fine-tune it first "
            "(encoder_checkpoint), or score how it fills gaps with training.evaluate_completion."
        )


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = request.evaluation
    dataset = request.data.open(evaluation.split, evaluation.protocol.context_length)
    check_same_data(request, dataset.fingerprint)
    model: Any = AutoModelForTimeSeriesPrediction.from_pretrained(request.checkpoint)
    print(verify_reload(model, request.checkpoint, request.summary))
    forecasters: dict[str, Forecaster] = {evaluation.name: model.to(device)}
    start = load_start(request.run_config.get("checkpoint"))
    if start is not None:
        forecasters[START_NAME] = start.to(device)
    for name, folder in request.beside.items():
        forecasters[name] = AutoModelForTimeSeriesPrediction.from_pretrained(folder).to(device)
    forecasters |= {name: BASELINES[name]() for name in evaluation.baselines}
    baselines = [name for name in forecasters if name != evaluation.name]
    results = evaluate(forecasters, dataset, evaluation.protocol, baselines=baselines, device=device)
    results.write(request.checkpoint / RESULTS_FILE)
    write_figures(request.checkpoint, results, dataset, model, evaluation)
    if request.summary:
        request = loaded_from_its_folder(request)
        write_atomically(request.checkpoint / "README.md", render_card(request, results, model.config).encode())
    return results


def load_start(start: str | None) -> Any:
    """Return the model that a run began with; None, and word of it, if it is not to be found from here."""
    if start is None:
        return None
    if not Path(start).is_dir() and (start.count("/") != 1 or start.startswith((".", "/", "~"))):
        print(f"the run started from {start!r}, of which there is nothing in {Path.cwd()}: it is not scored beside it")
        return None
    return AutoModelForTimeSeriesPrediction.from_pretrained(start)


def check_same_data(request: Request, fingerprint: str) -> None:
    """Raise ValueError if the data of a run have changed since its training: what was held out may not be now."""
    trained_on = request.summary.get("dataset_fingerprint", fingerprint)
    own = request.run_config.get("data", {}).get("path") == request.data.path
    if own and fingerprint != trained_on:
        raise ValueError(
            f"a run must be scored on the data that it was trained on, found fingerprint {fingerprint} in place of "
            f"{trained_on} at {request.data.path}; restore the file and its series options, or score the model on "
            "other data, from another path, with --data."
        )


def render_card(request: Request, results: EvaluationResults, config: Any) -> str:
    """Return the card of a run; `config` is the model's."""
    evaluation = request.evaluation
    own = {evaluation.name, START_NAME, *evaluation.baselines}
    facts = card_facts(
        request.run_config,
        request.summary,
        config=config,
        evaluation=evaluation,
        figures=present_figures(request.checkpoint, figure_captions(results, evaluation)),
        beside=tuple(name for name in results.header["models"] if name not in own),
    )
    return render_model_card(results, facts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the table and where everything lies."""
    request = load_request(arguments)
    try:
        results = evaluate_checkpoint(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(results.summary_table(("normalised_mae", "smape")))
    for row in results.differences:
        if row.metric == "normalised_mae" and row.model == request.evaluation.name:
            print(
                f"MAE at {row.horizon} less {row.baseline}'s, median over {counted(row.num_systems, 'system')}: "
                f"{row.median:+.3f} [{row.low:+.3f}, {row.high:+.3f}] ({verdict(row)})"
            )
    print(f"checkpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"figures    {figures_place(request.checkpoint)}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
