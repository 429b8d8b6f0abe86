"""Score a trained checkpoint on held-out systems and write its results, figures and card.

    python -m training.evaluate_checkpoint runs/quickstart/model
    python -m training.evaluate_checkpoint runs/quickstart/model --data DIR --evaluation.protocol.num_windows 8

The settings are those of the run (`evaluation` in run_config.yaml); options override them. First the checkpoint is
loaded and must repeat the forecast that `training.train` left beside it, to the bit.
"""

import argparse
import json
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
from hf_tsdyn.results import EvaluationResults, write_atomically
from training.run_config import CONFIG_FILE, EvaluationConfig
from training.train import PROBE_FILE, SUMMARY_FILE

RESULTS_FILE = "results.json"
SHOWN_SYSTEMS = ("Lorenz", "Rossler", "Chua", "Halvorsen", "Thomas", "Aizawa")
"""Systems of the attractor figure, as far as the split holds them; then others of the split."""


@dataclass(frozen=True)
class Request:
    """What to evaluate and on what."""

    checkpoint: Path
    data: Path
    evaluation: EvaluationConfig
    run_config: dict[str, Any]
    summary: dict[str, Any]


def load_request(arguments: Sequence[str] | None = None) -> Request:
    """Return the request of a command line, its defaults taken from the run that made the checkpoint.

    Raises: SystemExit with a message on unknown or impossible options, or a folder that is no finished run.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("checkpoint", nargs="?", type=Path)
    checkpoint = first.parse_known_args(arguments)[0].checkpoint
    parser = ArgumentParser(description="Score a checkpoint of training.train.", allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="folder that training.train wrote")
    parser.add_argument("--data", type=str, help="folder of the dataset; the run's own by default")
    parser.add_class_arguments(EvaluationConfig, "evaluation")
    run_config, summary = {}, {}
    if checkpoint is not None:
        missing = [name for name in (CONFIG_FILE, SUMMARY_FILE, "config.json") if not (checkpoint / name).is_file()]
        if missing:
            parser.error(f"{checkpoint} must be the folder of a finished run, found no {missing}; train first.")
        run_config = yaml.safe_load((checkpoint / CONFIG_FILE).read_text())
        summary = json.loads((checkpoint / SUMMARY_FILE).read_text())
        parser.set_defaults({"data": run_config["data"]["path"], "evaluation": run_config["evaluation"]})
    namespace = parser.parse_args(arguments)
    try:
        evaluation = parser.instantiate(namespace).evaluation
    except ValueError as error:
        parser.error(str(error))
    unknown = sorted(set(evaluation.baselines) - set(BASELINES))
    if unknown:
        parser.error(f"baselines must be some of {sorted(BASELINES)}, found {unknown}; correct the names.")
    return Request(Path(namespace.checkpoint), Path(namespace.data), evaluation, run_config, summary)


def verify_reload(model: Any, checkpoint: Path) -> None:
    """Check that the loaded model repeats the forecast of the training process to the bit.

    Raises: RuntimeError with the largest difference.
    """
    probe = load_file(checkpoint / PROBE_FILE)
    forecast = model.forecast(probe["past_values"], prediction_length=probe["forecast"].shape[1])
    if not torch.equal(forecast, probe["forecast"]):
        difference = (forecast - probe["forecast"]).abs().max().item()
        raise RuntimeError(
            f"a reloaded checkpoint must forecast bit-equal, found differences up to {difference:.3g} in {checkpoint}; "
            "was it trained on another kind of processor, or with other package versions?"
        )


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForTimeSeriesPrediction.from_pretrained(request.checkpoint)
    verify_reload(model, request.checkpoint)
    print(f"reloaded in a new process: forecasts of the probe in {PROBE_FILE} are bit-equal")
    evaluation = request.evaluation
    dataset = TrajectoryDataset(request.data, evaluation.split)
    forecasters: dict[str, Forecaster] = {evaluation.name: model.to(device)}
    forecasters |= {name: BASELINES[name]() for name in evaluation.baselines}
    results = evaluate(forecasters, dataset, evaluation.protocol, baselines=evaluation.baselines, device=device)
    results.write(request.checkpoint / RESULTS_FILE)
    write_figures(request, results, dataset, model)
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
    return ModelCardFacts(
        model_id=request.evaluation.name,
        model=request.evaluation.name,
        model_type=config.model_type,
        summary=(
            f"A small {config.model_type} that forecasts trajectories of chaotic systems it was not trained on, from "
            "their context alone."
        ),
        num_parameters=summary["num_parameters"],
        context_length=config.context_length,
        prediction_length=config.prediction_length,
        channels="any number",
        training_data={
            "systems": f"{len(summary['train_systems'])} systems of dysts and perturbations of their parameters",
            "validation": f"{len(summary['validation_systems'])} other systems, for the choice of the checkpoint",
            "fingerprint": f"`{summary['dataset_fingerprint']}`",
            "augmentations": f"rate {augmentations['rate']}" if augmentations else "none",
        },
        training={
            "steps": f"{summary['steps']:,} of {training['per_device_train_batch_size']} windows a device; "
            f"the checkpoint of step {summary['best_step']:,} was the best on the validation systems",
            "learning rate": f"{training['learning_rate']:g}, {training['lr_scheduler_type']}",
            "loss": f"{config.loss}, in units of each window's scale" if config.normalize_loss else config.loss,
            "device": summary["device"],
        },
        limits=(
            "It gives point forecasts; intervals are not available.",
            "Forecasts of chaotic series lose the truth after a few Lyapunov times at best; long rollouts of a model "
            "of this size are no picture of the attractor.",
            "It saw noiseless, evenly sampled series of about 100 points a period; other sampling and noise were not "
            "measured.",
        ),
        commands=(
            "python -m data_generation --config data_generation/configs/quickstart.yaml --output DATA",
            "python -m training.train --config training/configs/quickstart.yaml --data.path DATA "
            "--training.output_dir MODEL",
            "python -m training.evaluate_checkpoint MODEL",
        ),
        evaluation_dataset="hf_tsdyn quickstart",
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
    results = evaluate_checkpoint(request)
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
    print(f"card       {request.checkpoint / 'README.md'}")
    print(f"figures    {request.checkpoint / 'figures'}")


if __name__ == "__main__":
    main()
