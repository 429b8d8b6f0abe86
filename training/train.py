"""Train any architecture of hf_tsdyn on a dataset of trajectories.

    accelerate launch -m training.train --config training/configs/quickstart.yaml
    python -m training.train --config training/configs/quickstart.yaml --training.learning_rate 1e-4

The run's folder (`training.output_dir`) ends up with the best checkpoint on validation systems (config.json,
model.safetensors), the settings (run_config.yaml), what came of it (training_summary.json) and a probe forecast
that `training.evaluate_checkpoint` must reproduce to the bit. The same command resumes a run that was stopped.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors.torch import save_file
from torch.utils.data import Dataset, Sampler
from transformers import AutoModelForTimeSeriesPrediction, PreTrainedModel, Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.data.windows import ChannelBucketSampler, RandomWindows, SequentialWindows, WindowDataset, identity
from training.run_config import (
    RunConfig,
    build_model_config,
    check_model_fields,
    claim_output_dir,
    load_run_config,
)

SUMMARY_FILE = "training_summary.json"
PROBE_FILE = "probe.safetensors"


class WindowTrainer(Trainer):
    """Trainer whose samplers keep each batch to one number of channels; the Trainer's own know nothing of it."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ChannelBucketSampler(cast(RandomWindows, train_dataset or self.train_dataset), self._train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        return ChannelBucketSampler(cast(SequentialWindows, eval_dataset), self.args.eval_batch_size)


def build_model(config: RunConfig) -> PreTrainedModel:
    """Return the model to train: new from `model`, or the checkpoint's with `model`'s fields changed."""
    if config.checkpoint is None:
        return AutoModelForTimeSeriesPrediction.from_config(build_model_config(config.model))
    changes = {name: value for name, value in config.model.items() if name != "model_type"}
    model_config = transformers.AutoConfig.from_pretrained(config.checkpoint)
    check_model_fields(type(model_config), changes)
    return AutoModelForTimeSeriesPrediction.from_pretrained(config.checkpoint, **changes)


def build_windows(config: RunConfig, model: PreTrainedModel) -> tuple[RandomWindows, SequentialWindows]:
    """Return random training windows and fixed validation windows of the model's lengths."""
    lengths = {
        "context_length": model.config.context_length,
        "prediction_length": model.config.prediction_length,
    }
    data, arguments = config.data, config.training
    samples = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    train = RandomWindows(
        TrajectoryDataset(data.path, data.train_split),
        num_windows=max(arguments.max_steps, 1) * samples,
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


def train(config: RunConfig, resolved: dict[str, Any]) -> Path:
    """Train, select the best checkpoint on the validation systems, save it; return the run's folder."""
    arguments = config.training
    output = Path(str(arguments.output_dir))
    if arguments.max_steps < 1:
        raise ValueError(
            f"training.max_steps must be at least 1, found {arguments.max_steps}; windows are drawn without end, "
            "so that a run is measured in steps."
        )
    set_seed(arguments.seed)
    model = build_model(config)
    windows, validation = build_windows(config, model)
    claim_output_dir(resolved, output)
    if (output / SUMMARY_FILE).exists():
        print(f"{output} already holds this run, finished; delete it to train again.")
        return output
    trainer = WindowTrainer(
        model=model,
        args=arguments,
        train_dataset=windows,
        eval_dataset=validation,
        data_collator=identity,
    )
    seconds = time.process_time()
    checkpoint = get_last_checkpoint(str(output))
    if checkpoint:
        print(f"resuming from {checkpoint}")
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.process_time() - seconds
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        save_probe(trainer.accelerator.unwrap_model(trainer.model), validation, output)
        write_summary(trainer, windows, validation, output, cpu_seconds=seconds)
    return output


def save_probe(model: Any, windows: WindowDataset, output: Path) -> None:
    """Save a forecast of the first validation window, two and a half blocks long, for other processes to repeat."""
    past_values = windows.__getitems__([0])["past_values"].contiguous()
    length = model.config.prediction_length * 5 // 2
    forecast = model.cpu().forecast(past_values, prediction_length=length)
    save_file({"past_values": past_values, "forecast": forecast.contiguous()}, output / PROBE_FILE)


def write_summary(
    trainer: Trainer, windows: WindowDataset, validation: WindowDataset, output: Path, *, cpu_seconds: float
) -> None:
    """Write what the run was and reached; written last, so that the file's presence means that it is complete."""
    state, model = trainer.state, trainer.accelerator.unwrap_model(trainer.model)
    summary = {
        "model_type": model.config.model_type,
        "num_parameters": model.num_parameters(),
        "steps": state.global_step,
        "windows_seen": state.global_step
        * trainer._train_batch_size
        * trainer.args.gradient_accumulation_steps
        * trainer.args.world_size,
        "best_step": state.best_global_step,
        "best_validation_loss": state.best_metric,
        "cpu_seconds_of_last_launch": round(cpu_seconds, 1),
        "dataset_fingerprint": windows.trajectories.fingerprint,
        "train_systems": sorted(set(windows.trajectories.systems)),
        "validation_systems": sorted(set(validation.trajectories.systems)),
        "device": str(trainer.args.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    temporary = output / f"{SUMMARY_FILE}.tmp"
    temporary.write_text(json.dumps(summary, indent=1))
    temporary.replace(output / SUMMARY_FILE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print where the result lies."""
    config, resolved = load_run_config(arguments)
    output = train(config, resolved)
    summary = json.loads((output / SUMMARY_FILE).read_text())
    print(
        f"checkpoint: {output} (step {summary['best_step']} of {summary['steps']}, validation loss "
        f"{summary['best_validation_loss']:.4f}, {summary['num_parameters']:,} parameters)"
    )


if __name__ == "__main__":
    main()
