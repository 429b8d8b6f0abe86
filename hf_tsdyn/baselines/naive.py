"""Baselines that see nothing but the context: its last value, its mean, its last period, its nearest repetition.

All are `Forecaster`s for any number of channels, on the device of their input. A channel with nothing seen is
forecast as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..forecasting import ForecastMixin, check_prediction_length
from ..interpolation import fill_linear
from ..observations import check_past_values, last_observed


class PointBaseline:
    """What all baselines here share: they have no distribution, and say so as models without one do."""

    distribution = None
    forecast_quantiles = ForecastMixin.forecast_quantiles


@dataclass(frozen=True)
class Persistence(PointBaseline):
    """Forecast each channel's last seen value at every step."""

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        return last_observed(values, mask).repeat(1, prediction_length, 1)


@dataclass(frozen=True)
class ContextMean(PointBaseline):
    """Forecast each channel's mean over the seen context at every step."""

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        mean = values.double().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return mean.to(values.dtype).repeat(1, prediction_length, 1)


@dataclass(frozen=True)
class SeasonalNaive(PointBaseline):
    """Repeat the last `period` steps of the context; of those, unseen ones are interpolated.

    Args:
        period: in steps, at least 1, such as 24 for a day of hours. Contexts must be that long.
    """

    period: int

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"period must be at least 1, found {self.period!r}; it counts steps.")

    @torch.no_grad()
    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), at least `period` steps, as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        if values.shape[1] < self.period:
            raise ValueError(
                f"past_values must have at least the {self.period} steps of a period for {type(self).__name__}, found "
                f"{values.shape[1]}; give a longer context."
            )
        filled = fill_linear(values, mask).to(values.dtype)
        repeats = -(-prediction_length // self.period)
        return filled[:, -self.period :].repeat(1, repeats, 1)[:, :prediction_length]


@dataclass(frozen=True)
class ContextParroting(PointBaseline):
    """Find where the context was most like its end, and copy what came next.

    The motif is the last `embedding_length` steps of all channels together (a delay embedding with lag 1). It is
    compared with every earlier stretch of that length by the sum of squared differences, each channel divided by
    its standard deviation in the context. From the best match, `lag` steps back (the smallest such lag where
    several match equally), values are copied forward; where the copy reaches the end of the context it goes on
    with what was copied, so that the forecast repeats with period `lag`. On a periodic signal this is
    exact if a multiple of the period lies between `min_lag` and the context's length less `embedding_length`.

    A pair of values of which one is unseen counts as two independent draws would on average (2); unseen values that
    are to be copied are interpolated. Contexts shorter than `embedding_length + min_lag` use a shorter motif, at
    most half of the context, and whatever lags are left; two steps are needed at least.

    Args:
        embedding_length: steps of the motif, at least 1.
        min_lag: smallest lag considered. On a finely sampled flow the nearest stretch is otherwise the one just
            before the end, whose copy is close to persistence (Theiler's correction).
    Source: Zhang & Gilpin, "Context parroting" (arXiv:2505.11349); that channels are matched jointly, and what is
    done about unseen values and short contexts, is ours.
    """

    embedding_length: int = 10
    min_lag: int = 10

    def __post_init__(self) -> None:
        if self.embedding_length < 1 or self.min_lag < 1:
            raise ValueError(
                "embedding_length and min_lag must be at least 1, found "
                f"{self.embedding_length!r} and {self.min_lag!r}; both count steps."
            )

    @torch.no_grad()
    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), at least 2 steps, as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        if values.shape[1] < 2:
            raise ValueError(
                f"past_values must have at least 2 steps for {type(self).__name__}, found {values.shape[1]}; "
                "give a longer context."
            )
        lag = self._best_lag(values, mask)  # (batch,)
        steps = torch.arange(prediction_length, device=values.device)
        source = values.shape[1] - lag[:, None] + steps % lag[:, None]
        filled = fill_linear(values, mask).to(values.dtype)
        return filled.gather(1, source[:, :, None].expand(-1, -1, values.shape[2]))

    def _best_lag(self, values: Tensor, mask: Tensor) -> Tensor:
        """Steps back from the end of each series to the end of the stretch most like its last steps."""
        time = values.shape[1]
        length = min(self.embedding_length, time // 2)
        min_lag = min(self.min_lag, time - length)
        num_candidates = time - length - min_lag + 1
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = values.sum(dim=1, keepdim=True) / count
        std = ((values - mean) ** 2 * mask).sum(dim=1, keepdim=True).div(count).sqrt()
        std = torch.where(std > 0, std, 1.0)
        complete = bool(mask.all())
        distance = values.new_zeros(len(values), num_candidates)
        for offset in range(length):
            end = time - length + offset
            candidates = slice(offset, offset + num_candidates)
            squares = ((values[:, candidates] - values[:, end : end + 1]) / std).square()
            if not complete:
                squares = torch.where(mask[:, candidates] & mask[:, end : end + 1], squares, 2.0)
            distance += squares.sum(dim=2)
        return min_lag + distance.flip(1).argmin(dim=1)
