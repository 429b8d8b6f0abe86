"""Squared errors of a forecast of known channels, and what of them counts."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor

from ...forecasting import ForecastOutput
from ...losses import loss_targets


class SquaredErrors(NamedTuple):
    """(batch, steps, channels), 0 where a target does not count, and which do."""

    values: Tensor
    counted: Tensor


class ChannelLosses(NamedTuple):
    """By window and channel, (batch, channels): the mean loss over the targets that count, and how many they are."""

    losses: Tensor
    counted: Tensor


def squared_errors(
    output: ForecastOutput,
    past_values: Tensor,
    seen: Tensor,
    future_values: Tensor,
    future_observed_mask: Tensor | None,
    *,
    unit: Tensor | None,
) -> SquaredErrors:
    """Return the squared errors of an output with predictions, loc and scale.

    Args:
        seen: boolean, what of `past_values` is seen.
        unit: (channels,) of the errors; None measures each window in its own scale, without channels that are constant
            or unseen in it, as `hf_tsdyn.losses.loss_targets` says.
    """
    prediction, loc, spread = (cast(Tensor, each) for each in (output.prediction_outputs, output.loc, output.scale))
    known = seen.any(dim=1, keepdim=True)
    if unit is None:  # an absolute epsilon gives a constant channel a scale all the same
        first = past_values.gather(1, seen.int().argmax(dim=1, keepdim=True))
        known = known & ((past_values != first) & seen).any(dim=1, keepdim=True)
    targets = loss_targets(
        prediction, future_values, future_observed_mask, loc=loc, scale=spread, known=known, normalize=unit is None
    )
    error = (prediction[:, : targets.values.shape[1]] - targets.values) / (targets.unit if unit is None else unit)
    return SquaredErrors(error.masked_fill(~targets.counted, 0.0).square(), targets.counted)
