"""Train any architecture of hf_tsdyn on a dataset of trajectories, or on a series of your own.

    accelerate launch -m training.train --config training/configs/quickstart.yaml
    python -m training.train --config training/configs/quickstart.yaml --training.learning_rate 1e-4

The run's folder (`training.output_dir`) ends up with the best checkpoint on validation data (config.json,
model.safetensors), the settings (run_config.yaml), what came of it (training_summary.json) and a probe that
`training.evaluate_checkpoint` must reproduce to the bit; with `lora` also with the adapter by itself (adapter/), the
checkpoint being the merged model. The same command resumes a run that was stopped.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from hf_tsdyn.data.windows import RandomWindows, SequentialWindows, identity
from hf_tsdyn.metrics.pointwise import context_std
from hf_tsdyn.provenance import hardware_class, package_versions
from hf_tsdyn.results import write_atomically
from training.calibration import calibrate
from training.lora import ADAPTER_FOLDER, add_adapter, merge_adapter
from training.probe import PROBE_FILE, save_probe
from training.run_config import RunConfig, claim_output_dir, load_run_config
from training.starting_model import build_model
from training.window_trainer import WindowTrainer

SUMMARY_FILE = "training_summary.json"


def build_windows(config: RunConfig, model: PreTrainedConfig) -> tuple[RandomWindows, SequentialWindows]:
    """Return random training windows and fixed validation windows of the model's lengths, without a future to mask.

    Raises: ValueError if the dataset is not the one that `data.fingerprint` names, or too short for a window.
    """
    data, arguments = config.data, config.training
    prediction_length, look_back = model.prediction_length, model.context_length
    if config.task == "masked_modeling":
        prediction_length = look_back = 0
    lengths = {"context_length": model.context_length, "prediction_length": prediction_length}
    samples = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trajectories = data.open(data.train_split, look_back)
    if data.fingerprint not in (None, trajectories.fingerprint):
        raise ValueError(
            f"data.path must hold the dataset of fingerprint {data.fingerprint}, found {trajectories.fingerprint} in "
            f"{data.path}; generate that dataset again, or drop data.fingerprint."
        )
    train = RandomWindows(
        trajectories,
        num_windows=arguments.max_steps * samples,
        seed=data.seed,
        balance=data.balance,
        augmentations=data.augmentations,
        **lengths,
    )
    validation = SequentialWindows(
        data.open(data.validation_split, look_back),
        stride=max(model.context_length // 2, 1),
        max_windows_per_trajectory=data.validation_windows_per_trajectory,
        **lengths,
    )
    check_targets(validation, in_window_units=getattr(model, "normalize_loss", False))
    return train, validation


def check_targets(validation: SequentialWindows, *, in_window_units: bool) -> None:
    """Raise ValueError unless some window has a target that can count: one that is seen.

    in_window_units: whether errors are measured in the window's own scale, so that its channel must vary before it.
    """
    for index in range(len(validation)):
        window = {name: values.numpy() for name, values in validation.__getitems__([index]).items()}
        varies = ~np.isnan(context_std(window["past_values"], window.get("past_observed_mask")))
        varies = varies if in_window_units else np.ones_like(varies)
        asked = "future" if "future_values" in window else "past"
        if (varies & window.get(f"{asked}_observed_mask", np.True_)).any():
            return
    raise ValueError(
        "the validation data must have targets that count, found none in "
        f"{len(validation)} windows: nothing is seen, or nothing varies by more than a millionth of its level; choose "
        "a longer validation part (data.series.validation_share), or subtract a constant from the series."
    )


def prepare(config: RunConfig, resolved: dict[str, Any]) -> WindowTrainer | None:
    """Return the trainer of a run whose folder is claimed; None if the run is finished already.

    Raises: ValueError or OSError on settings, data or a folder that do not fit.
    """
    arguments = config.training
    if arguments.max_steps < 1:
        raise ValueError(
            f"training.max_steps must be at least 1, found {arguments.max_steps}; windows are drawn without end, "
            "so that a run is measured in steps."
        )
    set_seed(arguments.seed)
    model = build_model(config)
    windows, validation = build_windows(config, model.config)
    if config.start is None and hasattr(model, "fit_scaler"):
        rows = range(len(windows.trajectories))
        model.fit_scaler(windows.trajectories.values(row) for row in rows)  # pyright: ignore[reportCallIssue]
    trained = model if config.lora is None else add_adapter(model, config.lora)
    resolved["data"]["fingerprint"] = windows.trajectories.fingerprint
    output = Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="the run's folder"):
        claim_output_dir(resolved, output)
    if (output / SUMMARY_FILE).exists():
        return None
    return WindowTrainer(
        model=trained, args=arguments, train_dataset=windows, eval_dataset=validation, data_collator=identity
    )


def last_complete_checkpoint(output: Path, world_size: int) -> str | None:
    """Return the newest checkpoint that was written to its end; its state file is the last to be written.

    Raises: ValueError if as many processes wrote it as are not at work now: another number draws other batches.
    """
    complete = [folder for folder in output.glob("checkpoint-*") if (folder / TRAINER_STATE_NAME).is_file()]
    if not complete:
        return None
    newest = max(complete, key=lambda folder: int(folder.name.split("-")[1]))
    found = len(list(newest.glob("rng_state*.pth")))
    if found != world_size:
        raise ValueError(
            f"a run must be resumed by as many processes as began it, found {world_size} now and {found} in {newest}; "
            "launch so many, or delete the run's folder."
        )
    return str(newest)


def train(trainer: WindowTrainer) -> None:
    """Train from the beginning or where the run stopped, and save the best checkpoint on the validation data."""
    output = Path(str(trainer.args.output_dir))
    checkpoint = last_complete_checkpoint(output, trainer.args.world_size)
    if checkpoint:
        print(f"resuming from {checkpoint}")
    num_trainable = trainer.get_num_trainable_parameters()  # here: to reload an adapter freezes it
    seconds = time.process_time()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.process_time() - seconds
    model = save_result(trainer, output)
    if trainer.is_world_process_zero():
        save_probe(model, cast(SequentialWindows, trainer.eval_dataset), output / PROBE_FILE)
        write_summary(trainer, model, output, num_trainable_parameters=num_trainable, cpu_seconds=seconds)
    trainer.accelerator.wait_for_everyone()


def save_result(trainer: WindowTrainer, output: Path) -> PreTrainedModel:
    """Save the trained model, calibrated, and an adapter by itself before it is merged into it; return the model."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapted = not isinstance(model, PreTrainedModel)
    if adapted:
        trainer.save_model(str(output / ADAPTER_FOLDER))
        model = merge_adapter(model)
    if getattr(model, "distribution", None) is not None:
        calibrate(model, cast(SequentialWindows, trainer.eval_dataset))
    if not adapted:
        trainer.save_model(str(output))
    elif trainer.is_world_process_zero():
        (output / ADAPTER_FOLDER / "README.md").unlink()  # peft's card, with nothing filled in
        model.save_pretrained(output)
    return model


