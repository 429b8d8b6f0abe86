"""What every forecaster promises, what it returns, and the one loop that rolls a model forward."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


@runtime_checkable
class Forecaster(Protocol):
    """Anything that continues a series: models, baselines, wrappers of other people's models."""

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue each series by exactly `prediction_length` steps of its own sampling interval.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen. Never modified.
            past_observed_mask: boolean, same shape, True = seen.
        Returns: (batch, prediction_length, channels), units, dtype and device of `past_values`.
        """
        ...


@dataclass
class ForecastOutput(ModelOutput):
    """Result of a model's `forward`.

    loss: scalar, when targets were given.
    prediction_outputs: (batch, prediction_length, channels), data units.
    quantile_outputs: (batch, prediction_length, channels, quantiles), data units, from models with quantiles.
    loc, scale: (batch, 1, channels), data units: the scaling of each window.
    last_hidden_state, hidden_states, attentions: as the architecture documents, when asked.
    """

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    quantile_outputs: Tensor | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def observed(past_values: Tensor, past_observed_mask: Tensor | None) -> Tensor:
    """Return the boolean mask of seen values: what the caller marked, less what is NaN."""
    seen = ~past_values.isnan()
    return seen if past_observed_mask is None else seen & past_observed_mask.bool()


def last_observed(past_values: Tensor, observed_mask: Tensor) -> Tensor:
    """Return each channel's latest seen value (batch, 1, channels); 0 where nothing is seen.

    Args:
        past_values: (batch, time, channels). observed_mask: boolean, same shape.
    """
    steps = torch.arange(1, past_values.shape[1] + 1, device=past_values.device)[:, None]
    latest = (observed_mask * steps).argmax(dim=1, keepdim=True)
    found = past_values.gather(1, latest)
    return found.masked_fill(~observed_mask.gather(1, latest), 0.0)


def check_past_values(past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return `(values, mask)`: a copy with every unseen value set to 0, and the boolean mask of seen ones.

    Raises: TypeError if `past_values` is no floating tensor; ValueError if it is not (batch, time, channels),
    is infinite somewhere, if the mask has another shape, or if a series has no seen value at all.
    """
    if not isinstance(past_values, Tensor) or not past_values.is_floating_point():
        found = past_values.dtype if isinstance(past_values, Tensor) else type(past_values).__name__
        raise TypeError(
            f"past_values must be a floating-point tensor, found {found}; convert it first, or pass arrays "
            "and lists through hf_tsdyn.ForecastPipeline."
        )
    if past_values.ndim != 3 or 0 in past_values.shape:
        raise ValueError(
            "past_values must have shape (batch, time, channels), none of them 0, found "
            f"{tuple(past_values.shape)}; add the missing axis with unsqueeze."
        )
    if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
        raise ValueError(
            f"past_observed_mask must have the shape of past_values, {tuple(past_values.shape)}, found "
            f"{tuple(past_observed_mask.shape)}; give one truth value per value."
        )
    mask = observed(past_values, past_observed_mask)
    empty = (~mask.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            "every series of past_values must have at least one seen value, found none in those at batch index "
            f"{empty[:5]}; drop them, or check the mask (True = seen)."
        )
    values = past_values.masked_fill(~mask, 0.0)
    if not values.isfinite().all():
        raise ValueError("seen past_values must be finite, found infinite ones; mask them with past_observed_mask.")
    return values, mask


def check_prediction_length(prediction_length: int) -> int:
    """Return `prediction_length` as an int; ValueError unless it is a positive integer."""
    try:
        steps = 0 if isinstance(prediction_length, bool) else operator.index(prediction_length)
    except TypeError:
        steps = 0
    if steps < 1:
        raise ValueError(
            f"prediction_length must be an integer of at least 1, found {prediction_length!r}; "
            "it counts steps of the series' own sampling interval."
        )
    return steps


MAX_LOSS_DEVIATION = 10.0
"""No target counts in a normalised loss as farther from the context than so many of its standard deviations."""


