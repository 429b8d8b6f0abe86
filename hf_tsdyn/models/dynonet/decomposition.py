"""Splitting a window into a smooth trend and what it leaves, as one linear map."""

from __future__ import annotations

import torch
from torch import Tensor


def averaging_matrix(length: int, window: int, *, like: Tensor) -> Tensor:
    """Return the (length, length) map that averages over `window` (odd) steps around each, the ends continued."""
    steps = torch.arange(length, device=like.device)
    offsets = torch.arange(window, device=like.device) - window // 2
    sources = (steps[:, None] + offsets).clamp(0, length - 1)
    share = torch.full_like(sources, 1, dtype=like.dtype) / window
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).scatter_add(1, sources, share)


def split_window(
    values: Tensor, window: int, *, residual_length: int, trend_map: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """Return a linear forecast of the trend (batch, horizon, channels), and the latest steps of the residual.

    Args:
        values: (batch, time, channels).
        window: odd length of the moving average that is the trend.
        residual_length: latest steps of the residual that are returned.
        trend_map: (horizon, time), applied to the trend; None forecasts nothing.
    """
    length = values.shape[1]
    average = averaging_matrix(length, window, like=values)
    rows = (torch.eye(length, dtype=values.dtype, device=values.device) - average)[length - residual_length :]
    if trend_map is not None:
        rows = torch.cat([rows, trend_map @ average])
    both = torch.nn.functional.linear(values.transpose(1, 2).contiguous(), rows).transpose(1, 2)
    residual, forecast = both.split([residual_length, both.shape[1] - residual_length], dim=1)
    return (None if trend_map is None else forecast), residual
