"""What the card of a reconstruction says beyond its results, from the run's own records."""

import json
import shlex
from dataclasses import asdict
from typing import Any

from hf_tsdyn.model_card import ModelCardFacts
from hf_tsdyn.models.alrnn import ALRNNConfig
from hf_tsdyn.reconstruction_card import ReconstructionCardFacts
from training.reconstruction_config import ReconstructionConfig

SCORED_PATHS = {"data": "OTHER_TEST_DATA", "second_data": "SECOND_DATA"}
"""What cards call the series that options of the evaluation name."""


def reconstruction_card_facts(
    run: dict[str, Any],
    summary: dict[str, Any],
    *,
    config: ALRNNConfig,
    evaluation: ReconstructionConfig,
    scored: dict[str, str],
    figures: tuple[tuple[str, str], ...],
) -> ReconstructionCardFacts:
    """Return the facts of a run.

    Args:
        run, summary: what its run_config.yaml and training_summary.json hold.
        scored: fingerprints of the series that were named to score on, by option, in place of or beside the run's.
        figures: (path beside the card, caption).
    """
    name = str(evaluation.name)
    card = ModelCardFacts(
        model_id=evaluation.model_id or f"model_cards/{name}",
        model=name,
        model_type=config.model_type,
        summary=(
            f"A piecewise linear recurrent network (AL-RNN), trained on a series of {evaluation.system} so that its "
            "free run has the attractor of the system, and read by its linear regions."
        ),
        num_parameters=summary["num_parameters"],
        context_length=config.warmup_length,
        prediction_length=config.prediction_length,
        channels=str(config.num_channels),
        training_data=_training_data(run["data"], run["dataset"], scored),
        training=_training(run["fit"], summary, config),
        limits=(
            "It knows one system, under the parameters and the sampling of its series.",
            "Single forecasts of a chaotic system lose the truth after a few Lyapunov times; it is meant to reproduce "
            "the long-term behaviour, and the table says how well.",
            "Regions, symbols and fixed points are this model's own; another seed may cut the state space otherwise.",
        ),
        commands=_commands(run, summary, evaluation, scored),
        evaluation_dataset=evaluation.system,
        figures=figures,
        license=evaluation.license or None,
        tags=("time-series", "dynamical-systems", "chaos", "dynamical-systems-reconstruction", "symbolic-dynamics"),
    )
    return ReconstructionCardFacts(card, config, evaluation.system, ships_weights=evaluation.ship_weights)


def _training_data(data: dict[str, Any], dataset: dict[str, Any], scored: dict[str, str]) -> dict[str, str]:
    validation, test = data["validation_share"], data["test_share"]
    parts = ("train", "validation")
    smoothed = {part: f", smoothed over {std:g} steps" if (std := data[f"{part}_smoothing"]) else "" for part in parts}
    other = dataset["test_fingerprint"]
    facts = {
        "series": f"the first {1 - validation - test:.0%} of it in time{smoothed['train']}",
        "validation": f"the {validation:.0%} after that{smoothed['validation']}: chooses epoch and seed",
        "fingerprint": f"`{dataset['fingerprint']}`",
        "test": f"another series, fingerprint `{other}`" if other else f"the last {test:.0%}" if test else "none",
        "channels": ", ".join(data.get("columns") or ["all"]),
    }
    if data.get("item") is not None:
        facts["item"] = f"series {data['item']} of its file" if isinstance(data["item"], int) else f"`{data['item']}`"
    if "data" in scored:
        facts["test"] = f"a series named for the evaluation, fingerprint `{scored['data']}`"
    return facts


def _training(fit: dict[str, Any], summary: dict[str, Any], config: ALRNNConfig) -> dict[str, str]:
    forced = "replaced by" if config.forcing_strength == 1 else f"pulled by {config.forcing_strength:g} to"
    facts = {
        "method": f"teacher forcing: observed units {forced} the data every {config.forcing_interval} steps",
        "windows": f"{config.prediction_length} steps, noise of {config.noise_std:g} standard deviations",
        "steps": f"{fit['num_epochs']:,} epochs of {fit['batches_per_epoch']} batches of {fit['batch_size']} windows",
        "optimiser": f"RAdam, learning rate {fit['learning_rate']:g} to {fit['final_learning_rate']:g}",
        "checkpoint": f"epoch {summary['best_epoch']:,} of seed {summary['seed']}, of {len(summary['seeds'])} seeds; "
        f"chosen by the free run's divergence on the validation series, {summary['best_validation_divergence']:.3g}",
        "cost": f"{summary['cpu_seconds']:,.0f} CPU seconds, {summary['cpu_seconds_of_all_seeds']:,.0f} for all seeds",
        "hardware": summary["hardware"]["accelerator"] or summary["hardware"]["cpu"],
    }
    if config.regularization_weight:
        weight, threshold = config.regularization_weight, config.regularization_threshold
        facts["penalty"] = f"{weight:g} times the norm of what each unit's own factor exceeds {threshold:g} by"
    return facts


def _commands(
    run: dict[str, Any], summary: dict[str, Any], evaluation: ReconstructionConfig, scored: dict[str, str]
) -> tuple[str, ...]:
    """A sweep of this one cell, with all its settings, and the evaluation of its best."""
    paths = {"path": "DATA"} | ({"test_path": "TEST_DATA"} if run["data"].get("test_path") else {})
    given = {name: value for name, value in asdict(evaluation).items() if name not in ("name", "model_id", "license")}
    if evaluation.license != ReconstructionConfig.license:
        given["license"] = evaluation.license
    sections = {"data": run["data"] | paths, "model": run["model"], "fit": run["fit"], "evaluation": given}
    options = {"name": str(evaluation.name), "seeds": str(summary["seeds"]), "output_dir": "RUNS"}
    options |= {name: json.dumps(_set(values)) for name, values in sections.items()}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    named = [word for option in scored for word in (f"--{option}", SCORED_PATHS[option])]
    second = [f"# SECOND_DATA: that of fingerprint {scored['second_data']}"] if "second_data" in scored else []
    return (
        f"# {', '.join([*paths.values(), *(['OTHER_TEST_DATA'] if 'data' in scored else [])])}: the series of the "
        "fingerprints above",
        *second,
        shlex.join(["python", "-m", "training.sweep", *words]),
        shlex.join(["python", "-m", "training.evaluate_reconstruction", "RUNS/only/best", *named]),
    )


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
