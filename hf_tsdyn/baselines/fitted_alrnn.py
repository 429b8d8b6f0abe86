"""AL-RNNs fitted to each context and run on freely: dynamical-systems reconstruction as a forecaster."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..forecasting import check_prediction_length
from ..interpolation import fill_linear
from ..models.alrnn.fitting import FitOptions, fit_alrnn
from ..observations import check_past_values
from .naive import PointBaseline


@dataclass(frozen=True)
class FittedALRNN(PointBaseline):
    """Fit an AL-RNN to each series of a batch, forecast from its end, and forget it.

    Of the networks of all seeds the one forecasts whose free run is closest to the last fifth of the context. Gaps are
    interpolated, and a channel that does not vary is held. A series on which every seed leaves the range of numbers is
    forecast as NaN, which an evaluation counts as failed.

    Args:
        hidden_size, num_relu_units: units, and those of them that are rectified.
        window: steps of a training window, at most half of the training part.
        warmup: latest steps that the state is carried through before it runs freely.
        noise_std: of training windows, in standard deviations of the series.
        seeds: networks for each series.
        options: of the training.
    """

    hidden_size: int = 20
    num_relu_units: int = 10
    window: int = 100
    warmup: int = 20
    noise_std: float = 0.05
    seeds: tuple[int, ...] = (0, 1)
    options: FitOptions = field(default_factory=lambda: FitOptions(num_epochs=300, evaluation_interval=25, discard=0))

    @property
    def min_context_length(self) -> int:
        """Fewest steps to fit to."""
        return 64

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels) as `hf_tsdyn.Forecaster` says.

        Raises: ValueError on a context of fewer than `min_context_length` steps.
        """
        steps = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        if values.shape[1] < self.min_context_length:
            raise ValueError(
                f"past_values must have at least {self.min_context_length} steps for {type(self).__name__}, found "
                f"{values.shape[1]}; give a longer context."
            )
        filled = fill_linear(values, mask).double().cpu()
        return torch.stack([self._continue(series, steps) for series in filled]).to(past_values)

    def _continue(self, series: Tensor, steps: int) -> Tensor:
        """(steps, channels) after a series (time, channels) without gaps."""
        spread = series.std(dim=0)
        varies = spread > 1e-9 * series.abs().amax(dim=0)
        forecast = series[-1:].repeat(steps, 1)
        if not varies.any():
            return forecast
        part = series[:, varies]
        try:
            model = fit_alrnn(
                part.numpy(),
                seeds=self.seeds,
                options=self.options,
                hidden_size=max(self.hidden_size, part.shape[1] + self.num_relu_units),
                num_relu_units=self.num_relu_units,
                prediction_length=min(self.window, len(part) // 3),
                warmup_length=min(self.warmup, len(part) // 10),
                noise_std=self.noise_std,
            )
        except RuntimeError:  # no seed stayed finite
            forecast[:, varies] = np.nan
            return forecast
        forecast[:, varies] = model.forecast(part[None].float(), prediction_length=steps)[0].double()
        return forecast
