"""Score a trained checkpoint on held-out systems and write its results, figures and card.

    python -m training.evaluate_checkpoint runs/quickstart/model
    python -m training.evaluate_checkpoint runs/quickstart/model --data DIR --evaluation.protocol.num_windows 8

The settings are those of the run (`evaluation` in run_config.yaml); options override them. First the checkpoint is
loaded and must repeat the forecast that `training.train` left beside it, to the bit. Any other checkpoint folder can be
scored too, with `--data`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file
from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.baselines import BASELINES
from hf_tsdyn.data.held_out_windows import HeldOutWindow, draw_held_out_windows
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.evaluation import evaluate
from hf_tsdyn.figures import AttractorPanel, attractor_figure, error_growth_figure, save_figure, system_error_figure
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.model_card import ModelCardFacts, render_model_card
from hf_tsdyn.provenance import hardware_class, package_versions
from hf_tsdyn.results import EvaluationResults, write_atomically
from training.run_config import CONFIG_FILE, EvaluationConfig
from training.train import PROBE_FILE, SUMMARY_FILE

RESULTS_FILE = "results.json"
SHOWN_SYSTEMS = ("Lorenz", "Rossler", "Chua", "Halvorsen", "Thomas", "Aizawa")
"""Systems of the attractor figure, as far as the split holds them; then others of the split."""


@dataclass(frozen=True)
class Request:
    """What to evaluate and on what; `run_config` and `summary` are empty for a checkpoint of another origin."""

    checkpoint: Path
    data: Path
    evaluation: EvaluationConfig
    run_config: dict[str, Any]
    summary: dict[str, Any]


def load_request(arguments: Sequence[str] | None = None) -> Request:
    """Return the request of a command line, its defaults taken from the run that made the checkpoint.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a checkpoint.
    """
    parser = ArgumentParser(description="Score a checkpoint on held-out systems.", allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="folder that training.train or save_pretrained wrote")
    parser.add_argument("--data", type=str, help="folder of the dataset; the run's own by default")
    parser.add_class_arguments(EvaluationConfig, "evaluation")
    parser.set_defaults({"evaluation.name": "checkpoint"})
    checkpoint = Path(parser.parse_args(arguments)["checkpoint"])
    if not (checkpoint / "config.json").is_file():
        parser.error(f"checkpoint must be a folder with config.json, found none in {str(checkpoint)!r}; train first.")
    run_config, summary = {}, {}
    if (checkpoint / CONFIG_FILE).is_file() and (checkpoint / SUMMARY_FILE).is_file():
        run_config = yaml.safe_load((checkpoint / CONFIG_FILE).read_text())
        summary = json.loads((checkpoint / SUMMARY_FILE).read_text())
        parser.set_defaults({"data": run_config["data"]["path"], "evaluation": run_config["evaluation"]})
    else:
        parser.set_defaults({"evaluation.name": checkpoint.resolve().name})
    namespace = parser.parse_args(arguments)
    if namespace["data"] is None:
        parser.error("--data must name the dataset of a checkpoint that is no run of training.train.")
    try:
        evaluation = parser.instantiate(namespace)["evaluation"]
    except ValueError as error:
        parser.error(str(error))
    unknown = sorted(set(evaluation.baselines) - set(BASELINES))
    if unknown:
        parser.error(f"baselines must be some of {sorted(BASELINES)}, found {unknown}; correct the names.")
    return Request(checkpoint, Path(namespace["data"]), evaluation, run_config, summary)


def verify_reload(model: Any, request: Request) -> str:
    """Compare the loaded model's forecast with that of the training process, and say how they compare.

    Raises: RuntimeError, with the largest difference, if they differ on the same kind of machine and versions.
    """
    if not (request.checkpoint / PROBE_FILE).is_file():
        return f"no {PROBE_FILE} beside the checkpoint: reloading was not verified"
    probe = load_file(request.checkpoint / PROBE_FILE)
    forecast = model.forecast(probe["past_values"], prediction_length=probe["forecast"].shape[1])
    if torch.equal(forecast, probe["forecast"]):
        return f"reloaded in a new process: forecasts of the probe in {PROBE_FILE} are bit-equal"
    difference = (forecast - probe["forecast"]).abs().max().item()
    here = (hardware_class(model.device)["cpu"], package_versions())
    there = (request.summary.get("hardware", {}).get("cpu"), request.summary.get("versions"))
    if here == there:
        raise RuntimeError(
            f"a reloaded checkpoint must forecast bit-equal, found differences up to {difference:.3g} in "
            f"{request.checkpoint}; its files were changed since training: train again."
        )
    return f"reloaded on another processor or other versions: the probe's forecasts differ by up to {difference:.3g}"


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = request.evaluation
    dataset = TrajectoryDataset(request.data, evaluation.split)
    model: Any = AutoModelForTimeSeriesPrediction.from_pretrained(request.checkpoint)
    print(verify_reload(model, request))
    forecasters: dict[str, Forecaster] = {evaluation.name: model.to(device)}
    forecasters |= {name: BASELINES[name]() for name in evaluation.baselines}
    results = evaluate(forecasters, dataset, evaluation.protocol, baselines=evaluation.baselines, device=device)
    results.write(request.checkpoint / RESULTS_FILE)
    write_figures(request, results, dataset, model)
    if request.summary:
        card = render_model_card(results, card_facts(request, model))
        write_atomically(request.checkpoint / "README.md", card.encode())
    return results


def write_figures(request: Request, results: EvaluationResults, dataset: TrajectoryDataset, model: Any) -> None:
    """Draw the figures of the card into `figures/` of the checkpoint."""
    evaluation, horizon = request.evaluation, min(request.evaluation.protocol.horizons)
    panels = [_panel(window, request, model) for window in _shown_windows(dataset, request)]
    folder = request.checkpoint / "figures"
    folder.mkdir(exist_ok=True)
    save_figure(attractor_figure(panels), folder / "attractors.png")
    save_figure(error_growth_figure(results), folder / "error_growth.png")
    bars = system_error_figure(results, model=evaluation.name, horizon=horizon)
    save_figure(bars, folder / "systems.png")


def _shown_windows(dataset: TrajectoryDataset, request: Request) -> list[HeldOutWindow]:
    """The first window of up to six systems with two channels or more."""
    protocol = request.evaluation.protocol
    length = protocol.context_length + protocol.prediction_length
    windows: dict[str, HeldOutWindow] = {}
    for window in draw_held_out_windows(dataset, length=length, num_windows=1, seed=protocol.seed):
        if window.trajectory.values.shape[0] >= 2:
            windows.setdefault(window.trajectory.system, window)
    names = [name for name in SHOWN_SYSTEMS if name in windows]
    names += [name for name in windows if name not in names]
    return [windows[name] for name in names[: len(SHOWN_SYSTEMS)]]


def _panel(window: HeldOutWindow, request: Request, model: Any) -> AttractorPanel:
    protocol = request.evaluation.protocol
    values = np.array(window.values)
    past, future = values[: protocol.context_length], values[protocol.context_length :]
    forecast = model.forecast(torch.from_numpy(past)[None].to(model.device), prediction_length=len(future))
    return AttractorPanel(window.trajectory.system, past, future, forecast[0].cpu().numpy())


def card_facts(request: Request, model: Any) -> ModelCardFacts:
    """Return what the card says beyond the results, from the run's own records."""
    run, summary, config = request.run_config, request.summary, model.config
    training, protocol = run["training"], request.evaluation.protocol
    augmentations = run["data"].get("augmentations")
    chosen = summary["best_step"]
    batch = f"{training['per_device_train_batch_size']} windows a device"
    return ModelCardFacts(
        model_id=request.evaluation.model_id or request.evaluation.name,
        model=request.evaluation.name,
        model_type=config.model_type,
        summary=(
            f"A {config.model_type} that forecasts trajectories of dynamical systems it was not trained on, from their "
            "context alone."
        ),
        num_parameters=summary["num_parameters"],
        context_length=config.context_length,
        prediction_length=config.prediction_length,
        channels="any number",
        training_data={
            "systems": f"{len(summary['train_systems'])}, with perturbed parameters and initial conditions",
            "validation": f"{len(summary['validation_systems'])} other systems",
            "sampling": f"{summary['steps_per_period']:g} steps a period (median), without noise",
            "fingerprint": f"`{summary['dataset_fingerprint']}`",
            "augmentations": f"rate {augmentations['rate']}" if augmentations else "none",
        },
        training={
            "steps": f"{summary['steps']:,} of {batch}",
            "checkpoint": "the last step" if chosen is None else f"step {chosen:,}, the best on the validation systems",
            "learning rate": f"{training['learning_rate']:g}, {training['lr_scheduler_type']}",
            "loss": f"{config.loss}, in units of each window's scale" if config.normalize_loss else config.loss,
            "hardware": summary["hardware"]["accelerator"] or summary["hardware"]["cpu"],
        },
        limits=(
            "It gives point forecasts; intervals are not available.",
            "Forecasts of chaotic series lose the truth after a few Lyapunov times at best; long rollouts of a model "
            "of this size are no picture of the attractor.",
            "Noise and other sampling rates than in training were not measured.",
        ),
        commands=(
            "# DATA: the dataset of the fingerprint above; its own card says how it was made",
            f"python -m training.train --config {CONFIG_FILE} --data.path DATA --training.output_dir MODEL",
            "python -m training.evaluate_checkpoint MODEL --data DATA",
        ),
        evaluation_dataset=request.evaluation.dataset_name,
        figures=(
            (
                "figures/attractors.png",
                f"Held-out systems: truth against the forecast of {protocol.prediction_length} steps",
            ),
            ("figures/error_growth.png", "Growth of the error, median and quartiles over systems"),
            ("figures/systems.png", f"Error of the first {min(protocol.horizons)} steps on every held-out system"),
        ),
    )


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
            verdict = "better" if row.high < 0 else "worse" if row.low > 0 else "undecided"
            print(
                f"MAE at {row.horizon} less {row.baseline}'s, median over {row.num_systems} systems: "
                f"{row.median:+.3f} [{row.low:+.3f}, {row.high:+.3f}] ({verdict})"
            )
    print(f"checkpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"figures    {request.checkpoint / 'figures'}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
