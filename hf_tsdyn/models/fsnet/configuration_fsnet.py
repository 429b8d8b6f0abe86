# Copyright 2026 The hf_tsdyn authors. Licensed under the Apache License, Version 2.0.
"""Configuration of the FSNet family."""

import math
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ...channel_scaling import check_channel_scaling
from .presets import PRESETS


@strict
class FSNetConfig(PreTrainedConfig):
    """Configuration of `FSNetModel` and its head; the defaults are the published network.

    Args:
        num_channels: C, channels of the series.
        num_time_features: F, numbers that describe each step's place in the calendar; 0 = none are asked for.
        context_length, prediction_length: steps of a window that are seen, and that are forecast at once.
        hidden_size: channels of all convolutions but the last block's.
        num_hidden_layers: blocks before the last one; block i is dilated by 2^i.
        representation_size: channels of the last block, from whose last step the forecast is read.
        kernel_size: odd, of every convolution.
        head_dropout: rate on the representation, in training.
        adaptive: whether averages of gradients calibrate the convolutions; False is a plain dilated network (TCN), for
            which the fields from here to `slot_normalization` mean nothing.
        identity_start: begin with scales of 1; published ones begin at random, near 0.
        chunk_by: channel whose gradients each chunk holds that a controller reads: "output", aligned with what it
            scales, or "input", as published, whose chunks are runs of the flat gradient.
        controller: one layer, or two with a gate between what they say.
        controller_size: units of the controller.
        controller_dropout: rate on what it says, in offline training alone.
        track_second_moment: let controllers read the gradients' root mean square beside their mean.
        slow_decay, fast_decay, second_moment_decay: share of the averages of gradients that a step keeps.
        trigger_threshold: cosine of the fast and the slow average below which memory is asked.
        adaptive_trigger: let each layer's threshold follow the 1 % quantile of its cosines.
        memory: what is read from it: nothing, a sum of slots weighed by their attention ("fixed"), or by their numbers
            ("published").
        memory_in_training: let offline training ask and write memory, too.
        memory_write: what the chosen slots learn: what was read from them, as published, or the layer's query.
        num_memory_slots, num_retrieved: slots, and how many of them one reading takes.
        num_memory_heads: parts of a query that are looked up by themselves.
        dynamic_temperature: let the attention's temperature depend on the query, between 0.3 and 0.7, and its weights
            sum to 1 over the slots that are read.
        adaptive_fusion: let a layer learn what share of its own calibration to keep when memory is read.
        memory_diversity: weight of a penalty on slots that are alike, taken as a gradient step where they are written.
        slot_normalization: keep the norm of the whole memory at 1 at most, as published, or that of each slot. Where it
            is changed at load, norms begin at 1 again.
        anchor: "last" forecasts changes from each window's last value, of windows less that value.
        channel_loc, channel_scale: of the series that the model was made for, a number a channel: it works on (values -
            loc) / scale; `set_scaler` of the model sets them. None stands for 0 and 1.
        provenance: what the weights came from, as the program that trained them says it; of no effect.
    """

    model_type = "fsnet"

    num_channels: int = 1
    num_time_features: int = 0
    context_length: int = 60
    prediction_length: int = 12
    hidden_size: int = 64
    num_hidden_layers: int = 10
    representation_size: int = 320
    kernel_size: int = 3
    head_dropout: float | int = 0.1
    adaptive: bool = True
    identity_start: bool = False
    chunk_by: Literal["input", "output"] = "input"
    controller: Literal["linear", "gated_residual"] = "linear"
    controller_size: int = 64
    controller_dropout: float | int = 0.0
    track_second_moment: bool = False
    slow_decay: float | int = 0.9
    fast_decay: float | int = 0.3
    second_moment_decay: float | int = 0.99
    trigger_threshold: float | int = -0.75
    adaptive_trigger: bool = False
    memory: Literal["none", "fixed", "published"] = "published"
    memory_in_training: bool = False
    memory_write: Literal["read", "query"] = "read"
    num_memory_slots: int = 32
    num_retrieved: int = 2
    num_memory_heads: int = 1
    dynamic_temperature: bool = False
    adaptive_fusion: bool = False
    memory_diversity: float | int = 0.0
    slot_normalization: Literal["memory", "slot"] = "memory"
    anchor: Literal["none", "last"] = "none"
    channel_loc: list[float] | None = None
    channel_scale: list[float] | None = None
    provenance: dict[str, Any] | None = None

    @classmethod
    def from_preset(cls, preset: str, **fields: Any) -> Self:
        """Return the configuration of one of `presets.PRESETS`, some of its fields changed.

        Raises: ValueError on an unknown name.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {list(PRESETS)}, found {preset!r}; choose one.")
        return cls(**PRESETS[preset] | fields)

    def validate_architecture(self) -> None:
        """Check the rules that tie fields to one another."""
        self._check_numbers()
        if self.adaptive:
            self._check_calibration()
        check_channel_scaling(self.num_channels, self.channel_loc, self.channel_scale)

    def _check_numbers(self) -> None:
        least = dict.fromkeys(("num_channels", "context_length", "prediction_length", "hidden_size"), 1)
        least |= dict.fromkeys(("representation_size", "kernel_size", "controller_size", "num_memory_heads"), 1)
        least |= {"num_time_features": 0, "num_hidden_layers": 0, "num_retrieved": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, found {getattr(self, name)}; raise it.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}; change it.")
        if self.num_retrieved > self.num_memory_slots:
            raise ValueError(
                f"num_retrieved must be at most num_memory_slots, {self.num_memory_slots}, found {self.num_retrieved}; "
                "lower it."
            )
        for name in ("head_dropout", "controller_dropout", "slow_decay", "fast_decay", "second_moment_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), found {getattr(self, name)}; it is a share.")
        if not -1 <= self.trigger_threshold <= 1:
            raise ValueError(f"trigger_threshold must be a cosine, found {self.trigger_threshold}; change it.")
        if not 0 <= self.memory_diversity < math.inf or (self.memory_diversity and self.num_memory_slots < 2):
            raise ValueError(
                "memory_diversity must be at least 0 and finite, and 0 with less than two slots, found "
                f"{self.memory_diversity} with {self.num_memory_slots}; change it."
            )

    def _check_calibration(self) -> None:
        shapes = ((self.hidden_size, self.hidden_size), (self.hidden_size, self.representation_size))
        if self.chunk_by == "input" and any(outputs % inputs for inputs, outputs in shapes):
            raise ValueError(
                'representation_size must be a multiple of hidden_size with chunk_by "input", found '
                f'{self.representation_size} and {self.hidden_size}; change it, or chunk by "output".'
            )
        if self.memory != "none":
            for inputs, outputs in (*shapes, (self.representation_size, self.representation_size)):
                size = query_size(inputs, outputs, self.kernel_size, chunk_by=self.chunk_by)
                if size % self.num_memory_heads:
                    raise ValueError(
                        f"num_memory_heads must divide the sizes of all queries, one of which is {size}, found "
                        f"{self.num_memory_heads}; change it."
                    )


def query_size(inputs: int, outputs: int, kernel_size: int, *, chunk_by: str) -> int:
    """Return how many scales a convolution's calibration has, which is the size of its query."""
    chunks = inputs if chunk_by == "input" else outputs
    return chunks * kernel_size + 2 * outputs


__all__ = ["FSNetConfig"]
