"""First weights of DynoNet's parts."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

from .configuration_dynonet import DynoNetConfig
from .controller import Head, Reader
from .specialists import Specialist
from .workers import WorkerLayer, Workers


def init_part(module: nn.Module, config: DynoNetConfig) -> None:
    """Draw the parameters that `module` has itself, uniformly within 1 / sqrt(inputs) unless it says otherwise."""
    if isinstance(module, Head):
        if module.start is None:
            set_uniform(module, fan_in=config.controller_hidden_size)
        else:
            set_zero(module)
            init.copy_(module.bias, torch.tensor(module.start))
    elif isinstance(module, Reader):
        set_uniform(module, fan_in=config.controller_hidden_size, recurse=False)
    elif isinstance(module, WorkerLayer):
        set_uniform(module, fan_in=config.worker_hidden_size)
        init.ones_(module.norm_weight)
        init.zeros_(module.norm_bias)
    elif isinstance(module, Workers):
        _init_workers(module, config)
    elif isinstance(module, Specialist):
        module.reset_parameters()
    elif isinstance(module, nn.Linear):
        set_uniform(module, fan_in=module.in_features)


def _init_workers(module: Workers, config: DynoNetConfig) -> None:
    units = config.worker_hidden_size
    init.normal_(module.position, std=0.02)
    fan_in = {"input": module.patch_length, "hidden": 2 * units, "output": units}
    for name, count in fan_in.items():
        for kind in ("weight", "bias"):
            init.uniform_(getattr(module, f"{name}_{kind}"), -(count**-0.5), count**-0.5)
    if config.specialists:  # the start is theirs
        init.zeros_(module.output_weight)
        init.zeros_(module.output_bias)


def set_uniform(module: nn.Module, *, fan_in: int, recurse: bool = True) -> None:
    """Draw parameters between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    for parameter in module.parameters(recurse):
        init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)


def set_zero(module: nn.Module) -> None:
    """Set parameters to 0."""
    for parameter in module.parameters():
        init.zeros_(parameter)
