"""The settings of a run that trains or fine-tunes a Chronos model: a dataclass filled from YAML and its options."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from transformers import TrainingArguments

from training.cpu_budget import CpuBudget
from training.lora import LoraOptions
from training.run_config import DataConfig, check_start_checkpoint, plain_values, set_precision

NEW_CONTEXT_LENGTH, NEW_PREDICTION_LENGTH = 512, 128
"""Steps of a new model that names none."""

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """What the three architectures have in common; the default is the size "tiny" of the published T5 and Bolt.

    Args:
        d_model: width; of the hidden layers of the feed-forward maps, d_ff.
        d_kv: of each attention head.
        num_layers: of the encoder, and of a decoder each.
        dropout_rate: in every layer.
        initializer_factor: of the standard deviations of new weights."""

    d_model: int = 256
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 4
    num_heads: int = 4
    dropout_rate: float = 0.1
    initializer_factor: float = 0.05

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in dataclasses.asdict(self).items() if isinstance(value, int)}
        small = {name: value for name, value in sizes.items() if value < 1}
        if small or not 0 <= self.dropout_rate < 1 or not self.initializer_factor > 0:
            raise ValueError(
                "sizes must be at least 1, dropout_rate in [0, 1) and initializer_factor positive, found "
                f"{small or (self.dropout_rate, self.initializer_factor)}; correct them."
            )


@dataclass(frozen=True, kw_only=True)
class T5Sizes(TransformerSizes):
    """A new Chronos-T5.

    Args:
        num_tokens: of the vocabulary; two are special, the others bins of values.
        bin_limit: the bins cover values up to so many mean absolute values of the context, of either sign."""

    num_tokens: int = 4096
    bin_limit: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_tokens < 5 or not self.bin_limit > 0:
            raise ValueError(
                "num_tokens must be at least 5, two of them special, and bin_limit positive, found "
                f"{self.num_tokens} and {self.bin_limit}; raise them."
            )


@dataclass(frozen=True, kw_only=True)
class BoltSizes(TransformerSizes):
    """A new Chronos-Bolt.

    Args:
        patch_length: steps of a patch of the context.
        quantile_levels: that it forecasts."""

    patch_length: int = 16
    quantile_levels: tuple[float, ...] = DECILES

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_levels(self.quantile_levels, needed=(0.5,))


@dataclass(frozen=True, kw_only=True)
class Chronos2Sizes(TransformerSizes):
    """A new Chronos-2; the default is a small one, where the published one has 12 layers and heads and width 768.

    Args:
        patch_length: steps of a patch, of the context and of the forecast.
        quantile_levels: that it forecasts, the nine that long forecasts go on with among them."""

    patch_length: int = 16
    quantile_levels: tuple[float, ...] = (
        *(0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
        *(0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_levels(self.quantile_levels, needed=DECILES)


def _check_levels(levels: tuple[float, ...], *, needed: tuple[float, ...]) -> None:
    if not set(needed) <= set(levels) or list(levels) != sorted({level for level in levels if 0 < level < 1}):
        raise ValueError(
            f"quantile_levels must increase between 0 and 1, {needed} among them, found {levels}; correct them."
        )


@dataclass(frozen=True, kw_only=True)
class ChronosRunConfig:
    """Everything that decides a run.

    Args:
        data: training and validation windows.
        training: transformers' TrainingArguments; `output_dir` is the run's folder.
        checkpoint: folder or Hub name (`NAME@REVISION` pins it) of a Chronos model of any family, to start from.
        chronos_t5: sizes of a new Chronos-T5, in place of a checkpoint.
        chronos_bolt: sizes of a new Chronos-Bolt, in the same way.
        chronos_2: sizes of a new Chronos-2, in the same way.
        context_length: steps of the past in training windows; by default the checkpoint's, or 512 of a new model.
        prediction_length: steps of the future, in the same way, or 128; at most that of a Chronos-Bolt checkpoint.
        multivariate: train Chronos-2 on the channels of a window as variates that see each other; false trains it on
            every channel by itself, as the others always are.
        lora: train adapters of a Chronos-2 checkpoint in place of its weights; null trains them all.
        max_cpu_seconds: end training once it has used so much processor time; null ends it at `max_steps` alone.
        mixed_precision: "auto" trains in bfloat16 where a GPU has it and in float32 elsewhere."""

    data: DataConfig
    training: TrainingArguments
    checkpoint: str | None = None
    chronos_t5: T5Sizes | None = None
    chronos_bolt: BoltSizes | None = None
    chronos_2: Chronos2Sizes | None = None
    context_length: int | None = None
    prediction_length: int | None = None
    multivariate: bool = True
    lora: LoraOptions | None = None
    max_cpu_seconds: float | None = None
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"

    def __post_init__(self) -> None:
        starts = [
            name
            for name in ("checkpoint", "chronos_t5", "chronos_bolt", "chronos_2")
            if getattr(self, name) is not None
        ]
        if len(starts) != 1:
            raise ValueError(
                "a run must start from one of checkpoint, chronos_t5, chronos_bolt and chronos_2, found "
                f"{' and '.join(starts) or 'none'}; name one."
            )
        lengths = (self.context_length, self.prediction_length)
        if any(length is not None and length < 1 for length in lengths):
            raise ValueError(f"context_length and prediction_length must be at least 1, found {lengths}; raise them.")
        if self.lora is not None and self.checkpoint is None:
            raise ValueError("lora must have a checkpoint to adapt, found none; name it with checkpoint.")
        if self.training.max_steps < 1:
            raise ValueError(
                f"training.max_steps must be at least 1, found {self.training.max_steps}; windows are drawn without "
                "end, so that a run is measured in steps."
            )
        CpuBudget(self.max_cpu_seconds)  # refuses what it cannot be


def load_chronos_config(arguments: Sequence[str] | None = None) -> tuple[ChronosRunConfig, dict[str, Any]]:
    """Return the configuration of a command line, and the same as plain values for the record.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = ArgumentParser(
        prog="python -m training.finetune_chronos",
        description="Train or fine-tune a Chronos model.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(ChronosRunConfig)
    parser.set_defaults(
        {
            "training.label_names": ["future_values"],
            "training.remove_unused_columns": False,
            "training.dataloader_pin_memory": torch.cuda.is_available(),
        }
    )
    namespace = parser.parse_args(arguments)
    set_precision(namespace)
    check_start_checkpoint(parser, "checkpoint", namespace["checkpoint"])
    resolved = plain_values(parser, namespace)
    try:
        settings = parser.instantiate(namespace)
        return ChronosRunConfig(
            **{item.name: settings[item.name] for item in dataclasses.fields(ChronosRunConfig)}
        ), resolved
    except (TypeError, ValueError) as error:
        parser.error(str(error))