def forecast_loss(
    prediction: Tensor,
    future_values: Tensor,
    future_observed_mask: Tensor | None,
    *,
    loc: Tensor,
    scale: Tensor,
    kind: str,
    huber_delta: float,
    normalize: bool,
) -> Tensor:
    """Mean loss over the seen targets, a scalar; 0 if none counts.

    With `normalize`, errors are divided by each window's own scale, or by a tenth of the targets' root mean square
    distance from `loc` if that is more (a channel at rest that wakes up would otherwise outweigh all others).
    Channels that were constant over the context (spread below 2e-6 of their level) do not count. Without
    `normalize`, data units.

    Args:
        prediction: (batch, block, channels), data units.
        future_values: (batch, steps, channels) with steps at most the block; NaN = unseen.
        future_observed_mask: boolean, like `future_values`.
        loc, scale: (batch, 1, channels), as `hf_tsdyn.scaling.scale` gives them.
        kind: "mse", "mae" or "huber".
        huber_delta: error at which the Huber loss turns linear, in the loss's units.
    """
    steps = future_values.shape[1]
    expected = (prediction.shape[0], min(steps, prediction.shape[1]), prediction.shape[2])
    if future_values.shape != expected:
        raise ValueError(
            f"future_values must have shape (batch, steps, channels) with batch and channels of past_values and "
            f"at most {prediction.shape[1]} steps, found {tuple(future_values.shape)} for predictions of "
            f"{tuple(prediction.shape)}."
        )
    if future_observed_mask is not None and future_observed_mask.shape != future_values.shape:
        raise ValueError(
            f"future_observed_mask must have the shape of future_values, {tuple(future_values.shape)}, found "
            f"{tuple(future_observed_mask.shape)}; give one truth value per value."
        )
    mask = observed(future_values, future_observed_mask)
    targets = future_values.masked_fill(~mask, 0.0).to(prediction.dtype)
    error = prediction[:, :steps] - targets
    if normalize:
        has_scale = scale > (2e-6 * loc.abs()).clamp(min=2 * torch.finfo(scale.dtype).tiny)
        z = ((targets - loc) / scale).masked_fill(~mask, 0.0)
        distance = (z.square().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)).sqrt()
        mask = mask & has_scale
        error = error / (scale * (distance / MAX_LOSS_DEVIATION).clamp(min=1.0))
    error = error.masked_fill(~mask, 0.0)
    if kind == "mse":
        loss = error.square()
    elif kind == "mae":
        loss = error.abs()
    else:
        loss = torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_delta)
    return loss.sum() / mask.sum().clamp(min=1)


class ForecastMixin(_Model):
    """`forecast` for every model whose `forward` continues a window by one block of fixed length."""

    @property
    def min_context_length(self) -> int:
        """Fewest steps of context that the model accepts."""
        return 1

    @property
    def max_context_length(self) -> int | None:
        """Most steps of context that the model uses, the latest ones; None = all that are given."""
        return None

    @torch.no_grad()
    def forecast(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        growing_context: bool = False,
    ) -> Tensor:
        """Roll the model forward from the end of `past_values`, feeding each block back as context.

        Args:
            past_values: (batch, time, channels), data units, evenly sampled; NaN = unseen. At least
                `min_context_length` steps; of more than `max_context_length` the latest are used.
            prediction_length: need not divide the model's block.
            past_observed_mask: boolean, same shape, True = seen.
            growing_context: False slides the context, dropping as many old steps as are added; True keeps
                all steps, up to `max_context_length`.
        Returns: (batch, prediction_length, channels), units, dtype and device of `past_values`. Dropout is
            off for the call, whatever mode the model is in. A series whose forecast leaves the range of floating-point
            numbers is NaN from the block on in which it does.
        Raises: ValueError or TypeError on bad shapes or lengths, or a series with nothing seen.
        """
        prediction_length = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        length = values.shape[1]
        if length < self.min_context_length:
            raise ValueError(
                f"past_values must have at least {self.min_context_length} steps for {type(self).__name__}, "
                f"found {length}; give a longer context."
            )
        longest = self.max_context_length
        keep = longest if growing_context else min(length, longest or length)
        # Half precision is rolled out in float32, as scaling is; double stays double.
        values = values.to(self.device, torch.promote_types(values.dtype, torch.float32))
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            forecast = self._roll_out(values, mask.to(self.device), steps=prediction_length, keep=keep)
        finally:
            for module, mode in modes:
                module.training = mode
        return forecast.to(past_values)

    def _roll_out(self, values: Tensor, mask: Tensor, *, steps: int, keep: int | None) -> Tensor:
        blocks = []
        lost = torch.zeros(values.shape[0], 1, 1, dtype=torch.bool, device=values.device)
        while steps > 0:
            if keep is not None:
                values, mask = values[:, -keep:], mask[:, -keep:]
            output = self(past_values=values, past_observed_mask=mask)
            block = output.prediction_outputs[:, :steps].to(values.dtype)
            steps -= block.shape[1]
            lost = lost | ~block.isfinite().all(dim=(1, 2), keepdim=True)
            blocks.append(block.masked_fill(lost, torch.nan))
            values = torch.cat([values, block.masked_fill(lost, 0.0)], dim=1)
            mask = torch.cat([mask, torch.ones_like(block, dtype=torch.bool)], dim=1)
        return torch.cat(blocks, dim=1)

    def forecast_quantiles(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        quantile_levels: Sequence[float],
        past_observed_mask: Tensor | None = None,
    ) -> Tensor:
        """Quantiles of the forecast, (batch, prediction_length, channels, levels); here only the refusal.

        Architectures with a distribution override this.
        """
        raise NotImplementedError(
            f"forecast_quantiles needs a model with a distribution, found {type(self).__name__}, which gives "
            "point forecasts, as every forecaster of this version does; call forecast instead."
        )
