"""Score how a masked-modelling checkpoint fills gaps of held-out data and write its results, figures and card.

    python -m training.evaluate_completion runs/quickstart/completion
    python -m training.evaluate_completion runs/quickstart/completion --data DIR --evaluation.protocol.mask_share 0.3

Windows and patches are as long as the model's own; name, split, seed and counts are the run's (`evaluation` in
run_config.yaml); options override them. First the checkpoint is loaded and must repeat the completion that
`training.train` left beside it, to the bit. Any other checkpoint folder can be scored too, with `--data`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser

from hf_tsdyn.baselines import COMPLETION_BASELINES
from hf_tsdyn.completion import Completer, CompletionProtocol, draw_mask, evaluate_completion, shows_every_channel
from hf_tsdyn.completion_card import CompletionCardFacts, error_table, render_completion_card
from hf_tsdyn.completion_figures import CompletionPanel, completion_error_figure, completion_figure
from hf_tsdyn.data.held_out_windows import HeldOutWindow, draw_held_out_windows
from hf_tsdyn.data.series import SeriesOptions, TrajectorySource
from hf_tsdyn.model_card import counted
from hf_tsdyn.models import ARCHITECTURES, MASKED_MODELING
from hf_tsdyn.results import EvaluationResults, verdict, write_atomically
from training.card_facts import card_facts, loaded_from_its_folder
from training.checkpoint_figures import SHOWN_SYSTEMS, figures_place, present_figures, replace_figures
from training.evaluate_checkpoint import RESULTS_FILE
from training.probe import verify_reload
from training.run_config import CONFIG_FILE, DataConfig, EvaluationConfig
from training.run_summary import SUMMARY_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_BASELINES = ("spline", "gaussian_process")
"""Drawn beside the model, whatever baselines are scored."""
CAPTIONS = {
    "completion": "Held-out systems: truth, what was hidden of it, and fillings of one channel",
    "completion_errors": "Error on every held-out system, by kind of mask",
}


@dataclass(frozen=True)
class CompletionConfig:
    """How a masked-modelling checkpoint is scored.

    Args:
        name: of the model in tables, cards and results files.
        model_id: folder or Hub name for `from_pretrained` in the card's example; by default where the checkpoint lies.
        dataset_name: of the evaluation data, on the card.
        license: of the weights and the card; "" where none was chosen.
        split: split of held-out systems.
        protocol: windows, masks, bootstrap.
        baselines: names out of `hf_tsdyn.baselines.COMPLETION_BASELINES`, scored beside the model."""

    name: str
    model_id: str | None = None
    dataset_name: str = "generated trajectories"
    license: str = "apache-2.0"
    split: str = "test"
    protocol: CompletionProtocol = field(default_factory=CompletionProtocol)
    baselines: tuple[str, ...] = tuple(COMPLETION_BASELINES)


@dataclass(frozen=True)
class Request:
    """What to evaluate and on what; `run_config` and `summary` are empty for a checkpoint of another origin."""

    checkpoint: Path
    data: DataConfig
    evaluation: CompletionConfig
    run_config: dict[str, Any]
    summary: dict[str, Any]


def load_request(arguments: Sequence[str] | None = None) -> Request:
    """Return the request of a command line, its defaults taken from the model and the run that made it.

    Raises: SystemExit with a message on unknown or impossible options, or a folder without a masked-modelling model.
    """
    prog, description = "python -m training.evaluate_completion", "Score how a checkpoint fills gaps of held-out data."
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="folder of a masked-modelling model")
    parser.add_argument("--data", type=str, help="dataset folder, or series; the run's own by default")
    parser.add_class_arguments(SeriesOptions, "series")
    parser.add_class_arguments(CompletionConfig, "evaluation")
    parser.set_defaults({"evaluation.name": "checkpoint"})
    checkpoint = Path(parser.parse_args(arguments)["checkpoint"])
    parser.set_defaults(_model_defaults(parser, checkpoint))
    run_config, summary = {}, {}
    if (checkpoint / CONFIG_FILE).is_file() and (checkpoint / SUMMARY_FILE).is_file():
        run_config = yaml.safe_load((checkpoint / CONFIG_FILE).read_text())
        summary = json.loads((checkpoint / SUMMARY_FILE).read_text())
        parser.set_defaults(_run_defaults(run_config))
    namespace = parser.parse_args(arguments)
    if namespace["data"] is None:
        parser.error("--data must name the dataset of a checkpoint that is no run of training.train.")
    try:
        settings = parser.instantiate(namespace)
    except ValueError as error:
        parser.error(str(error))
    evaluation = settings["evaluation"]
    unknown = sorted(set(evaluation.baselines) - set(COMPLETION_BASELINES))
    if unknown:
        parser.error(f"baselines must be some of {sorted(COMPLETION_BASELINES)}, found {unknown}; correct the names.")
    data = DataConfig(path=namespace["data"], series=settings["series"])
    return Request(checkpoint, data, evaluation, run_config, summary)


def _model_defaults(parser: ArgumentParser, checkpoint: Path) -> dict[str, Any]:
    """The name, and lengths that the model was made for; ends the program if the model does not complete."""
    if not (checkpoint / "config.json").is_file():
        parser.error(f"checkpoint must be a folder with config.json, found none in {str(checkpoint)!r}; train first.")
    config = json.loads((checkpoint / "config.json").read_text())
    wanted = MASKED_MODELING.get(config.get("model_type"))
    found = config.get("architectures") or []
    if wanted is None or wanted.__name__ not in found:
        parser.error(
            f"checkpoint must be a masked-modelling model, one of {[m.__name__ for m in MASKED_MODELING.values()]}, "
            f"found {found} in {str(checkpoint)!r}; score forecasts with training.evaluate_checkpoint."
        )
    whole_patches = config["context_length"] // config["patch_length"] * config["patch_length"]
    return {
        "evaluation.name": checkpoint.resolve().name,
        "evaluation.protocol.context_length": whole_patches,
        "evaluation.protocol.patch_length": config["patch_length"],
    }


def _run_defaults(run: dict[str, Any]) -> dict[str, Any]:
    """What the run's record says of data, names and counts, as far as completion has the same."""
    evaluation, protocol = run["evaluation"], run["evaluation"]["protocol"]
    names = ("name", "model_id", "dataset_name", "license", "split")
    counts = ("num_windows", "seed", "num_resamples", "confidence", "batch_size")
    return (
        {"data": run["data"]["path"]}
        | {f"series.{name}": value for name, value in run["data"].get("series", {}).items()}
        | {f"evaluation.{name}": evaluation[name] for name in names if name in evaluation}
        | {f"evaluation.protocol.{name}": protocol[name] for name in counts if name in protocol}
    )


