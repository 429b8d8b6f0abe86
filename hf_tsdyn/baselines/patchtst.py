"""transformers' PatchTST, each channel by itself: what a patch transformer does without mixing channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PatchTSTConfig, PatchTSTForPrediction

from ..checkpoint_safety import SafeLoadingMixin
from ..forecasting import ForecastMixin, ForecastOutput
from ..hub_card import HubCardMixin
from ..losses import loss_targets, mean_over, point_loss
from ..observations import observed
from ..scaling import scale, unscale


class PatchTSTForecaster(SafeLoadingMixin, HubCardMixin, ForecastMixin, PatchTSTForPrediction):
    """PatchTST of one channel, applied to every channel, that forecasts and trains as the models here do.

    Weights and configuration are transformers' own: what `save_pretrained` writes loads as `PatchTSTForPrediction`.
    Windows are standardised before that model does the same again, so that units do not count; the loss is in each
    window's own standard deviations.

    Raises: ValueError on a configuration with several channels, or with another head than points.
    """

    def __init__(self, config: PatchTSTConfig):
        if config.num_input_channels != 1 or config.loss != "mse":
            raise ValueError(
                "a PatchTST for any number of channels must have num_input_channels=1 and loss='mse', found "
                f"{config.num_input_channels} and {config.loss!r}; change the configuration."
            )
        super().__init__(config)

    @property
    def max_context_length(self) -> int:
        """Of a context the latest `context_length` steps are used; a shorter one is padded in front as unseen."""
        return self.config.context_length

    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        **kwargs: object,
    ) -> ForecastOutput:
        """Forecast `prediction_length` steps; with `future_values`, also the mean squared error.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen. past_observed_mask: boolean, same shape.
            future_values: (batch, at most prediction_length, channels). future_observed_mask: boolean, same shape.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units; `loss`, `loc`, `scale`.
        """
        length = self.config.context_length
        mask = observed(past_values, past_observed_mask)[:, -length:]
        z, loc, spread = scale(past_values[:, -length:], mask)
        padding = (0, 0, length - z.shape[1], 0)
        channels = [
            torch.nn.functional.pad(each, padding).transpose(1, 2).flatten(0, 1)[..., None] for each in (z, mask)
        ]
        found: Any = super().forward(channels[0].to(self.dtype), channels[1], return_dict=True)
        block = found.prediction_outputs.unflatten(0, (len(z), -1)).squeeze(-1).transpose(1, 2)
        forecast = unscale(block, loc, spread)
        output = ForecastOutput(prediction_outputs=forecast, loc=loc, scale=spread)
        if future_values is not None:
            targets = loss_targets(
                forecast,
                future_values,
                future_observed_mask,
                loc=loc,
                scale=spread,
                known=mask.any(dim=1, keepdim=True),
                normalize=True,
            )
            errors = point_loss(forecast, targets, kind="mse", huber_delta=1.0)
            output.loss = mean_over(errors, targets.counted)
        return output
