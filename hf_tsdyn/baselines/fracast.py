"""Fracast-0, a foundation model of 85 000 parameters whose weights come with its package, behind our protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..forecasting import check_prediction_length
from ..observations import check_past_values, last_observed
from .naive import PointBaseline

MIN_SEEN = 8
"""Seen values that the package asks of a channel."""


class FracastForecaster(PointBaseline):
    """Zero-shot median forecasts of Fracast-0, each channel by itself, block after block of 48 steps.

    A channel with fewer than eight seen values is held at the last of them, 0 if it has none.

    Args:
        weights: "fp32" or "w8", as the package calls them.
    Raises: ModuleNotFoundError if the package `fracast` is not installed.
    Source: https://github.com/ztxtech/fracast-0 (Apache-2.0).
    """

    def __init__(self, weights: str = "fp32"):
        try:
            from fracast import FracastModel  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "FracastForecaster needs the package fracast, found none; pip install 'hf_tsdyn[fracast]'."
            ) from error
        self._model: Any = FracastModel.from_pretrained(weights=weights)
        self._median = int(np.abs(np.asarray(self._model.quantiles) - 0.5).argmin())

    @torch.no_grad()
    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels) as `hf_tsdyn.Forecaster` says."""
        steps = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        rows = values.masked_fill(~mask, torch.nan).float().cpu().transpose(1, 2).flatten(0, 1).numpy()
        loc, spread = np.zeros((len(rows), 1), np.float32), np.ones((len(rows), 1), np.float32)
        able = np.isfinite(rows[:, -self._model.context_length :]).sum(axis=1) >= MIN_SEEN
        loc[able] = np.nanmean(rows[able], axis=1, keepdims=True)
        spread[able] = np.nanstd(rows[able], axis=1, keepdims=True)
        spread[spread == 0] = 1.0
        held = last_observed(values, mask).float().cpu().transpose(1, 2).flatten(0, 1).numpy()
        forecast = np.repeat(held, steps, axis=1)
        if able.any():
            scaled = (rows - loc) / spread
            found = self._model.forecast_batch(scaled[able], horizon=steps)[:, :, self._median]
            forecast[able] = found * spread[able] + loc[able]
        shape = (len(values), values.shape[2], steps)
        return torch.from_numpy(forecast).view(shape).transpose(1, 2).to(past_values)
