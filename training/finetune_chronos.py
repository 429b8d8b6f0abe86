"""Train or fine-tune Chronos-T5, Chronos-Bolt or Chronos-2 on a dataset of trajectories, or on a series of your own.

    python -m training.finetune_chronos --config training/configs/chronos_t5.yaml
    python -m training.finetune_chronos --config training/configs/chronos_2_lora.yaml --checkpoint amazon/chronos-2

A run starts from a checkpoint, of any family, or from new weights (`chronos_t5`, `chronos_bolt` or `chronos_2` gives
the sizes; nothing is asked of the Hub). Its folder (`training.output_dir`) ends up with the best checkpoint on
validation data, which `chronos.BaseChronosPipeline.from_pretrained` and
`hf_tsdyn.baselines.chronos.ChronosForecaster.from_pretrained` load, the settings (run_config.yaml), what came of it
(training_summary.json) and a probe, a forecast to be reproduced to the bit; with `lora` also with the adapter by itself
(adapter/), the checkpoint being the merged model. The same command resumes a run that was stopped.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from hf_tsdyn.baselines.chronos import ChronosForecaster
from hf_tsdyn.data.windows import SequentialWindows, identity
from hf_tsdyn.results import write_atomically
from training.chronos_config import ChronosRunConfig, load_chronos_config
from training.chronos_models import ChronosStart, add_chronos_adapter, build_start
from training.chronos_trainer import ChronosTrainer
from training.cpu_budget import CpuBudget
from training.lora import ADAPTER_FOLDER, merge_adapter
from training.probe import PROBE_FILE
from training.run_config import claim_output_dir
from training.run_summary import SUMMARY_FILE, describe, summarise_run
from training.train import RunWindows, build_windows
from training.window_trainer import last_complete_checkpoint


def prepare(config: ChronosRunConfig, resolved: dict[str, Any]) -> ChronosTrainer | None:
    """Return the trainer of a run whose folder is claimed; None if the run is finished already.

    Raises: ValueError, OSError or ModuleNotFoundError on settings, data, packages or a folder that do not fit.
    """
    arguments = config.training
    set_seed(arguments.seed)
    start = build_start(config)
    windows = windows_of(config, start)
    resolved["data"]["fingerprint"] = windows.source.fingerprint
    output = Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="the run's folder"):
        claim_output_dir(resolved, output)
    if (output / SUMMARY_FILE).exists():
        return None
    return ChronosTrainer(
        family=start.family,
        multivariate=config.multivariate,
        budget=CpuBudget(config.max_cpu_seconds),
        model=start.model if config.lora is None else add_chronos_adapter(start.model, config.lora),
        args=arguments,
        train_dataset=windows.train,
        eval_dataset=windows.validation,
        data_collator=identity,
    )


def windows_of(config: ChronosRunConfig, start: ChronosStart) -> RunWindows:
    """Return the windows of a run, as those of any other model; ValueError as `build_windows` says."""
    lengths = {"context_length": start.context_length, "prediction_length": start.prediction_length}
    asked = PreTrainedConfig(**lengths, normalize_loss=start.family != "chronos_t5")  # pyright: ignore[reportCallIssue]
    return build_windows(config.data, config.training, asked)


def train(trainer: ChronosTrainer) -> None:
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
        save_probe(trainer, output)
        facts: Any = {"num_trainable_parameters": num_trainable, "last_launch": seconds, "model_type": trainer.family}
        summary = summarise_run(trainer, model, **facts)
        write_atomically(output / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
    trainer.accelerator.wait_for_everyone()


def save_result(trainer: ChronosTrainer, output: Path) -> PreTrainedModel:
    """Save the trained model, an adapter also by itself before it is merged into it; return the model."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PreTrainedModel):
        trainer.save_model(str(output))
        return model
    trainer.save_model(str(output / ADAPTER_FOLDER))
    merged = merge_adapter(model)
    if trainer.is_world_process_zero():
        (output / ADAPTER_FOLDER / "README.md").unlink()  # peft's card, with nothing filled in
        merged.save_pretrained(output)
    return merged


def save_probe(trainer: ChronosTrainer, output: Path) -> None:
    """Save a forecast of the first validation window, two and a half blocks long, by the checkpoint as it was saved."""
    windows = cast(SequentialWindows, trainer.eval_dataset)
    forecaster = ChronosForecaster.from_pretrained(output)
    past_values = windows.__getitems__([0])["past_values"].contiguous()
    length = forecaster.pipeline.model_prediction_length * 5 // 2
    forecast = forecaster.forecast(past_values, prediction_length=length).contiguous()
    save_file({"past_values": past_values, "forecast": forecast}, output / PROBE_FILE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print where the result lies."""
    config, resolved = load_chronos_config(arguments)
    output = Path(str(config.training.output_dir))
    try:
        trainer = prepare(config, resolved)
        if trainer is None:
            print(f"{output} already holds this run, finished; delete it to train again.")
        else:
            train(trainer)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    if trainer is None or trainer.is_world_process_zero():
        print(describe(output))


if __name__ == "__main__":
    main()
