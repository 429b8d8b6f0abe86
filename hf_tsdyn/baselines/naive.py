"""Baselines that see nothing but the context: its last value, its mean, its last period, its nearest repetition.

All are `Forecaster`s for any number of channels, on the device of their input. A channel with nothing seen is
forecast as 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..forecasting import ForecastMixin, check_prediction_length
from ..interpolation import fill_linear
from ..observations import check_past_values, last_observed
from ..scaling import scale, unscale

PEAK_SHARE = 0.9
"""Of the highest peak of an autocorrelation: what a peak at a smaller lag must reach to be taken for the period."""

LOWEST_PEAK = 0.05
"""The least correlation that is taken for a return."""


class PointBaseline:
    """What all baselines here share: they have no distribution, and say so as models without one do."""

    distribution = None
    forecast_quantiles = ForecastMixin.forecast_quantiles


class FittedRule(PointBaseline, ABC):
    """A rule that is fitted to each context anew, in double precision, and then rolled forward from its end.

    It works on z-scores by the context's own mean and standard deviation of each channel, gaps interpolated: its
    forecast of a x + b is a f(x) + b, but for rounding. A series has the forecast that it has alone.
    """

    @abstractmethod
    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Continue z-scores without gaps, (batch, time, channels) float64, by (batch, steps, channels)."""

    @torch.no_grad()
    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        filled = fill_linear(values.double(), mask)
        z, loc, spread = scale(filled, torch.ones_like(mask), epsilon=1e-12)
        forecast = unscale(self.roll_out(z, prediction_length), loc, spread)
        return forecast.masked_fill(~mask.any(dim=1, keepdim=True), 0.0).to(past_values)


def widened_range(z: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest values (batch, channels) of `z`, `margin` times their distance outwards."""
    lowest, highest = z.amin(dim=1), z.amax(dim=1)
    room = margin * (highest - lowest)
    return lowest - room, highest + room


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
    """Repeat the last period of the context; of its steps, unseen ones are interpolated.

    Args:
        period: in steps, at least 1, such as 24 for a day of hours. Contexts must be that long. None: each series
            has the one that `estimate_period` finds in its context.
    """

    period: int | None = None

    def __post_init__(self) -> None:
        if self.period is not None and self.period < 1:
            raise ValueError(
                f"period must be at least 1, found {self.period!r}; it counts steps, and None estimates it."
            )

    @torch.no_grad()
    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` (batch, time, channels), at least `period` steps, as `hf_tsdyn.Forecaster` says."""
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        if self.period is not None and values.shape[1] < self.period:
            raise ValueError(
                f"past_values must have at least the {self.period} steps of a period for {type(self).__name__}, found "
                f"{values.shape[1]}; give a longer context."
            )
        filled = fill_linear(values, mask).to(values.dtype)
        if self.period is None:
            return repeat_last(filled, estimate_period(filled), prediction_length)
        return repeat_last(filled, torch.full_like(filled[:, 0, 0], self.period, dtype=torch.long), prediction_length)


def repeat_last(filled: Tensor, periods: Tensor, steps: int) -> Tensor:
    """Return the last `periods` (batch,) steps of each series (batch, time, channels), over and over."""
    ahead = torch.arange(steps, device=filled.device)
    source = filled.shape[1] - periods[:, None] + ahead % periods[:, None]
    return filled.gather(1, source[:, :, None].expand(-1, -1, filled.shape[2]))


def estimate_period(filled: Tensor) -> Tensor:
    """Return the lag, in steps, after which each series (batch, time, channels) without gaps is most like itself.

    A straight line is taken off each channel, and the rest divided by its standard deviation. The correlation of the
    steps that are k apart, of all channels together, is 1 where the series has the period k. Its peaks beyond the first
    lag at which it is no longer positive count, up to half of the series: of those that reach `PEAK_SHARE` of the
    highest, the one of the smallest lag. Without a peak above `LOWEST_PEAK` the period is 1: persistence.
    Returns: (batch,) integers.
    """
    time = filled.shape[1]
    if time < 4:
        return torch.ones(len(filled), dtype=torch.long, device=filled.device)
    z, _, _ = scale(filled.double(), torch.ones_like(filled, dtype=torch.bool), epsilon=1e-12)
    line = torch.linspace(-1.0, 1.0, time, dtype=z.dtype, device=z.device)[:, None]
    z = z - line * (z * line).sum(dim=1, keepdim=True) / line.square().sum()
    z, _, _ = scale(z, torch.ones_like(z, dtype=torch.bool), relative=False, epsilon=1e-8)
    spectrum = torch.fft.rfft(z, n=2 * time, dim=1)
    products = torch.fft.irfft(spectrum.abs().square().sum(dim=2), n=2 * time)[:, : time // 2 + 2]
    energy = torch.nn.functional.pad(z.square().sum(dim=2).cumsum(dim=1), (1, 0))
    lags = torch.arange(products.shape[1], device=z.device)
    pairs = (energy[:, time - lags] * (energy[:, -1:] - energy[:, lags])).sqrt()
    correlation = products / pairs.clamp(min=1e-3 * time)  # what is left of a straight line is rounding
    middle = correlation[:, 1:-1]
    peaks = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:]) & (middle > LOWEST_PEAK)
    peaks &= (correlation[:, :-2] <= 0).cummax(dim=1).values
    heights = middle.masked_fill(~peaks, 0.0)
    enough = peaks & (heights >= PEAK_SHARE * heights.amax(dim=1, keepdim=True))
    return torch.where(enough.any(dim=1), enough.int().argmax(dim=1) + 1, 1)


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
        return repeat_last(fill_linear(values, mask).to(values.dtype), lag, prediction_length)

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
