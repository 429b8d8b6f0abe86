"""What a training run was and reached, as its folder keeps it."""

import json
import math
import statistics
from pathlib import Path
from typing import Any, cast

from hf_tsdyn.data.windows import RandomWindows, SequentialWindows
from hf_tsdyn.provenance import hardware_class, package_versions
from training.window_trainer import WindowTrainer

SUMMARY_FILE = "training_summary.json"
"""Written last, so that its presence means that a run is complete."""


def summarise_run(
    trainer: WindowTrainer,
    model: Any,
    *,
    num_trainable_parameters: int,
    last_launch: float,
    model_type: str | None = None,
) -> dict[str, Any]:
    """Return the record of a run that has ended.

    last_launch: processor seconds since the run was last taken up. model_type: the configuration's by default.
    """
    arguments, state = trainer.args, trainer.state
    batch = trainer._train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    train, validation = cast(RandomWindows, trainer.train_dataset), cast(SequentialWindows, trainer.eval_dataset)
    chosen = arguments.load_best_model_at_end or arguments.max_steps == 0
    trajectories = train.trajectories
    steps_per_period = [trajectories[row].period / trajectories[row].dt for row in range(len(trajectories))]
    known = [steps for steps in steps_per_period if not math.isnan(steps)]
    summary = {
        "model_type": model.config.model_type if model_type is None else model_type,
        "num_parameters": model.num_parameters(),
        "num_trainable_parameters": num_trainable_parameters,
        "context_length": train.context_length,
        "prediction_length": train.prediction_length,
        "steps": state.global_step,
        "windows_seen": state.global_step * batch,
        "best_step": state.best_global_step if chosen else None,
        "best_validation_loss": state.best_metric if chosen else None,
        "cpu_seconds": round(trainer.budget.used_seconds, 1),
        "cpu_seconds_of_last_launch": round(last_launch, 1),
        "max_cpu_seconds": trainer.budget.max_seconds,
        "dataset_fingerprint": trajectories.fingerprint,
        "steps_per_period": round(statistics.median(known), 1) if known else None,
        "train_systems": sorted(set(trajectories.systems)),
        "validation_systems": sorted(set(validation.trajectories.systems)),
        "hardware": hardware_class(arguments.device),
        "versions": package_versions(),
    }
    if trainer.closed_form_seconds is not None:
        summary["closed_form_cpu_seconds"] = round(trainer.closed_form_seconds, 1)
    return summary


def describe(output: Path) -> str:
    """Return one line on a finished run."""
    summary = json.loads((output / SUMMARY_FILE).read_text())
    step, loss = summary["best_step"], summary["best_validation_loss"]
    chosen = "the last one" if step is None else f"number {step}, validation loss {loss:.4f}"
    return f"checkpoint: {output} (of {summary['steps']} steps {chosen}; {summary['num_parameters']:,} parameters)"