def evaluate_checkpoint(request: Request) -> EvaluationResults:
    """Score the checkpoint, write results.json, figures and README.md beside it, and return the results.

    The card needs the records of a run: a checkpoint of another origin gets results and figures alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = request.evaluation
    dataset = request.data.open(evaluation.split, 0)
    model_type = json.loads((request.checkpoint / "config.json").read_text())["model_type"]
    model: Any = MASKED_MODELING[model_type].from_pretrained(request.checkpoint)
    print(verify_reload(model, request.checkpoint, request.summary))
    completers: dict[str, Completer] = {evaluation.name: model.to(device)}
    completers |= {name: COMPLETION_BASELINES[name]() for name in evaluation.baselines}
    results = evaluate_completion(
        completers, dataset, evaluation.protocol, baselines=evaluation.baselines, device=device
    )
    results.write(request.checkpoint / RESULTS_FILE)
    replace_figures(request.checkpoint, CAPTIONS, lambda: draw_figures(request, results, dataset, model))
    if request.summary:
        request = loaded_from_its_folder(request)
        write_atomically(request.checkpoint / "README.md", render_card(request, results, model.config).encode())
    return results


def render_card(request: Request, results: EvaluationResults, config: Any) -> str:
    """Return the card of a run; `config` is the model's."""
    return render_completion_card(results, completion_card_facts(request, config))


