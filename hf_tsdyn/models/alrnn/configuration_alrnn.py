# Copyright 2026 The hf_tsdyn authors. Licensed under the Apache License, Version 2.0.
"""Configuration of AL-RNN."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ...channel_scaling import check_channel_scaling


@strict
class ALRNNConfig(PreTrainedConfig):
    """Configuration of `ALRNNModel` and its head.

    Args:
        num_channels: N, channels of the series; the first N units of the state are read out as them.
        hidden_size: M, units of the state, at least N.
        num_relu_units: P, how many of the last units are rectified: 0 is a linear system, M a fully piecewise linear
            one; the state space falls into at most 2^P regions with linear dynamics in each.
        context_length: steps of context of a training window. 1, as published, starts each window from the first value.
        prediction_length: T, steps of a training window after its context.
        warmup_length: latest steps of a context that a forecast uses, at least `context_length`: the state is carried
            through them with the observed units set to what was seen, so that the others have settled at the last one.
        forcing_interval: tau: in training the observed units are pulled to the data at every tau-th step.
        forcing_strength: alpha: how far, 1 replaces them (sparse teacher forcing), less mixes (generalised).
        noise_std: of Gaussian noise on training windows, in standard deviations of the series.
        regularization_weight, regularization_threshold: lambda and c of the penalty
            `lambda * ||relu(A + diag(W) - c)||_2` on units that hold on to their own value too strongly.
        init_std: standard deviation of the first W.
        channel_loc, channel_scale: of the series that the model was made for, a number a channel: it works on (values -
            loc) / scale; `set_scaler` of the model sets them. None stands for 0 and 1.
        provenance: what the weights came from, as the program that trained them says it; of no effect.
    """

    model_type = "alrnn"

    num_channels: int = 3
    hidden_size: int = 20
    num_relu_units: int = 2
    context_length: int = 1
    prediction_length: int = 200
    warmup_length: int = 1
    forcing_interval: int = 16
    forcing_strength: float | int = 1.0
    noise_std: float | int = 0.05
    regularization_weight: float | int = 0.0
    regularization_threshold: float | int = 1.0
    init_std: float | int = 0.01
    channel_loc: list[float] | None = None
    channel_scale: list[float] | None = None
    provenance: dict[str, Any] | None = None

    @property
    def num_hidden_layers(self) -> int:
        """One recurrence, under the name other libraries look for."""
        return 1

    def validate_architecture(self) -> None:
        """Check the rules that tie fields to one another."""
        counts = ("num_channels", "context_length", "prediction_length", "warmup_length", "forcing_interval")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")
        if self.hidden_size < self.num_channels:
            raise ValueError(
                f"hidden_size must be at least num_channels, as the first units are the channels, found "
                f"hidden_size={self.hidden_size} and num_channels={self.num_channels}; raise hidden_size."
            )
        if self.warmup_length < self.context_length:
            raise ValueError(
                f"warmup_length must be at least context_length, found {self.warmup_length} and "
                f"{self.context_length}; raise warmup_length."
            )
        if not 0 <= self.num_relu_units <= self.hidden_size:
            raise ValueError(
                f"num_relu_units must be from 0 to hidden_size, found {self.num_relu_units} with "
                f"hidden_size={self.hidden_size}; change one of them."
            )
        if not 0 <= self.forcing_strength <= 1:
            raise ValueError(
                f"forcing_strength must lie between 0 and 1, found {self.forcing_strength}; it is a share."
            )
        for name in ("noise_std", "regularization_weight", "init_std"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, found {getattr(self, name)}; change it.")
        if not math.isfinite(self.regularization_threshold):
            raise ValueError(f"regularization_threshold must be finite, found {self.regularization_threshold}.")
        check_channel_scaling(self.num_channels, self.channel_loc, self.channel_scale)


__all__ = ["ALRNNConfig"]
