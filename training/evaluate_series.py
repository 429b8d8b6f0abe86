"""Score a run of `training.train` on every window of a series, and write its results, figures and card.

    python -m training.evaluate_series runs/dynonet/model
    python -m training.evaluate_series runs/dynonet/model --start runs/dynonet/start

Validation and test windows of every start are scored, at each horizon of `evaluation.protocol`, in units of the
training rows' standard deviations and in the data's own; beside the model its baselines and, with `--start`, the
model that it is to be better than, such as its closed-form start: another run's folder. First the checkpoint is loaded
and must repeat the forecast that `training.train` left beside it, to the bit.

On another series than it was trained on, `--data OTHER --evaluation.dataset_name NAME`, a run is scored without a card;
results and figures lie in its folder scored_on_NAME, and those of its own series stay.

Only here and in the last step of `training.study` is the test split read.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTimeSeriesPrediction, PreTrainedModel

from hf_tsdyn.baselines import BASELINES
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.results import write_atomically
from hf_tsdyn.series_evaluation import WindowErrors, save_errors
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import intervals_of_errors, rows_of_errors
from training.card_facts import loaded_from_its_folder
from training.checkpoint_figures import figures_place
from training.evaluate_checkpoint import RESULTS_FILE, Request, build_parser, check_same_data, parse_request
from training.probe import verify_reload
from training.run_summary import SUMMARY_FILE
from training.series_checkpoint_figures import write_figures
from training.series_facts import is_of_training_series, render_card
from training.series_scoring import SeriesScorer, bootstrap_options, provenance

ERRORS_FILE = "window_errors.npz"
START_NAME = "start"
"""Of the model that `--start` names, in tables and results."""

Errors = dict[tuple[str, str, int], WindowErrors]
"""By model, split and horizon."""


@dataclass(frozen=True)
class SeriesRequest(Request):
    """What to evaluate and on what; `start` is the folder of another run to compare with."""

    start: Path | None = None


def load_request(arguments: Sequence[str] | None = None) -> SeriesRequest:
    """Return the request of a command line.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a checkpoint.
    """
    parser = build_parser("evaluate_series", "Score a run of training.train on every window of a series.")
    parser.add_argument("--start", type=str, help="folder of another run to compare with, such as a closed-form start")
    request, namespace = parse_request(parser, arguments)
    start, evaluation = namespace["start"], request.evaluation
    if start is not None and not (Path(start) / "config.json").is_file():
        parser.error(f"--start must be a folder with config.json, found none in {start!r}; train it first.")
    if start is not None and START_NAME in (evaluation.name, *evaluation.baselines):
        parser.error(f"evaluation.name must not be {START_NAME!r}, which --start is called; give another name.")
    if evaluation.split != "test":
        parser.error(
            f"evaluation.split must be 'test', found {evaluation.split!r}: windows of the splits 'validation' and "
            "'test' are scored, both; leave it out."
        )
    return SeriesRequest(**vars(request), start=None if start is None else Path(start))


def evaluate_series(request: SeriesRequest) -> SeriesResults:
    """Score the checkpoint, write results, window errors, figures and card beside it, and return the results.

    The card is of a run on its own series: another series, or a checkpoint of another origin, gets results and figures
    alone, those of another series in a folder of their own.
    Raises: ValueError or OSError if the data of a run have changed, or cannot be scored on; RuntimeError if the
        reloaded model forecasts otherwise than in training.
    """
    evaluation = request.evaluation
    scorer = SeriesScorer(request.data, evaluation.protocol)
    check_same_data(request, scorer.fingerprint)
    folder = output_folder(request, scorer.fingerprint)
    model: Any = AutoModelForTimeSeriesPrediction.from_pretrained(request.checkpoint)
    print(verify_reload(model, request.checkpoint, request.summary))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forecasters: dict[str, Forecaster] = {evaluation.name: model.to(device)}
    if request.start is not None:
        forecasters[START_NAME] = AutoModelForTimeSeriesPrediction.from_pretrained(request.start).to(device)
    forecasters |= {name: BASELINES[name]() for name in evaluation.baselines}
    places = [
        (split, horizon)
        for split in dict.fromkeys(("validation", evaluation.split))
        for horizon in evaluation.protocol.horizons
    ]
    errors = {
        (name, *place): scorer.score(forecaster, *place) for place in places for name, forecaster in forecasters.items()
    }
    results = collect_results(request, scorer, errors, forecasters)
    results.write(folder / RESULTS_FILE)
    own = {f"{split}-{horizon}": errors[evaluation.name, split, horizon] for split, horizon in places}
    save_errors(own, folder / ERRORS_FILE)
    write_figures(folder, request, results, errors, forecasters, start=START_NAME)
    if request.summary and folder == request.checkpoint:
        request = loaded_from_its_folder(request)
        write_atomically(folder / "README.md", render_card(request, results, model.config).encode())
    return results


def output_folder(request: SeriesRequest, fingerprint: str) -> Path:
    """Return where results go: into the checkpoint's folder, or one of its own for a series it was not trained on.

    fingerprint: of the series that is scored.
    Raises: ValueError unless such a series has a name of its own, fit for a folder.
    """
    if not request.summary or is_of_training_series(request.summary, fingerprint):
        return request.checkpoint
    name, trained_on = request.evaluation.dataset_name, request.run_config["evaluation"]["dataset_name"]
    if name == trained_on or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"a series that the run was not trained on must have a name of its own, of letters, digits, . and -, found "
            f"{name!r} for {request.data.path}, which is not the series {trained_on!r} of the training (other "
            "fingerprint); give --evaluation.dataset_name."
        )
    return request.checkpoint / f"scored_on_{name}"


def collect_results(
    request: SeriesRequest, scorer: SeriesScorer, errors: Errors, forecasters: dict[str, Forecaster]
) -> SeriesResults:
    """Return rows of all forecasters, intervals of the model's errors and of its differences to all others."""
    evaluation = request.evaluation
    name, seed = evaluation.name, None
    if request.summary.get("steps"):
        seed = request.run_config.get("training", {}).get("seed")
    options = bootstrap_options(evaluation.protocol)
    rows, intervals, scored = [], [], {}
    for (model, split, horizon), each in errors.items():
        scored[split, horizon] = each
        place: dict[str, Any] = {"dataset": evaluation.dataset_name, "split": split, "horizon": horizon}
        rows += rows_of_errors(each, model=model, seed=seed if model == name else None, **place)
        own = [errors[name, split, horizon]]
        if model == name:
            intervals += intervals_of_errors(own, model=name, **place, **options)
        else:
            intervals += intervals_of_errors(own, [each], model=name, baseline=model, **place, **options)
    models = {key: each for key, each in forecasters.items() if isinstance(each, PreTrainedModel)}
    seconds = {name: _cpu_seconds(request.summary)}
    if request.start is not None and (request.start / SUMMARY_FILE).is_file():
        seconds[START_NAME] = _cpu_seconds(json.loads((request.start / SUMMARY_FILE).read_text()))
    header = {
        "models": list(forecasters),
        "labels": {},
        "num_parameters": {key: each.num_parameters() for key, each in models.items()},
        "cpu_seconds": {key: cost for key, cost in seconds.items() if cost is not None},
        "claims": {},
        "protocol": {"context_length": evaluation.protocol.context_length} | options,
        "datasets": {evaluation.dataset_name: scorer.facts(scored)},
    }
    return SeriesResults(header | provenance(), rows, intervals)


def _cpu_seconds(summary: dict[str, Any]) -> float | None:
    """Of a run's training, closed forms included; None without a record."""
    costs = [summary.get(name) for name in ("cpu_seconds_of_last_launch", "closed_form_cpu_seconds")]
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 1) if known else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the tables and where everything lies."""
    request = load_request(arguments)
    try:
        results = evaluate_series(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for split in dict.fromkeys(row.split for row in results.rows):
        print(f"\n{split} windows\n{results.overview(split=split)}\n\n{results.differences_table(split=split)}")
    folder = output_folder(request, results.header["datasets"][request.evaluation.dataset_name]["fingerprint"])
    none = "of another series than that of the training" if request.summary else "no record of its training"
    has_card = request.summary and folder == request.checkpoint
    print(f"\ncheckpoint {request.checkpoint}")
    print(f"results    {folder / RESULTS_FILE}")
    print(f"windows    {folder / ERRORS_FILE}")
    print(f"figures    {figures_place(folder)}")
    print(f"card       {folder / 'README.md' if has_card else f'none: {none}'}")


if __name__ == "__main__":
    main()
