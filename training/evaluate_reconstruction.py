"""Score how a trained model of one system reproduces its attractor and write its results, figures and card.

    python -m training.evaluate_reconstruction runs/lorenz63/CELL/best
    python -m training.evaluate_reconstruction runs/lorenz63/CELL/best --data test.npy --dt 0.01

CHECKPOINT is the folder `best` of a cell of `training.sweep`; data and settings are the run's (run_config.yaml);
options override them. First the checkpoint is loaded and must repeat the forecast that was left beside it, to the bit.
Any other checkpoint folder can be scored too, with `--data`. `--second_data`, another true series of the same length,
gives the floor of a perfect model at full length; without it the floor is that of half the length.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentParser

from hf_tsdyn.data.series_files import read_series_file
from hf_tsdyn.figures import save_figure
from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.fixed_points import fixed_points
from hf_tsdyn.models.alrnn.symbolic import symbolic_orbit
from hf_tsdyn.reconstruction import LINEAR, evaluate_reconstruction, fit_linear_model, free_orbit
from hf_tsdyn.reconstruction_card import reconstruction_table, render_reconstruction_card
from hf_tsdyn.reconstruction_figures import history_figure, reconstruction_figure, spectrum_figure
from hf_tsdyn.results import EvaluationResults, write_atomically
from hf_tsdyn.symbolic_figures import symbol_figure, transition_figure
from hf_tsdyn.symbolic_report import FIXED_POINT_REGIONS
from training.evaluate_checkpoint import RESULTS_FILE
from training.probe import verify_reload
from training.reconstruction_config import ReconstructionConfig
from training.reconstruction_facts import reconstruction_card_facts
from training.run_config import CONFIG_FILE
from training.sweep_config import cell_name
from training.sweep_data import SweepData, SweepSeries, load_series
from training.sweep_folder import HISTORY_FILE, Member
from training.train import SUMMARY_FILE

CAPTIONS = {
    "reconstruction": "The true series and the model's free run in state space",
    "spectra": "Power spectra of the true series and of the free run",
    "symbols": "The free run in state space and in time, coloured by linear region",
    "transitions": "From region to region: probabilities given that the region changes",
    "history": "Training: loss, and free runs against the validation series",
}
TRUTH_FIGURES = ("reconstruction", "spectra")
"""Those that show the series itself."""


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
    parser = ArgumentParser(description="Score how a model reproduces the attractor of its system.", allow_abbrev=False)
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
    if not was_swept(checkpoint) or not (checkpoint / SUMMARY_FILE).is_file():
        return {}, {}
    return yaml.safe_load((checkpoint / CONFIG_FILE).read_text()), json.loads((checkpoint / SUMMARY_FILE).read_text())


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


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    """
    evaluation, name = request.evaluation, str(request.evaluation.name)
    series = None if request.data is None else _load_own_series(request.data, request.run_config)
    truth, fingerprint = _truth(request, series)
    model = ALRNNForPrediction.from_pretrained(request.checkpoint)
    print(verify_reload(model, request.checkpoint, request.summary))
    models = {name: model} | ({} if series is None else {LINEAR: fit_linear_model(series.train)})
    results = evaluate_reconstruction(
        models,
        truth,
        system=evaluation.system,
        protocol=evaluation.protocol,
        dt=evaluation.dt,
        baselines=[each for each in models if each != name],
        second_truth=None if request.second_path is None else _read(request.second_path)[0],
        known=evaluation.known,
        fingerprint=fingerprint,
    )
    results.write(request.checkpoint / RESULTS_FILE)
    write_figures(request, results, model, truth)
    if request.summary:
        write_atomically(request.checkpoint / "README.md", render_card(request, results, model.config).encode())
    return results


def _load_own_series(data: SweepData, run: dict[str, Any]) -> SweepSeries:
    """The run's series; ValueError if they have changed since its training."""
    series = load_series(data)
    for name, found in {"fingerprint": series.fingerprint, "test_fingerprint": series.test_fingerprint}.items():
        expected = run["dataset"][name]
        if found != expected:
            raise ValueError(
                f"a run must be scored on the series that it was made for, found {name} {found} in place of "
                f"{expected} at {data.path} and {data.test_path}; restore the files, or name others with --data."
            )
    return series


def _truth(request: Request, series: SweepSeries | None) -> tuple[np.ndarray, str]:
    """The series (time, channels) to score on, and the fingerprint of its file."""
    if request.test_path is not None:
        return _read(request.test_path)
    if series is None or series.test is None:
        raise ValueError("the run must have a test series to be scored on, found none; name one with --data.")
    return series.test, series.test_fingerprint or series.fingerprint


def _read(path: str) -> tuple[np.ndarray, str]:
    found = read_series_file(Path(path), columns=None, time_column=None).series
    if len(found) != 1:
        raise ValueError(f"a true series must be the only one of its file, found {len(found)} in {path}; write it out.")
    fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return np.array(found[0].T, dtype=np.float64), fingerprint


def render_card(request: Request, results: EvaluationResults, config: Any) -> str:
    """Return the card of a run; `config` is the model's."""
    captions = {f"figures/{name}.png": caption for name, caption in CAPTIONS.items()}
    figures = tuple((path, text) for path, text in captions.items() if (request.checkpoint / path).is_file())
    facts = reconstruction_card_facts(
        request.run_config, request.summary, config=config, evaluation=request.evaluation, figures=figures
    )
    return render_reconstruction_card(results, facts)


def write_figures(request: Request, results: EvaluationResults, model: ALRNNForPrediction, truth: np.ndarray) -> None:
    """Draw into the folder `figures` what there is to show: nothing of the series if it may not be shown."""
    folder, evaluation = request.checkpoint / "figures", request.evaluation
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    part, generated = evaluation.compared(truth), free_orbit(model, truth, evaluation)
    figures = {}
    if evaluation.ship_weights:
        smoothing = evaluation.invariants.spectrum_smoothing
        figures["reconstruction"] = reconstruction_figure(part, generated)
        figures["spectra"] = spectrum_figure(part, generated, smoothing=smoothing, dt=evaluation.dt)
    if evaluation.name in results.header["symbolic"]:
        past = np.array(truth[: model.config.warmup_length])
        orbit = symbolic_orbit(model, past, num_steps=evaluation.symbolic_steps)
        figures["symbols"] = symbol_figure(orbit, fixed_points(model, orbit.regions[:FIXED_POINT_REGIONS]))
        figures["transitions"] = transition_figure(orbit)
    histories = _histories(request)
    if histories:
        own = [member.seed for member in histories].index(request.summary["seed"])
        entries = [member.history for member in histories]
        figures["history"] = history_figure(entries, chosen=own, best_epoch=histories[own].best_epoch)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")


def _histories(request: Request) -> list[Member]:
    """How the training of every seed of the cell went, where that still lies beside the checkpoint."""
    files = [request.checkpoint.parent / f"seed-{seed}" / HISTORY_FILE for seed in request.summary.get("seeds", [])]
    return [Member.from_json(file.read_bytes()) for file in files] if all(file.is_file() for file in files) else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the table and where everything lies."""
    request = load_request(arguments)
    try:
        results = evaluate_checkpoint(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(reconstruction_table(results))
    print(f"checkpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"figures    {request.checkpoint / 'figures'}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
