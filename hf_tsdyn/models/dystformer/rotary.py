"""Partial rotary positions (p-RoPE; Barbero et al. 2024, arXiv:2410.06205)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_dystformer import DystformerConfig


def rotary_angles(config: DystformerConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (length, head_dim) of p-RoPE, in float32 whatever the model's precision.

    Frequency k < n = int(rope_percent head_dim / 2) turns by position / wavelength^(2k / head_dim); the
    others stand still. Pair k is (k, k + head_dim / 2).
    """
    half = config.head_dim // 2
    num_turning = int(config.rope_percent * config.head_dim // 2)
    exponents = torch.arange(num_turning, device=device, dtype=torch.float32) * (2 / config.head_dim)
    frequencies = F.pad(float(config.max_wavelength) ** -exponents, (0, half - num_turning))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (k, k + width / 2) of the last axis by the given angles."""
    first, second = states.chunk(2, dim=-1)
    return states * cos.to(states.dtype) + torch.cat([-second, first], dim=-1) * sin.to(states.dtype)
