"""Train any architecture of hf_tsdyn on a dataset of trajectories, or on a series of your own.

    accelerate launch -m training.train --config training/configs/quickstart.yaml
    python -m training.train --config training/configs/quickstart.yaml --training.learning_rate 1e-4

The run's folder (`training.output_dir`) ends up with the best checkpoint on validation data (config.json,
model.safetensors), the settings (run_config.yaml), what came of it (training_summary.json) and a probe that
`training.evaluate_checkpoint` must reproduce to the bit; with `lora` also with the adapter by itself (adapter/), the
checkpoint being the merged model; with `bilevel` also with the signals over training (signals.json). The same command
resumes a run that was stopped. With `training.max_steps` 0 a model with specialists is fitted in closed form and saved
as it is. With `--training.push_to_hub true --training.hub_model_id NAME` the finished run goes to the Hub in one
commit, without checkpoints and without a pickle; a run that is finished already is uploaded by the same command.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments, set_seed

from hf_tsdyn.data.series import TrajectorySource
from hf_tsdyn.data.time_features import check_time_features
from hf_tsdyn.data.windows import RandomWindows, SequentialWindows, identity
from hf_tsdyn.metrics.pointwise import context_std
from hf_tsdyn.results import write_atomically
from training.bilevel_options import BilevelOptions, carve_meta_split, check_bilevel, meta_draws
from training.bilevel_trainer import BilevelTrainer
from training.calibration import calibrate
from training.cpu_budget import CpuBudget
from training.lora import ADAPTER_FOLDER, add_adapter, merge_adapter
from training.model_config import Task
from training.probe import PROBE_FILE, save_probe
from training.run_config import DataConfig, RunConfig, claim_output_dir, load_run_config
from training.run_summary import SUMMARY_FILE, describe, summarise_run
from training.run_upload import push_run, take_push
from training.starting_model import build_model
from training.window_trainer import WindowTrainer, last_complete_checkpoint


class RunWindows(NamedTuple):
    """The windows of a run: random ones to train on, those of the controller, and fixed ones to validate on."""

    source: TrajectorySource
    """All of the training split."""
    train: RandomWindows
    meta: RandomWindows | None
    validation: SequentialWindows


def build_windows(
    data: DataConfig,
    arguments: TrainingArguments,
    model: PreTrainedConfig,
    *,
    task: Task = "forecast",
    bilevel: BilevelOptions | None = None,
) -> RunWindows:
    """Return windows of the model's lengths; without a future where the task is to complete masked windows.

    Raises: ValueError if the dataset is not the one that `data.fingerprint` names, too short for a window, or has other
        time features than the model takes.
    """
    prediction_length, look_back = model.prediction_length, model.context_length
    if task == "masked_modeling":
        prediction_length = look_back = 0
    lengths = {"context_length": model.context_length, "prediction_length": prediction_length}
    source = data.open(data.train_split, look_back)
    if data.fingerprint not in (None, source.fingerprint):
        raise ValueError(
            f"data.path must hold the dataset of fingerprint {data.fingerprint}, found {source.fingerprint} in "
            f"{data.path}; generate that dataset again, or drop data.fingerprint."
        )
    check_time_features(source.time_features(0), num_time_features=getattr(model, "num_time_features", 0))
    samples = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    drawn = {
        "num_windows": max(arguments.max_steps, 1) * samples,
        "seed": data.seed,
        "balance": data.balance,
        "augmentations": data.augmentations,
        **lengths,
    }
    front, meta = carve_meta_split(bilevel, source, context_length=look_back, seed=data.seed)
    validation = SequentialWindows(
        data.open(data.validation_split, look_back),
        stride=max(model.context_length // 2, 1) if data.validation_stride is None else data.validation_stride,
        max_windows_per_trajectory=data.validation_windows_per_trajectory,
        **lengths,
    )
    check_targets(validation, in_window_units=getattr(model, "normalize_loss", False))
    train_windows = RandomWindows(front, **drawn)
    meta_windows = None if meta is None else RandomWindows(meta, **meta_draws(drawn))
    return RunWindows(source, train_windows, meta_windows, validation)


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
    set_seed(arguments.seed)
    model = build_model(config)
    has_closed_form = bool(getattr(model.config, "specialists", None))
    least = 0 if has_closed_form else 1
    if arguments.max_steps < least:
        raise ValueError(
            f"training.max_steps must be at least {least}, found {arguments.max_steps}; windows are drawn without end, "
            "so that a run is measured in steps."
        )
    freeze(model, config.frozen)
    if config.bilevel is not None:
        check_bilevel(config.bilevel, model, arguments)
    if config.weight_averaging is not None:
        config.weight_averaging.check_begins(arguments.max_steps)
    windows = build_windows(config.data, arguments, model.config, task=config.task, bilevel=config.bilevel)
    if config.start is None and hasattr(model, "fit_scaler"):
        model.fit_scaler(series_of(windows.source))  # pyright: ignore[reportCallIssue]
    resolved["data"]["fingerprint"] = windows.source.fingerprint
    output = Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="the run's folder"):
        claim_output_dir(resolved, output)
    if (output / SUMMARY_FILE).exists():
        return None
    seconds = None
    if config.start is None and config.closed_form_start and has_closed_form:
        seconds = time.process_time()
        model.fit_specialists(series_of(windows.source))  # pyright: ignore[reportCallIssue]
        seconds = time.process_time() - seconds
    trainer = build_trainer(config, model, windows)
    trainer.closed_form_seconds = seconds
    return trainer


def freeze(model: PreTrainedModel, beginnings: Sequence[str]) -> None:
    """Keep the parameters whose names begin so as they are; ValueError on a beginning that none has, or if all do."""
    for beginning in beginnings:
        found = [each for name, each in model.named_parameters() if name.startswith(beginning)]
        if not found:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
            raise ValueError(
                f"frozen must hold beginnings of names of parameters, found {beginning!r}, which none has; the parts "
                f"of this model are {parts}."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"frozen must leave something to train, found {list(beginnings)}, with which all parameters begin; leave "
            "some of it out."
        )


def series_of(source: TrajectorySource) -> Iterator[np.ndarray]:
    """Yield the rows of the training split, (channels, time) each."""
    return (source.values(row) for row in range(len(source)))


def build_trainer(config: RunConfig, model: PreTrainedModel, windows: RunWindows) -> WindowTrainer:
    """Return the trainer of a model, with an adapter if the run trains one, by the scheme that the run names."""
    parts = {
        "model": model if config.lora is None else add_adapter(model, config.lora),
        "args": config.training,
        "train_dataset": windows.train,
        "eval_dataset": windows.validation,
        "data_collator": identity,
        "weight_averaging": config.weight_averaging,
        "budget": CpuBudget(config.max_cpu_seconds),
    }
    if config.bilevel is None:
        return WindowTrainer(**parts)
    return BilevelTrainer(options=config.bilevel, meta_windows=windows.meta, **parts)


def train(trainer: WindowTrainer) -> None:
    """Train from the beginning or where the run stopped, and save the best checkpoint on the validation data.

    Without a step to take, the model is validated and saved as it begins.
    """
    output = Path(str(trainer.args.output_dir))
    checkpoint = last_complete_checkpoint(output, trainer.args.world_size)
    if checkpoint:
        print(f"resuming from {checkpoint}")
    num_trainable = trainer.get_num_trainable_parameters()  # here: to reload an adapter freezes it
    seconds = time.process_time()
    if trainer.args.max_steps > 0:
        trainer.train(resume_from_checkpoint=checkpoint)
    else:
        trainer.state.best_metric, trainer.state.best_global_step = trainer.evaluate()["eval_loss"], 0
    seconds = time.process_time() - seconds
    model = save_result(trainer, output)
    if trainer.is_world_process_zero():
        save_probe(model, cast(SequentialWindows, trainer.eval_dataset), output / PROBE_FILE)
        summary = summarise_run(trainer, model, num_trainable_parameters=num_trainable, last_launch=seconds)
        write_atomically(output / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print where the result lies."""
    config, resolved = load_run_config(arguments)
    try:
        push = take_push(config.training, resolved["training"])
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
    if push is not None and config.training.process_index == 0:
        try:
            uploaded = push_run(output, push)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        print(f"pushed to {uploaded.address}, revision {uploaded.revision}")


if __name__ == "__main__":
    main()
