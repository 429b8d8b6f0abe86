"""A window on its way into dystformer: checked, scaled, its gaps filled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...interpolation import fill_hermite
from ...scaling import scale
from .configuration_dystformer import DystformerConfig


class ScaledWindow(NamedTuple):
    """values (batch, time, channels) in scaled units; loc and scale (batch, 1, channels)."""

    values: Tensor
    loc: Tensor
    scale: Tensor


def check_window(
    config: DystformerConfig, past_values: Tensor, past_observed_mask: Tensor | None, channel_mask: Tensor | None
) -> None:
    """Raise ValueError unless a window and its masks have the shapes that dystformer takes."""
    shape = tuple(past_values.shape)
    if past_values.ndim != 3:
        raise ValueError(
            f"past_values must have shape (batch, time, channels), found {shape}; add the missing axis with unsqueeze."
        )
    if shape[1] < config.patch_length:
        raise ValueError(
            f"past_values must have at least one patch of {config.patch_length} steps, found {shape[1]}; give a longer "
            "context."
        )
    masks = {"past_observed_mask": (past_observed_mask, shape), "channel_mask": (channel_mask, shape[::2])}
    for name, (mask, expected) in masks.items():
        if mask is not None and tuple(mask.shape) != expected:
            raise ValueError(
                f"{name} must have shape {expected} for past_values of {shape}, found {tuple(mask.shape)}; give one "
                "truth value each."
            )


def scale_window(config: DystformerConfig, values: Tensor, seen: Tensor, visible: Tensor) -> ScaledWindow:
    """Scale a window and put `config.gap_fill` where nothing is visible.

    Args:
        values: (batch, time, channels), data units. seen: boolean, True = known. visible: `seen` less what is masked.
    """
    z, loc, spread = scale(
        values,
        seen if config.scale_masked_values else visible,
        epsilon=config.scaling_epsilon,
        relative=config.relative_scaling_epsilon,
    )
    if config.gap_fill == "hermite":
        return ScaledWindow(fill_hermite(z, visible) if _some_false(visible) else z, loc, spread)
    return ScaledWindow(z.masked_fill(~visible, 0.0), loc, spread)


def channel_attention_mask(visible: Tensor, channel_mask: Tensor | None, num_patches: int) -> Tensor | None:
    """Return which channels attend to which, (batch * patches, 1, channels, channels) booleans; None = all to all.

    A channel that is not real, or of which nothing is visible, is attended to by none but itself.
    """
    real = visible.any(dim=1)
    if channel_mask is not None:
        real = real & channel_mask.bool()
    elif not _some_false(real):
        return None
    itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return (real[:, None, :] | itself).repeat_interleave(num_patches, dim=0)[:, None]


def _some_false(mask: Tensor) -> bool:
    """Whether some entry is False; a compiled graph, which cannot branch on it, takes it that there is one."""
    return torch.compiler.is_compiling() or not bool(mask.all())
