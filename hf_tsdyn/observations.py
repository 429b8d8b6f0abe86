"""What of a context is seen: masks and NaN, and the checks that every context must pass."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if past_observed_mask is not None:
        found = tuple(past_observed_mask.shape) if isinstance(past_observed_mask, Tensor) else type(past_observed_mask)
        if found != tuple(past_values.shape):
            raise ValueError(
                f"past_observed_mask must have the shape of past_values, {tuple(past_values.shape)}, and be a tensor, "
                f"found {found}; give one truth value per value."
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
