# Copyright 2026 The hf_tsdyn authors. Licensed under the Apache License, Version 2.0.
"""Configuration of DynoNet."""

from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ...channel_scaling import check_channel_scaling
from .specialists import build_specialist


@strict
class DynoNetConfig(PreTrainedConfig):
    """Configuration of `DynoNetModel` and its head; the defaults are the published network, of 93 954 parameters.

    Args:
        num_channels: C, channels of the series, each with a worker of its own.
        context_length, prediction_length: steps of a window that are seen, and that are forecast at once.
        controller: whether a controller reads the window; without one every signal is a learned constant.
        controller_scope: read all channels of a window together, as published, or each channel by itself, with the same
            weights: fewer weights and more examples of what they are to do, and no view across channels.
        controller_hidden_size: K, units of the controller's recurrence.
        controller_patch_length: steps that the controller reads at once; 1, as published, is one by one. The first
            steps of a context, as many as fill no patch, are not read.
        worker_hidden_size: h, units of each worker's recurrences.
        num_worker_layers: recurrences of a worker, one upon the other; 0 leaves the workers out.
        worker_context_length: latest steps that the workers see.
        worker_patch_length: steps that a worker reads at once, a divisor of `worker_context_length`.
        gating: of the workers' inputs: constant over the window as published, following the controller along it, none.
        input_noise: what the controller's noise on the workers' input is, in training: Gaussian of that deviation at
            every step, or, as published, a shift of the window by it.
        film: whether the controller scales and shifts what the workers' layers put out.
        film_range: largest change of scale, and largest shift, that it makes; 0.1 as published.
        worker_dropout: first value of the controller's dropout rates, below 0.7; 0 turns dropout off for good.
        trend_window: odd length of the moving average that splits trend from residual.
        trend_head: forecast the trend by one linear map that all channels share.
        channel_mixer: let the forecasts of the channels correct each other.
        mixer_dropout: dropout rate in there.
        specialists: linear forecasters of the whole window, by name and options, `{"kind": "low_rank", "rank": 12}`;
            the controller weighs them against each other for every channel, and the workers forecast what they leave.
        mixture: weight of each specialist where the controller has nothing to say; equal by default.
        normalize_loss: measure errors in each window's own scale, not in the series'.
        scaling_epsilon, relative_scaling_epsilon: of the windows' scaling, see `hf_tsdyn.scaling.scale`; absolute, in
            units of the series' scale, as published.
        channel_loc, channel_scale: of the series that the model was made for, a number a channel: it works on (values -
            loc) / scale; `set_scaler` of the model sets them. None stands for 0 and 1.
        provenance: what the weights came from, as the program that trained them says it; of no effect.
    """

    model_type = "dynonet"
    attribute_map = {"hidden_size": "controller_hidden_size", "num_hidden_layers": "num_worker_layers"}

    num_channels: int = 7
    context_length: int = 512
    prediction_length: int = 96
    controller: bool = True
    controller_scope: Literal["window", "channel"] = "window"
    controller_hidden_size: int = 64
    controller_patch_length: int = 1
    worker_hidden_size: int = 8
    num_worker_layers: int = 1
    worker_context_length: int = 96
    worker_patch_length: int = 1
    gating: Literal["none", "constant", "time_varying"] = "constant"
    input_noise: Literal["gaussian", "shift"] = "gaussian"
    film: bool = True
    film_range: float | int = 0.1
    worker_dropout: float | int = 0.1
    trend_window: int = 25
    trend_head: bool = True
    channel_mixer: bool = True
    mixer_dropout: float | int = 0.1
    specialists: list[dict[str, Any]] | None = None
    mixture: list[float] | None = None
    normalize_loss: bool = False
    scaling_epsilon: float | int = 1e-5
    relative_scaling_epsilon: bool = False
    channel_loc: list[float] | None = None
    channel_scale: list[float] | None = None
    provenance: dict[str, Any] | None = None

    def validate_architecture(self) -> None:
        """Check the rules that tie fields to one another."""
        self._check_counts()
        lengths = {"worker_context_length": self.num_worker_layers > 0, "controller_patch_length": self.controller}
        for name, is_used in lengths.items():
            if is_used and getattr(self, name) > self.context_length:
                raise ValueError(
                    f"{name} must be at most context_length, {self.context_length}, found {getattr(self, name)}; lower "
                    "it, or raise context_length."
                )
        if self.worker_context_length % self.worker_patch_length:
            raise ValueError(
                "worker_patch_length must divide worker_context_length, found "
                f"{self.worker_patch_length} and {self.worker_context_length}; change one of them."
            )
        if not (self.num_worker_layers or self.trend_head or self.specialists):
            raise ValueError(
                "a model must have workers, a trend head or specialists, found none of them; raise num_worker_layers."
            )
        self._check_specialists()
        check_channel_scaling(self.num_channels, self.channel_loc, self.channel_scale)

    def _check_counts(self) -> None:
        counts = ("num_channels", "context_length", "prediction_length", "controller_hidden_size", "worker_hidden_size")
        for name in (*counts, "worker_context_length", "controller_patch_length", "worker_patch_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")
        if self.num_worker_layers < 0:
            raise ValueError(f"num_worker_layers must be at least 0, found {self.num_worker_layers}; raise it.")
        if self.trend_window < 1 or self.trend_window % 2 == 0:
            raise ValueError(f"trend_window must be odd and positive, found {self.trend_window}; change it.")
        if not 0 <= self.mixer_dropout < 1:
            raise ValueError(f"mixer_dropout must lie in [0, 1), found {self.mixer_dropout}; it is a share.")
        if not 0 <= self.worker_dropout < 0.7:
            raise ValueError(f"worker_dropout must lie in [0, 0.7), found {self.worker_dropout}; change it.")
        if not 0 < self.film_range < float("inf"):
            raise ValueError(f"film_range must be positive and finite, found {self.film_range}; film: false has none.")
        if not 0 < self.scaling_epsilon < float("inf"):
            raise ValueError(f"scaling_epsilon must be positive and finite, found {self.scaling_epsilon}.")

    def _check_specialists(self) -> None:
        if self.specialists == []:
            self.specialists = None
        with torch.device("meta"):
            for options in self.specialists or ():
                build_specialist(self, options)
        count = len(self.specialists or ())
        if self.mixture is None:
            return
        fine = len(self.mixture) == count and all(weight > 0 for weight in self.mixture)
        if not fine or not abs(sum(self.mixture) - 1) < 1e-3:
            raise ValueError(
                f"mixture must hold a positive weight for each of the {count} specialists, 1 in sum, found "
                f"{self.mixture}; leave it out for equal weights."
            )


__all__ = ["DynoNetConfig"]
