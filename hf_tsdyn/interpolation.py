"""Filling of unseen values from their seen neighbours in time. Pure functions.

All take `values` and a boolean mask of seen ones, (batch, time, channels) both, and return filled values of that shape,
at least float32, seen ones as they were. Before the first and after the last seen value that value is held; a channel
with nothing seen becomes 0. What stands at unseen places is ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class _Gap(NamedTuple):
    """For every step: the seen steps on both sides of it (itself where it is seen), and its place between them."""

    left: Tensor
    right: Tensor
    place: Tensor


def _find_gaps(values: Tensor, mask: Tensor) -> _Gap:
    time = values.shape[1]
    steps = torch.arange(time, device=values.device)[None, :, None].expand(values.shape)
    before = steps.masked_fill(~mask, -1).cummax(dim=1).values
    after = steps.masked_fill(~mask, time).flip(1).cummin(dim=1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(max=time - 1)
    right = torch.where(after >= time, before, after).clamp(min=0)
    place = (steps - left).to(values.dtype) / (right - left).clamp(min=1)
    return _Gap(left, right, place)


def _seen_only(values: Tensor, mask: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32)).masked_fill(~mask, 0.0)


def fill_linear(values: Tensor, mask: Tensor) -> Tensor:
    """Fill each gap by the straight line between its seen neighbours."""
    values = _seen_only(values, mask)
    gap = _find_gaps(values, mask)
    start, end = values.gather(1, gap.left), values.gather(1, gap.right)
    filled = torch.where(mask, values, start + gap.place * (end - start))
    return filled.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def fill_hermite(values: Tensor, mask: Tensor) -> Tensor:
    """Fill each gap by the cubic that joins its seen neighbours with their slopes, within the range of what is seen.

    A slope comes from the last two seen steps (three, to second order, where they are seen) before the gap, or the
    first ones after it; without two adjacent seen steps it is that of the straight line across the gap.
    """
    values = _seen_only(values, mask)
    gap = _find_gaps(values, mask)
    start, end = values.gather(1, gap.left), values.gather(1, gap.right)
    length = (gap.right - gap.left).to(values.dtype)
    line = (end - start) / length.clamp(min=1)
    first_slope, first_known = _slopes(values, mask)
    last_slope, last_known = (part.flip(1) for part in _slopes(values.flip(1), mask.flip(1)))
    rise = length * torch.where(first_known.gather(1, gap.left), first_slope.gather(1, gap.left), line)
    fall = length * torch.where(last_known.gather(1, gap.right), -last_slope.gather(1, gap.right), line)
    s = gap.place
    curve = start + s * s * (3 - 2 * s) * (end - start) + s * (1 - s) * ((1 - s) * rise - s * fall)
    lowest = values.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
    highest = values.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    filled = torch.where(mask, values, torch.minimum(torch.maximum(curve, lowest), highest))
    return filled.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def _slopes(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Backward differences per step, of second order where three steps are seen, and where two are."""
    one_back, two_back = (torch.roll(values, shift, dims=1) for shift in (1, 2))
    known = mask & torch.roll(mask, 1, dims=1)
    known[:, :1] = False
    third = known & torch.roll(mask, 2, dims=1)
    third[:, :2] = False
    slopes = torch.where(third, 1.5 * values - 2 * one_back + 0.5 * two_back, values - one_back)
    return slopes, known


__all__ = ["fill_hermite", "fill_linear"]