def write_summary(
    trainer: WindowTrainer, model: Any, output: Path, *, num_trainable_parameters: int, cpu_seconds: float
) -> None:
    """Write what the run was and reached; written last, so that the file's presence means that it is complete."""
    arguments, state = trainer.args, trainer.state
    batch = trainer._train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trajectories = cast(RandomWindows, trainer.train_dataset).trajectories
    validation = cast(SequentialWindows, trainer.eval_dataset).trajectories
    chosen = arguments.load_best_model_at_end
    steps_per_period = [trajectories[row].period / trajectories[row].dt for row in range(len(trajectories))]
    known = [steps for steps in steps_per_period if not math.isnan(steps)]
    summary = {
        "model_type": model.config.model_type,
        "num_parameters": model.num_parameters(),
        "num_trainable_parameters": num_trainable_parameters,
        "steps": state.global_step,
        "windows_seen": state.global_step * batch,
        "best_step": state.best_global_step if chosen else None,
        "best_validation_loss": state.best_metric if chosen else None,
        "cpu_seconds_of_last_launch": round(cpu_seconds, 1),
        "dataset_fingerprint": trajectories.fingerprint,
        "steps_per_period": round(statistics.median(known), 1) if known else None,
        "train_systems": sorted(set(trajectories.systems)),
        "validation_systems": sorted(set(validation.systems)),
        "hardware": hardware_class(arguments.device),
        "versions": package_versions(),
    }
    write_atomically(output / SUMMARY_FILE, json.dumps(summary, indent=1).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print where the result lies."""
    config, resolved = load_run_config(arguments)
    try:
        trainer = prepare(config, resolved)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    output = Path(str(config.training.output_dir))
    if trainer is None:
        print(f"{output} already holds this run, finished; delete it to train again.")
    else:
        try:
            train(trainer)
        except ValueError as error:
            sys.exit(f"error: {error}")
    if trainer is None or trainer.is_world_process_zero():
        print(describe(output))


def describe(output: Path) -> str:
    """Return one line on a finished run."""
    summary = json.loads((output / SUMMARY_FILE).read_text())
    step, loss = summary["best_step"], summary["best_validation_loss"]
    chosen = "the last one" if step is None else f"number {step}, validation loss {loss:.4f}"
    return f"checkpoint: {output} (of {summary['steps']} steps {chosen}; {summary['num_parameters']:,} parameters)"


if __name__ == "__main__":
    main()