def draw_figures(
    request: Request, results: EvaluationResults, dataset: TrajectorySource, model: Any
) -> dict[str, Figure]:
    """Return the figures of the card, by name."""
    panels = [_panel(window, request.evaluation, model) for window in _shown_windows(dataset, request.evaluation)]
    errors = completion_error_figure(results, model=request.evaluation.name)
    return {"completion": completion_figure(panels), "completion_errors": errors}


def _shown_windows(dataset: TrajectorySource, evaluation: CompletionConfig) -> list[HeldOutWindow]:
    """The first window of up to six systems that a completer can fill, the systems to show first."""
    protocol = evaluation.protocol
    windows: dict[str, HeldOutWindow] = {}
    for window in draw_held_out_windows(dataset, length=protocol.context_length, num_windows=1, seed=protocol.seed):
        if shows_every_channel(window.values, draw_mask(window, protocol.mask_kinds[0], protocol)):
            windows.setdefault(window.trajectory.system, window)
    names = [name for name in SHOWN_SYSTEMS if name in windows]
    names += [name for name in windows if name not in names]
    return [windows[name] for name in names[: len(SHOWN_SYSTEMS)]]


def _panel(window: HeldOutWindow, evaluation: CompletionConfig, model: Any) -> CompletionPanel:
    """The window's first channel under the first kind of mask."""
    hidden = draw_mask(window, evaluation.protocol.mask_kinds[0], evaluation.protocol)
    values = torch.from_numpy(np.where(hidden, np.float32(np.nan), window.values))[None].to(model.device)
    completers: dict[str, Completer] = {evaluation.name: model}
    completers |= {name: COMPLETION_BASELINES[name]() for name in SHOWN_BASELINES}
    fillings = {name: completer.complete(values)[0, :, 0].cpu().numpy() for name, completer in completers.items()}
    return CompletionPanel(window.trajectory.system, np.array(window.values[:, 0]), hidden[:, 0], fillings)


def completion_card_facts(request: Request, config: Any) -> CompletionCardFacts:
    """Return what the card says beyond the results, from the run's own records."""
    evaluation = request.evaluation
    shared = ("name", "model_id", "dataset_name", "license")
    named = EvaluationConfig(**{name: getattr(evaluation, name) for name in shared})
    figures = present_figures(request.checkpoint, CAPTIONS)
    common = card_facts(request.run_config, request.summary, config=config, evaluation=named, figures=figures)
    card = dataclasses.replace(
        common,
        summary=(
            f"A {config.model_type} pre-trained to reconstruct hidden patches of trajectories of dynamical systems: it "
            "fills gaps, and its encoder is a start for forecasters."
        ),
        training={
            **common.training,
            "hidden": f"{config.mask_ratio:.0%} of the patches of {config.patch_length} steps, "
            + ("the same in all channels" if config.channel_consistent_masking else "drawn for every channel"),
        },
        limits=(
            "It gives one filling, not a distribution: inside a long gap of a chaotic series that is an average of "
            "what may have been.",
            "Every channel must be seen somewhere in a window.",
            "Noise and other sampling rates than in training were not measured.",
        ),
        commands=(*common.commands[:-1], "python -m training.evaluate_completion MODEL --data DATA"),
        tags=("time-series", "dynamical-systems", "chaos", "imputation", "masked-modeling"),
    )
    classes = {"model_class": MASKED_MODELING, "forecasting_class": ARCHITECTURES}
    return CompletionCardFacts(card, **{name: known[config.model_type].__name__ for name, known in classes.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says, print the table and where everything lies."""
    request = load_request(arguments)
    try:
        results = evaluate_checkpoint(request)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(error_table(results))
    for row in results.differences:
        if row.model == request.evaluation.name:
            print(
                f"{row.metric} less {row.baseline}'s, median over {counted(row.num_systems, 'system')}: "
                f"{row.median:+.3f} [{row.low:+.3f}, {row.high:+.3f}] ({verdict(row)})"
            )
    print(f"checkpoint {request.checkpoint}")
    print(f"results    {request.checkpoint / RESULTS_FILE}")
    print(f"figures    {figures_place(request.checkpoint)}")
    print(f"card       {request.checkpoint / 'README.md' if request.summary else 'none: no record of its training'}")


if __name__ == "__main__":
    main()
