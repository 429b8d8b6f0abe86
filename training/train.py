"""Train any architecture of hf_tsdyn on a dataset of trajectories.

    accelerate launch -m training.train --config training/configs/quickstart.yaml
    python -m training.train --config training/configs/quickstart.yaml --training.learning_rate 1e-4

The run's folder (`training.output_dir`) ends up with the best checkpoint on validation systems (config.json,
model.safetensors), the settings (run_config.yaml), what came of it (training_summary.json) and a probe forecast
that `training.evaluate_checkpoint` must reproduce to the bit. The same command resumes a run that was stopped.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import AutoConfig, AutoModelForTimeSeriesPrediction, PreTrainedModel, Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.data.windows import ChannelBucketSampler, RandomWindows, SequentialWindows, WindowDataset, identity
from hf_tsdyn.provenance import hardware_class, package_versions
from hf_tsdyn.results import write_atomically
from training.run_config import (
    RunConfig,
    build_model_config,
    claim_output_dir,
    load_run_config,
)

SUMMARY_FILE = "training_summary.json"
PROBE_FILE = "probe.safetensors"


class WindowTrainer(Trainer):
    """Trainer for batches of one number of channels each, some of them short, which its own parts know nothing of."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ChannelBucketSampler(cast(RandomWindows, train_dataset or self.train_dataset), self._train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        return ChannelBucketSampler(cast(SequentialWindows, eval_dataset), self.args.eval_batch_size)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return the mean loss over windows; the Trainer's own would weigh short batches as full ones."""
        model = self.model.eval()  # pyright: ignore[reportOptionalMemberAccess]
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            loss = cast(torch.Tensor, self.prediction_step(model, inputs, prediction_loss_only=True)[0])
            size = len(inputs["past_values"])
            totals += torch.stack([loss.double() * size, torch.full_like(loss, size, dtype=torch.float64)])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        total, count = self.accelerator.reduce(totals).tolist()  # pyright: ignore[reportAttributeAccessIssue]
        metrics = {f"{metric_key_prefix}_loss": total / count}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(count))  # pyright: ignore[reportArgumentType]


def build_model(config: RunConfig) -> PreTrainedModel:
    """Return the model to train: new from `model`, or the checkpoint's with `model`'s fields changed.

    Raises: ValueError if the changed model has not exactly the checkpoint's weights.
    """
    if config.checkpoint is None:
        return AutoModelForTimeSeriesPrediction.from_config(build_model_config(config.model))
    found = AutoConfig.from_pretrained(config.checkpoint)
    given = {"model_type": found.model_type} | config.model
    if given["model_type"] != found.model_type:
        raise ValueError(
            f"model.model_type must be the checkpoint's, {found.model_type!r}, found {given['model_type']!r}; leave "
            "it out."
        )
    own = type(found).__annotations__
    changed = build_model_config({name: value for name, value in found.to_dict().items() if name in own} | given)
    model, report = AutoModelForTimeSeriesPrediction.from_pretrained(
        config.checkpoint, config=changed, output_loading_info=True, ignore_mismatched_sizes=True
    )
    differing = {kind: sorted(map(str, keys))[:3] for kind, keys in report.items() if keys}
    if differing:
        raise ValueError(
            f"model may change no weight of the checkpoint, found {differing} with {config.model}; keep the fields "
            "that decide shapes as they are, or train a new model."
        )
    return model


def build_windows(config: RunConfig, model: PreTrainedModel) -> tuple[RandomWindows, SequentialWindows]:
    """Return random training windows and fixed validation windows of the model's lengths.

    Raises: ValueError if the dataset is not the one that `data.fingerprint` names.
    """
    lengths = {
        "context_length": model.config.context_length,
        "prediction_length": model.config.prediction_length,
    }
    data, arguments = config.data, config.training
    samples = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trajectories = TrajectoryDataset(data.path, data.train_split)
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
        TrajectoryDataset(data.path, data.validation_split),
        stride=max(model.config.context_length // 2, 1),
        max_windows_per_trajectory=data.validation_windows_per_trajectory,
        **lengths,
    )
    return train, validation


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
    windows, validation = build_windows(config, model)
    resolved["data"]["fingerprint"] = windows.trajectories.fingerprint
    output = Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="the run's folder"):
        claim_output_dir(resolved, output)
    if (output / SUMMARY_FILE).exists():
        return None
    return WindowTrainer(
        model=model, args=arguments, train_dataset=windows, eval_dataset=validation, data_collator=identity
    )


def last_complete_checkpoint(output: Path) -> str | None:
    """Return the newest checkpoint that was written to its end; its state file is the last to be written."""
    complete = [folder for folder in output.glob("checkpoint-*") if (folder / TRAINER_STATE_NAME).is_file()]
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[1]))) if complete else None


def train(trainer: WindowTrainer) -> None:
    """Train from the beginning or where the run stopped, and save the best checkpoint on the validation systems."""
    output = Path(str(trainer.args.output_dir))
    checkpoint = last_complete_checkpoint(output)
    if checkpoint:
        print(f"resuming from {checkpoint}")
    seconds = time.process_time()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.process_time() - seconds
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        validation = cast(SequentialWindows, trainer.eval_dataset)
        save_probe(trainer.accelerator.unwrap_model(trainer.model), validation, output)
        write_summary(trainer, output, cpu_seconds=seconds)
    trainer.accelerator.wait_for_everyone()


def save_probe(model: Any, windows: WindowDataset, output: Path) -> None:
    """Save a forecast of the first validation window, two and a half blocks long, for other processes to repeat."""
    past_values = windows.__getitems__([0])["past_values"].contiguous()
    length = model.config.prediction_length * 5 // 2
    forecast = model.cpu().forecast(past_values, prediction_length=length)
    save_file({"past_values": past_values, "forecast": forecast.contiguous()}, output / PROBE_FILE)


def write_summary(trainer: WindowTrainer, output: Path, *, cpu_seconds: float) -> None:
    """Write what the run was and reached; written last, so that the file's presence means that it is complete."""
    arguments, state, model = trainer.args, trainer.state, trainer.accelerator.unwrap_model(trainer.model)
    batch = trainer._train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trajectories = cast(RandomWindows, trainer.train_dataset).trajectories
    validation = cast(SequentialWindows, trainer.eval_dataset).trajectories
    chosen = arguments.load_best_model_at_end
    steps_per_period = [trajectories[row].period / trajectories[row].dt for row in range(len(trajectories))]
    summary = {
        "model_type": model.config.model_type,
        "num_parameters": model.num_parameters(),
        "steps": state.global_step,
        "windows_seen": state.global_step * batch,
        "best_step": state.best_global_step if chosen else None,
        "best_validation_loss": state.best_metric if chosen else None,
        "cpu_seconds_of_last_launch": round(cpu_seconds, 1),
        "dataset_fingerprint": trajectories.fingerprint,
        "steps_per_period": round(statistics.median(steps_per_period), 1),
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
        train(trainer)
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
