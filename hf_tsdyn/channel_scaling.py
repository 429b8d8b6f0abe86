"""The scaler of a model that knows its channels: mean and standard deviation of the series that it was made for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


def check_channel_scaling(
    num_channels: int, channel_loc: Sequence[float] | None, channel_scale: Sequence[float] | None
) -> None:
    """Raise ValueError unless both hold a finite number a channel, the scales above 0; None passes."""
    for name, values, smallest in (("channel_loc", channel_loc, -math.inf), ("channel_scale", channel_scale, 0.0)):
        if values is None:
            continue
        if len(values) != num_channels or not all(smallest < value < math.inf for value in values):
            raise ValueError(
                f"{name} must hold a finite number for each of the {num_channels} channels"
                f"{', above 0' if name == 'channel_scale' else ''}, found {values}; leave it out, or correct it."
            )


def channel_statistics(series: Iterable[ArrayLike], num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, (channels,) float64 both, of series (channels, time), NaN left out.

    Raises: ValueError on another number of channels, infinite values, or a channel that is constant or never seen.
    """
    columns = [np.asarray(each, dtype=np.float64) for each in series]
    channels = {len(each) for each in columns}
    if channels != {num_channels}:
        raise ValueError(
            f"the series must have the {num_channels} channels of the configuration, found "
            f"{', '.join(map(str, sorted(channels))) or 'no series'}; change num_channels, or choose columns."
        )
    values = np.concatenate(columns, axis=1)
    if np.isinf(values).any():
        raise ValueError(f"the series must be finite or NaN, found {np.isinf(values).sum()} infinite values.")
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(axis=1), 1)
    loc = np.where(seen, values, 0).sum(axis=1) / count
    scale = np.sqrt(np.where(seen, (values - loc[:, None]) ** 2, 0).sum(axis=1) / count)
    constant = np.flatnonzero(~(scale > 1e-12 * np.abs(loc))).tolist()
    if constant:
        raise ValueError(f"every channel must vary, found constant or unseen ones: {constant}; leave them out.")
    return loc, scale


class ChannelScalingMixin(_Model):
    """The scaler of a model with `num_channels`, kept in its configuration and so in every checkpoint."""

    @property
    def loc(self) -> Tensor:
        """Of each channel, (channels,), in at least float32; values are scaled to (values - loc) / scale."""
        return self._of_channels(self.config.channel_loc, 0.0)

    @property
    def scale(self) -> Tensor:
        """Of each channel, (channels,), see `loc`."""
        return self._of_channels(self.config.channel_scale, 1.0)

    def _of_channels(self, values: Sequence[float] | None, default: float) -> Tensor:
        values = [default] * self.config.num_channels if values is None else values
        return torch.tensor(values, dtype=torch.promote_types(self.dtype, torch.float32), device=self.device)

    def to_scaled(self, values: Tensor) -> Tensor:
        """Return values (..., channels) of the data's units in the model's."""
        loc, scale = self.loc, self.scale
        dtype = torch.promote_types(values.dtype, loc.dtype)
        return ((values.to(dtype) - loc.to(dtype)) / scale.to(dtype)).to(loc.dtype)

    def fit_scaler(self, series: Iterable[ArrayLike]) -> None:
        """Set the scaler to mean and standard deviation of series (channels, time), NaN left out.

        Raises: ValueError on other channels than the model's, infinite values, or a channel that is constant or never
            seen.
        """
        loc, scale = channel_statistics(series, self.config.num_channels)
        self.set_scaler(loc.tolist(), scale.tolist())

    def set_scaler(self, loc: Sequence[float], scale: Sequence[float]) -> None:
        """Work on (values - loc) / scale from now on, one number a channel, here and in what is saved.

        Raises: ValueError if there are more or fewer, or a scale is not above 0.
        """
        scaler = {"channel_loc": [float(each) for each in loc], "channel_scale": [float(each) for each in scale]}
        check_channel_scaling(self.config.num_channels, **scaler)
        self.config.update(scaler)

    def check_window(self, values: Tensor, mask: Tensor | None = None) -> None:
        """Raise TypeError or ValueError unless `values` are a window of the model's series, and `mask` is its mask."""
        if not values.is_floating_point():
            raise TypeError(f"past_values must be a floating-point tensor, found {values.dtype}; convert it first.")
        if values.ndim != 3 or 0 in values.shape or values.shape[2] != self.config.num_channels:
            raise ValueError(
                f"past_values must have shape (batch, time, {self.config.num_channels}), none of them 0, found "
                f"{tuple(values.shape)}: {type(self).__name__} knows the channels of the series that it was trained "
                "on; give those, or train another."
            )
        if mask is not None and mask.shape != values.shape:
            raise ValueError(
                f"past_observed_mask must have the shape of past_values, {tuple(values.shape)}, found "
                f"{tuple(mask.shape)}; give one truth value per value."
            )
