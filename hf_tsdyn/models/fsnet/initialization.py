"""First weights and first state of the FSNet family's parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .averages import GradientAverages
from .calibration import FUSION, Calibration, Controller, Heads, StackedLinear
from .configuration_fsnet import FSNetConfig
from .memory import Memory
from .network import Bank


def init_part(module: nn.Module, config: FSNetConfig) -> None:
    """Draw the parameters that `module` has itself as PyTorch's own layers do, and set its state to its beginning."""
    if isinstance(module, Bank):
        _set_uniform(module.weight, fan_in=module.weight[0, 0].numel())
        init.zeros_(module.bias)
    elif isinstance(module, Heads) and config.identity_start:
        init.zeros_(module.weight)
        init.ones_(module.bias)
    elif isinstance(module, (StackedLinear, nn.Linear)):
        _set_uniform(module.weight, module.bias, fan_in=module.weight.shape[-1])
    elif isinstance(module, Controller):
        _set_uniform(module.weight, module.bias, fan_in=module.weight[0, 0].numel())
        if module.gate is not None:
            init.constant_(module.gate.bias, -1.0)
    elif isinstance(module, Calibration):
        _init_calibration(module)
    elif isinstance(module, Memory):
        _init_memory(module, config)
    elif isinstance(module, GradientAverages):
        for buffer in (module.slow, module.fast, module.second, module.num_steps, module.trigger):
            if buffer is not None:
                init.zeros_(buffer)
        init.constant_(module.threshold, config.trigger_threshold)


def _init_calibration(module: Calibration) -> None:
    if module.memory is not None:
        init.zeros_(module.query)
        init.zeros_(module.has_query)
    if module.fusion_weight is not None and module.fusion_bias is not None:
        init.zeros_(module.fusion_weight)
        init.constant_(module.fusion_bias, math.log(FUSION / (1 - FUSION)))


def _init_memory(module: Memory, config: FSNetConfig) -> None:
    size, count = module.slots.shape[1:]
    bound = math.sqrt(6 / (size + count))
    init.uniform_(module.slots, -bound, bound)
    dims = (1, 2) if config.slot_normalization == "memory" else 1
    init.copy_(module.slots, module.slots / torch.linalg.vector_norm(module.slots, dim=dims, keepdim=True))
    if module.temperature_weight is not None and module.temperature_bias is not None:
        init.zeros_(module.temperature_weight)
        init.zeros_(module.temperature_bias)


def _set_uniform(*parameters: Tensor, fan_in: int) -> None:
    """Draw parameters between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    for parameter in parameters:
        init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
