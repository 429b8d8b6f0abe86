"""Filling the gaps of series of any length by a masked-modelling model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...forecasting import evaluating
from ...interpolation import fill_linear
from ...observations import check_past_values
from .configuration_dystformer import DystformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

WINDOWS_AT_ONCE = 64


class GapFillingMixin(_Model):
    """`complete` for a model whose `forward` reconstructs a window."""

    config: DystformerConfig

    @torch.no_grad()
    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill the gaps of each series from what is visible, in all of its channels, before and after.

        Scaling takes visible values only. A series longer than `context_length` is filled in windows that overlap by
        three quarters, blended so that each counts most near its middle. A channel of which a window shows less than
        a patch is bridged there by straight lines between its visible values, if it shows more outside.

        Args:
            values: (batch, time, channels), data units, at least `patch_length` steps; NaN = to be filled.
            mask: boolean, same shape, True = hidden: to be filled too, whatever stands there.
        Returns: like `values`; visible values are the same to the bit.
        Raises: ValueError or TypeError on bad shapes, or a channel of a series with nothing visible.
        """
        visible = None
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.shape != torch.as_tensor(values).shape:
                found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(
                    f"mask must be a tensor of the shape of values, {tuple(torch.as_tensor(values).shape)}, found "
                    f"{found}; give one truth value per value, True = to be filled."
                )
            visible = ~mask.bool()
        clean, visible = check_past_values(values, visible)
        self._check_series(visible)
        clean, visible = clean.to(self.device), visible.to(self.device)
        with evaluating(self):
            filled = self._complete_windows(clean.to(torch.promote_types(clean.dtype, torch.float32)), visible)
        return torch.where(visible, clean, filled.to(clean.dtype)).to(values.device)

    def _check_series(self, visible: Tensor) -> None:
        if visible.shape[1] < self.config.patch_length:
            raise ValueError(
                f"values must have at least one patch of {self.config.patch_length} steps, found {visible.shape[1]}; "
                "give a longer series."
            )
        empty = (~visible.any(dim=1)).nonzero().tolist()
        if empty:
            raise ValueError(
                "every channel must have a visible value to be filled from, found none at (batch index, channel) "
                f"{empty[:5]}; drop those channels."
            )

    def _complete_windows(self, values: Tensor, visible: Tensor) -> Tensor:
        """Weighted mean over windows of every step's reconstruction, in the precision of `values`."""
        lines = fill_linear(values, visible)
        length = self.config.patch_length
        window = min(self.config.context_length, values.shape[1] + length - 1) // length * length
        starts = list(range(0, max(values.shape[1] - window, 0), max(window // 4, 1)))
        starts.append(values.shape[1] - window)  # below 0: the one window begins before the series
        total, weights = torch.zeros_like(values), torch.zeros_like(values[:1, :, :1])
        nearness = torch.arange(1, window + 1, device=values.device)
        nearness = torch.minimum(nearness, nearness.flip(0)).to(values)[None, :, None] / window
        count = visible.sum(dim=1, keepdim=True)
        for start in starts:
            inside = slice(max(start, 0), start + window)
            inner = visible[:, inside].sum(dim=1, keepdim=True)
            part = self._complete_window(values[:, inside], visible[:, inside], window)
            part = torch.where((inner < length) & (inner < count), lines[:, inside], part)
            weight = nearness[:, -part.shape[1] :]
            total[:, inside] += weight * part
            weights[:, inside] += weight
        return total / weights

    def _complete_window(self, values: Tensor, visible: Tensor, window: int) -> Tensor:
        padding = (0, 0, window - values.shape[1], 0)
        past, seen = (torch.nn.functional.pad(each, padding) for each in (values, visible))
        parts = []
        for first in range(0, len(past), WINDOWS_AT_ONCE):
            rows = slice(first, first + WINDOWS_AT_ONCE)
            nothing = torch.zeros_like(seen[rows])
            output = self(past[rows], past_observed_mask=seen[rows], mask=nothing, return_dict=True)
            parts.append(output.prediction_outputs)
        return torch.cat(parts)[:, -values.shape[1] :].to(values.dtype)
