"""Which values of a window masked modelling hides."""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration_dystformer import DystformerConfig


def draw_mask(config: DystformerConfig, values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a boolean mask like `values` (batch, time, channels), True = hidden, of whole runs of `patch_length`.

    Of each channel's N patches, as near to `mask_ratio` N as can be are hidden, at least one and at most N - 1 (one of
    one); all channels' are the same with `channel_consistent_masking`. In a share `mask_shift_rate` of the windows
    the runs are shifted to the right by a random number of steps below `patch_length`, and what leaves comes in again.

    Args:
        generator: source of the mask, on the device of `values`; torch's own by default.
    """
    batch, time, channels = values.shape
    length = config.patch_length
    num_patches = time // length
    num_masked = max(1, min(num_patches - 1, round(config.mask_ratio * num_patches)))
    shape = (batch, 1 if config.channel_consistent_masking else channels, num_patches)
    noise = torch.rand(shape, generator=generator, device=values.device)
    mask = (noise.argsort(dim=-1).argsort(dim=-1) < num_masked).expand(batch, channels, num_patches)
    mask = mask_of_patches(mask, time, length)
    if config.mask_shift_rate > 0:
        shift = torch.randint(length, (batch, 1, 1), generator=generator, device=values.device)
        shifted = torch.rand((batch, 1, 1), generator=generator, device=values.device) < config.mask_shift_rate
        shift = shift * shifted
        steps = torch.arange(num_patches * length, device=values.device)[None, :, None]
        source = (steps - shift) % (num_patches * length) + time % length
        mask[:, time % length :] = mask.gather(1, source.expand(-1, -1, channels))
    return mask


def mask_of_patches(mask: Tensor, time: int, patch_length: int) -> Tensor:
    """Turn a mask (batch, channels, patches) into one (batch, time, channels); the remainder is not hidden."""
    steps = mask.repeat_interleave(patch_length, dim=2).transpose(1, 2)
    remainder = steps.new_zeros(steps.shape[0], time - steps.shape[1], steps.shape[2])
    return torch.cat([remainder, steps], dim=1)


def as_value_mask(mask: Tensor, values: Tensor, patch_length: int) -> Tensor:
    """Return a caller's mask, of patches or of values, as a boolean one of values.

    Raises: ValueError if it has neither shape.
    """
    batch, time, channels = values.shape
    mask = mask.bool()
    patches = (batch, channels, time // patch_length)
    if tuple(mask.shape) == (batch, time, channels):
        return mask
    if tuple(mask.shape) == patches:
        return mask_of_patches(mask, time, patch_length)
    raise ValueError(
        f"mask must have shape {patches} (batch, channels, patches) or {(batch, time, channels)} (batch, time, "
        f"channels) for values of {tuple(values.shape)}, found {tuple(mask.shape)}; give one truth value each, True = "
        "hidden."
    )
