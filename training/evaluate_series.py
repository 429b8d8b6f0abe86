"""Score a run of `training.train` on every window of a series, and write its results, figures and card.

    python -m training.evaluate_series runs/dynonet/model
    python -m training.evaluate_series runs/dynonet/model --data ETTh1.csv --start runs/dynonet/start

Validation and test windows of every start are scored, at each horizon of `evaluation.protocol`, in units of the
training rows' standard deviations and in the data's own; beside the model its baselines and, with `--start`, the
model that it is to be better than, such as its closed-form start: another run's folder. First the checkpoint is loaded
and must repeat the forecast that `training.train` left beside it, to the bit.

Only here and in the last step of `training.study` is the test split read.
"""

import argparse
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
from hf_tsdyn.series_results import SeriesResults, intervals_of_errors, rows_of_errors
from training import evaluate_checkpoint
from training.evaluate_checkpoint import RESULTS_FILE, Request, check_same_data
from training.probe import verify_reload
from training.series_checkpoint_figures import write_figures
from training.series_facts import render_card
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
    """Return the request of a command line: that of `training.evaluate_checkpoint`, and `--start`.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a checkpoint.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--start", type=Path)
    known, others = parser.parse_known_args(arguments)
    if known.start is not None and not (known.start / "config.json").is_file():
        parser.error(f"--start must be a folder with config.json, found none in {str(known.start)!r}; train it first.")
    request = evaluate_checkpoint.load_request(others)
    return SeriesRequest(**vars(request), start=known.start)


def evaluate_series(request: SeriesRequest) -> SeriesResults:
    """Score the checkpoint, write results, window errors, figures and card beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    Raises: ValueError or OSError if the data of a run have changed, or cannot be scored on; RuntimeError if the
        reloaded model forecasts otherwise than in training.
    """
    evaluation = request.evaluation
    scorer = SeriesScorer(request.data, evaluation.protocol)
    check_same_data(request, scorer.fingerprint)
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
    results.write(request.checkpoint / RESULTS_FILE)
    own = {f"{split}-{horizon}": errors[evaluation.name, split, horizon] for split, horizon in places}
    save_errors(own, request.checkpoint / ERRORS_FILE)
    write_figures(request, results, errors, forecasters, start=START_NAME)
    if request.summary:
        write_atomically(request.checkpoint / "README.md", render_card(request, results, model.config).encode())
    return results


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
    costs = ("cpu_seconds_of_last_launch", "closed_form_cpu_seconds")
    seconds = [cost for each in costs if (cost := request.summary.get(each)) is not None]
    header = {
        "models": list(forecasters),
        "labels": {},
        "num_parameters": {key: each.num_parameters() for key, each in models.items()},
        "cpu_seconds": {name: round(sum(seconds), 1)} if seconds else {},
        "claims": {},
        "protocol": {"context_length": evaluation.protocol.context_length} | options,
        "datasets": {evaluation.dataset_name: scorer.facts(scored)},
    }
    return SeriesResults(header | provenance(), rows, intervals)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the tables and where everything lies."""
    request = load_request(arguments)
    try:
        results = evaluate_series(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for split in dict.fromkeys(row.split for row in results.rows):
        print(f"\n{split} windows\n{results.overview(split=split)}\n\n{results.differences_table(split=split)}")
    print(f"\ncheckpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"windows    {request.checkpoint / ERRORS_FILE}")
    print(f"figures    {request.checkpoint / 'figures'}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
