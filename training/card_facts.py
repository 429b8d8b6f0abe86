"""What the card of a run says beyond its results, from the run's own records."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from hf_tsdyn.model_card import ModelCardFacts
from training.run_config import CONFIG_FILE, EvaluationConfig

Request = TypeVar("Request")


def loaded_from_its_folder(request: Request) -> Request:
    """Return a request to evaluate whose card loads the checkpoint from where it lies, unless its settings say else."""
    asked: Any = request
    model_id = asked.evaluation.model_id or str(asked.checkpoint)
    return dataclasses.replace(asked, evaluation=dataclasses.replace(asked.evaluation, model_id=model_id))


def card_facts(
    run: dict[str, Any],
    summary: dict[str, Any],
    *,
    config: Any,
    evaluation: EvaluationConfig,
    figures: tuple[tuple[str, str], ...],
    beside: Sequence[str] = (),
) -> ModelCardFacts:
    """Return the facts of a run.

    Args:
        run, summary: what its run_config.yaml and training_summary.json hold.
        config: the model's configuration.
        figures: (path beside the card, caption).
        beside: names of other checkpoints that were scored beside it.
    """
    others = json.dumps({name: f"MODEL {number}" for number, name in enumerate(beside, start=2)})
    return ModelCardFacts(
        model_id=evaluation.model_id or f"model_cards/{evaluation.name}",
        model=evaluation.name,
        model_type=config.model_type,
        summary=_summary(run, summary),
        num_parameters=summary["num_parameters"],
        context_length=config.context_length,
        prediction_length=config.prediction_length,
        channels=str(getattr(config, "num_channels", "any number")),
        training_data=_training_data(run["data"], summary),
        training=_training(run, summary, config),
        limits=tuple(_limits(summary, config)),
        commands=(
            "# DATA: the data of the fingerprint above",
            f"python -m training.train --config {CONFIG_FILE} --data.path DATA --training.output_dir MODEL",
            "python -m training.evaluate_checkpoint MODEL --data DATA" + (f" --beside '{others}'" if beside else ""),
        ),
        evaluation_dataset=evaluation.dataset_name,
        figures=figures,
        license=evaluation.license or None,
        **({"tags": ("time-series",)} if _is_series(summary) else {}),
    )


def _is_series(summary: dict[str, Any]) -> bool:
    """Whether the data were a user's own, of which no period is known; those generated all have one."""
    return summary["steps_per_period"] is None


def _summary(run: dict[str, Any], summary: dict[str, Any]) -> str:
    kind, start = summary["model_type"], run.get("checkpoint")
    origin = f"fine-tuned from `{start}`" if start else "trained"
    if _is_series(summary):
        return f"A {kind} {origin} on the past of {', '.join(summary['train_systems'])}, to forecast what comes next."
    return (
        f"A {kind}{f', {origin},' if start else ''} that forecasts trajectories of dynamical systems it was not "
        "trained on, from their context alone."
    )


def _training_data(data: dict[str, Any], summary: dict[str, Any]) -> dict[str, str]:
    facts = {
        "systems": f"{len(summary['train_systems'])}, with perturbed parameters and initial conditions",
        "validation": f"{len(summary['validation_systems'])} other systems",
        "sampling": f"{summary['steps_per_period'] or 0:g} steps a period (median), without noise",
    }
    if _is_series(summary):
        facts = {
            "series": ", ".join(summary["train_systems"]),
            "borders": series_borders(data["series"]),
            "channels": ", ".join(data["series"].get("columns") or ["all"]),
        }
    augmentations = data.get("augmentations")
    return facts | {
        "fingerprint": f"`{summary['dataset_fingerprint']}`",
        "augmentations": _augmentations(augmentations) if augmentations else "none",
    }


def series_borders(options: dict[str, Any]) -> str:
    """Say where the splits of a series lie, from its `SeriesOptions` as a record holds them."""
    if options.get("months"):
        train, validation, test = options["months"]
        return f"{train} months of training, {validation} of validation, {test} of test, of 30 days each"
    shares = {name: f"{options[f'{name}_share']:.0%}" for name in ("validation", "test")}
    return f"the last {shares['test']} are the test, the {shares['validation']} before them validation"


def _training(run: dict[str, Any], summary: dict[str, Any], config: Any) -> dict[str, str]:
    training, chosen = run["training"], summary["best_step"]
    batch = f"{training['per_device_train_batch_size']} windows a device"
    start = {"checkpoint": "all weights of", "encoder_checkpoint": "the encoder of"}
    starts = [f"{what} `{run[name]}`" for name, what in start.items() if run.get(name)]
    facts = {"start": starts[0] if starts else "new weights"}
    if getattr(config, "spread_factor", 1) != 1:
        facts["calibration"] = f"spread times {config.spread_factor:.3g}, from the validation data"
    if lora := run.get("lora"):
        trained = f"adapters of rank {lora['rank']}{' and the head' if lora['train_head'] else ''}"
        facts["trained"] = f"{trained}: {summary['num_trainable_parameters']:,} parameters, merged into the weights"
    return facts | {
        "steps": f"{summary['steps']:,} of {batch}",
        "checkpoint": "the last step" if chosen is None else f"step {chosen:,}, the best on the validation data",
        "learning rate": f"{training['learning_rate']:g}, {training['lr_scheduler_type']}",
        "loss": _loss(run, config),
        "hardware": summary["hardware"]["accelerator"] or summary["hardware"]["cpu"],
    }


def _augmentations(settings: dict[str, Any]) -> str:
    names = ", ".join(name for name, weight in settings["weights"].items() if weight > 0)
    return f"{settings['rate']:.0%} of the windows, by one of {names}"


def _loss(run: dict[str, Any], config: Any) -> str:
    if config.model_type == "alrnn":
        penalty = f", penalty {config.regularization_weight:g}" if config.regularization_weight else ""
        forced = f"forced every {config.forcing_interval} steps"
        return f"mean squared error one step ahead, {forced}, in the series' scale{penalty}"
    if config.model_type == "dynonet":
        unit = "in units of each window's scale" if config.normalize_loss else "in the series' scale"
        return f"mean squared error, {unit}"
    name = config.loss
    if run.get("task") != "masked_modeling":
        distribution = getattr(config, "distribution", "point")
        if distribution == "quantiles":
            name = f"pinball loss of {len(config.quantile_levels)} quantiles"
        elif distribution == "student_t":
            name = "negative log-likelihood of Student's t"
    return f"{name}, in units of each window's scale" if config.normalize_loss else name


def _limits(summary: dict[str, Any], config: Any) -> list[str]:
    limits = []
    if getattr(config, "distribution", "point") == "point":
        limits.append("It gives point forecasts; intervals are not available.")
    if _is_series(summary):
        limits.append(
            "It was scored on the last part of the series that it was trained on; other series were not measured."
        )
        if len(summary["train_systems"]) == 1:
            limits.append("With a single series tables have no intervals: those would count series, not windows.")
        return limits
    return [
        *limits,
        "Forecasts of chaotic series lose the truth after a few Lyapunov times at best; long rollouts of a model "
        "of this size are no picture of the attractor.",
        "Noise and other sampling rates than in training were not measured.",
    ]
