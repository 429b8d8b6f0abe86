"""Losses of forecasts over the seen targets, in units of each window's own scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .observations import observed

MAX_LOSS_DEVIATION = 10.0
"""No target counts in a normalised loss as farther from the context than so many of its standard deviations."""


class LossTargets(NamedTuple):
    """Targets (batch, steps, channels), unseen ones 0, which of them count, and the unit of their errors."""

    values: Tensor
    counted: Tensor
    unit: Tensor


def loss_targets(
    block: Tensor,
    future_values: Tensor,
    future_observed_mask: Tensor | None,
    *,
    loc: Tensor,
    scale: Tensor,
    known: Tensor,
    normalize: bool,
) -> LossTargets:
    """Return what a loss compares a forecast with.

    With `normalize`, errors are measured in each window's own scale, or in a tenth of the targets' root mean square
    distance from `loc` if that is more (a channel at rest that wakes up would otherwise outweigh all others).
    Channels that were constant over the context (spread below 2e-6 of their level), or of which nothing was seen, do
    not count. Without `normalize`, data units.

    Args:
        block: (batch, block, channels), any tensor of the forecast's shape and precision.
        future_values: (batch, steps, channels) with steps at most the block; NaN = unseen.
        future_observed_mask: boolean, like `future_values`.
        loc, scale: (batch, 1, channels), as `hf_tsdyn.scaling.scale` gives them.
        known: boolean (batch, 1, channels), True = loc and scale come from something seen.
    Raises: ValueError on shapes that do not fit.
    """
    steps = future_values.shape[1]
    expected = (block.shape[0], min(steps, block.shape[1]), block.shape[2])
    if future_values.shape != expected:
        raise ValueError(
            f"future_values must have shape (batch, steps, channels) with batch and channels of past_values and "
            f"at most {block.shape[1]} steps, found {tuple(future_values.shape)} for predictions of "
            f"{tuple(block.shape)}."
        )
    if future_observed_mask is not None and future_observed_mask.shape != future_values.shape:
        raise ValueError(
            f"future_observed_mask must have the shape of future_values, {tuple(future_values.shape)}, found "
            f"{tuple(future_observed_mask.shape)}; give one truth value per value."
        )
    mask = observed(future_values, future_observed_mask)
    targets = future_values.masked_fill(~mask, 0.0).to(block.dtype)
    if not normalize:
        return LossTargets(targets, mask, torch.ones_like(scale))
    has_scale = scale > (2e-6 * loc.abs()).clamp(min=2 * torch.finfo(scale.dtype).tiny)
    z = ((targets - loc) / scale).masked_fill(~mask, 0.0)
    largest = z.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    mean_square = (z / largest).square().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    distance = largest * mean_square.sqrt()
    return LossTargets(targets, mask & has_scale & known, scale * (distance / MAX_LOSS_DEVIATION).clamp(min=1.0))


def point_loss(prediction: Tensor, targets: LossTargets, *, kind: str, huber_delta: float) -> Tensor:
    """Return the loss of each value, (batch, steps, channels).

    Args:
        prediction: (batch, block, channels), data units, at least as many steps as the targets.
        kind: "mse", "mae" or "huber".
        huber_delta: error at which the Huber loss turns linear, in the targets' unit.
    """
    error = (prediction[:, : targets.values.shape[1]] - targets.values) / targets.unit
    error = error.masked_fill(~targets.counted, 0.0)
    if kind == "mse":
        return error.square()
    if kind == "mae":
        return error.abs()
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_delta)


def mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of `losses` where `counted`, a scalar; 0 if nothing counts."""
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
