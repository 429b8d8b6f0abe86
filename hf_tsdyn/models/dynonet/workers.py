"""DynoNet's workers: one small recurrent forecaster a channel, all run at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from .configuration_dynonet import DynoNetConfig
from .recurrence import grouped_gru

CONCRETE_TEMPERATURE = 0.5
"""Of the relaxed dropout masks: lower ones are closer to hard masks, with noisier gradients."""


class WorkerLayer(nn.Module):
    """One recurrence of all workers, with FiLM, layer norm and dropout behind it."""

    def __init__(self, num_channels: int, units: int):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(num_channels, 3 * units, units))
        self.weight_hh = nn.Parameter(torch.empty(num_channels, 3 * units, units))
        self.bias_ih = nn.Parameter(torch.empty(num_channels, 3 * units))
        self.bias_hh = nn.Parameter(torch.empty(num_channels, 3 * units))
        self.norm_weight = nn.Parameter(torch.empty(num_channels, units))
        self.norm_bias = nn.Parameter(torch.empty(num_channels, units))

    def recur(self, inputs: Tensor, *, last_only: bool) -> Tensor:
        """States (C, B, steps, h) of inputs of that shape, or those of the last step alone."""
        return grouped_gru(inputs, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, last_only=last_only)

    def modulate(self, states: Tensor, film: Tensor | None) -> Tensor:
        """FiLM, (2, B, C, h), and layer norm of states (C, B, steps, h)."""
        if film is not None:
            gamma, beta = film.transpose(1, 2)[:, :, :, None]
            states = gamma * states + beta
        normed = nn.functional.layer_norm(states, states.shape[-1:])
        return normed * self.norm_weight[:, None, None] + self.norm_bias[:, None, None]


class Workers(nn.Module):
    """C workers; every parameter has them along its first axis."""

    def __init__(self, config: DynoNetConfig):
        super().__init__()
        channels, units = config.num_channels, config.worker_hidden_size
        self.patch_length = config.worker_patch_length
        steps = config.worker_context_length // self.patch_length
        self.input_weight = nn.Parameter(torch.empty(channels, units, self.patch_length))
        self.input_bias = nn.Parameter(torch.empty(channels, units))
        self.position = nn.Parameter(torch.empty(channels, steps, units))
        self.layers = nn.ModuleList(WorkerLayer(channels, units) for _ in range(config.num_worker_layers))
        self.hidden_weight = nn.Parameter(torch.empty(channels, units, 2 * units))
        self.hidden_bias = nn.Parameter(torch.empty(channels, units))
        self.output_weight = nn.Parameter(torch.empty(channels, config.prediction_length, units))
        self.output_bias = nn.Parameter(torch.empty(channels, config.prediction_length))

    def forward(
        self, values: Tensor, signals: Mapping[str, Tensor], *, relaxed: bool = False, keep: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Forecast (B, H, C) from the latest values (B, worker_context_length, C).

        signals: of the controller. relaxed: draw dropout masks between 0 and 1, which vary smoothly with the rate, in
        training; hard masks carry no derivative. keep: also return the input of the first layer and the output of
        each, (B, C, steps, h).
        """
        patches = values.transpose(1, 2).unflatten(2, (-1, self.patch_length)).transpose(0, 1)
        state = torch.einsum("cbtp,chp->cbth", patches, self.input_weight)
        state = state + (self.input_bias[:, None, None] + self.position[:, None])
        gates = signals.get("gate_masks")
        if gates is not None:
            gates = gates.transpose(0, 1)
            state = state * (gates if gates.ndim == 4 else gates[:, :, None])
        kept = []

        def note(state: Tensor) -> Tensor:
            """Keep a state as windows first, on the way of its derivatives."""
            if not keep:
                return state
            kept.append(state.transpose(0, 1))
            return kept[-1].transpose(0, 1)

        state = note(state)
        film, last = signals.get("film"), len(self.layers) - 1
        for number, layer in enumerate(cast(Iterable[WorkerLayer], self.layers)):
            last_only = number == last and not keep  # nothing else of the last layer is used
            states = layer.recur(state, last_only=last_only)
            state = state[:, :, -1:] if last_only else state
            states = layer.modulate(states, None if film is None else film[number])
            states = self._dropout(states, signals["dropout_rate"], relaxed=relaxed)
            state = note(states if number == 0 else state + states)
        return self._read_out(state[:, :, -1], signals["context"]), tuple(kept)

    def _read_out(self, state: Tensor, context: Tensor) -> Tensor:
        context = context.transpose(0, 1) if context.ndim == 3 else context.expand(len(state), -1, -1)
        features = torch.cat([state, context], dim=2)
        hidden = torch.baddbmm(self.hidden_bias[:, None], features, self.hidden_weight.transpose(1, 2))
        hidden = nn.functional.gelu(hidden)
        forecast = torch.baddbmm(self.output_bias[:, None], hidden, self.output_weight.transpose(1, 2))
        return forecast.permute(1, 2, 0)

    def _dropout(self, states: Tensor, rate: Tensor, *, relaxed: bool) -> Tensor:
        """Drop values of states (C, B, steps, h) at a rate (B, C), in training; the others grow by 1 / (1 - rate)."""
        if not self.training:
            return states
        rate = rate.T[:, :, None, None].to(states.dtype)
        uniform = torch.rand_like(states)
        if not relaxed:
            rate = rate.detach()
            return states * (uniform >= rate) / (1 - rate)
        kept = (1 - rate.clamp(1e-4, 1 - 1e-4)).logit()
        uniform = uniform.clamp(1e-6, 1 - 1e-6)
        masks = ((kept + uniform.logit()) / CONCRETE_TEMPERATURE).sigmoid()
        return states * masks / _mean_of_masks(kept)


def _mean_of_masks(kept: Tensor) -> Tensor:
    """Mean of relaxed masks for these logits of being kept, over evenly spaced quantiles of what is drawn."""
    quantiles = (torch.arange(64, dtype=kept.dtype, device=kept.device) + 0.5) / 64
    return ((kept[..., None] + quantiles.logit()) / CONCRETE_TEMPERATURE).sigmoid().mean(dim=-1)
