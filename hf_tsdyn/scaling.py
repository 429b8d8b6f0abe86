"""Instance scaling: every window in units of its own mean and standard deviation. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def scale(
    values: Tensor, observed_mask: Tensor, *, epsilon: float = 1e-6, relative: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `(z, loc, scale)` with `z = (values - loc) / scale` per window and channel, unseen entries 0.

    `loc` is the mean of the seen values. With n seen values,

        relative:  scale^2 = sum (x - loc)^2 / n + (epsilon loc)^2
        absolute:  scale^2 = sum (x - loc)^2 / n + epsilon

    The relative form commutes with a change of units, z of a x being z of x from the smallest to the largest
    numbers, and with a shift as far as the shift is below 1 / epsilon standard deviations. The absolute form is the
    references'. A channel of which nothing is seen has loc 0 and scale 1.

    Args:
        values: (batch, time, channels), data units; what stands at unseen places is ignored, NaN included.
        observed_mask: boolean, same shape; True = seen.
    Returns: z like `values`, loc and scale (batch, 1, channels); at least float32 whatever the input.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    values = values.masked_fill(~observed_mask, 0.0)
    # In units of a power of two near the largest value, an exact change, squares can neither overflow nor vanish.
    largest = values.abs().amax(dim=1, keepdim=True)
    unit = torch.exp2(torch.frexp(largest).exponent.to(values.dtype) - 1) if relative else torch.ones_like(largest)
    values = values / unit
    seen = observed_mask.sum(dim=1, keepdim=True)
    count = seen.clamp(min=1)
    loc = values.sum(dim=1, keepdim=True) / count
    deviation = (values - loc).masked_fill(~observed_mask, 0.0)
    variance = deviation.square().sum(dim=1, keepdim=True) / count
    floor = (epsilon * loc).square() if relative else torch.full_like(loc, epsilon)
    # A channel that is zero throughout has no magnitude: the smallest normal number keeps 0 / scale at 0.
    smallest = torch.finfo(values.dtype).tiny
    spread = (variance + floor).sqrt().clamp(min=smallest)
    z = deviation / spread
    return z, loc * unit, (spread * unit).clamp(min=smallest).masked_fill(seen == 0, 1.0)


def unscale(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Return `z` (batch, time, channels) in data units, at the precision of `loc`: the inverse of `scale`."""
    return z.to(loc.dtype) * scale + loc
