"""The three normalisations that dystformer can use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configuration_dystformer import DystformerConfig


class DynamicTanh(nn.Module):
    """`weight * tanh(alpha x) + bias`, a normalisation without statistics (Zhu et al. 2025, arXiv:2503.10622)."""

    def __init__(self, width: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.weight * torch.tanh(self.alpha * hidden_states) + self.bias


def build_norm(config: DystformerConfig) -> nn.Module:
    """Return the normalisation over the last axis that the configuration names."""
    if config.norm_type == "rmsnorm":
        return nn.RMSNorm(config.d_model, eps=config.norm_eps)
    if config.norm_type == "layernorm":
        return nn.LayerNorm(config.d_model, eps=config.norm_eps)
    return DynamicTanh(config.d_model)
