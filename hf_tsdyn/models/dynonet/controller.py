"""DynoNet's controller: it reads the whole window and says how each worker is to work and to learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .configuration_dynonet import DynoNetConfig
from .recurrence import grouped_gru

TRAINING_SIGNALS = {
    "lr_scale": (0.01, 5.0, 1.0),
    "wd_scale": (0.1, 10.0, 1.0),
    "dropout_rate": (0.0, 0.7, 0.1),
    "grad_clip": (0.1, 2.0, 1.0),
    "loss_weight": (0.5, 1.5, 1.0),
    "freeze_prob": (0.0, 1.0, 0.01),
}
"""Least, largest and first value of each signal that a bilevel trainer obeys; `worker_dropout` is the first rate."""

NOISE_RANGE = 0.5
"""Largest deviation, in standard deviations of the window, of the noise on the workers' input in training."""

Signals = dict[str, Tensor]

_NEVER = -30.0
"""Bias of a signal that is 0 and stays so: one that a sigmoid turns into nothing, with no derivative left."""


class Head(nn.Module):
    """A linear map of the controller's state; without a controller, its bias.

    start: values that the map has at first whatever the state; None starts it at random.
    """

    def __init__(self, in_features: int | None, out_features: int, start: Sequence[float] | None = None):
        super().__init__()
        self.start = start
        self.weight = None if in_features is None else nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, state: Tensor) -> Tensor:
        """Map states (..., K) to (..., out_features)."""
        if self.weight is None:
            return self.bias.expand(*state.shape[:-1], -1)
        return nn.functional.linear(state, self.weight, self.bias)


class Reader(nn.Module):
    """The recurrence that reads a window, patch by patch: a GRU on patches, embedded unless they are single steps."""

    def __init__(self, config: DynoNetConfig):
        super().__init__()
        width, patch = config.controller_hidden_size, config.controller_patch_length
        self.patch_length = patch
        channels = _channels_read(config)
        self.embedding = None if patch == 1 else nn.Linear(channels * patch, width)
        inputs = channels if patch == 1 else width
        self.weight_ih = nn.Parameter(torch.empty(1, 3 * width, inputs))
        self.weight_hh = nn.Parameter(torch.empty(1, 3 * width, width))
        self.bias_ih = nn.Parameter(torch.empty(1, 3 * width))
        self.bias_hh = nn.Parameter(torch.empty(1, 3 * width))

    def forward(self, values: Tensor, *, last_only: bool = False) -> Tensor:
        """States (B, patches, K) after each patch of values (B, L, C), or the last, at the window's end, alone."""
        if self.embedding is not None:
            spare = values.shape[1] % self.patch_length
            patches = values[:, spare:].unflatten(1, (-1, self.patch_length))
            values = self.embedding(patches.flatten(2))
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return grouped_gru(values[None], *weights, last_only=last_only)[0]


def _channels_read(config: DynoNetConfig) -> int:
    """Channels that the controller sees, and speaks of, at once."""
    return config.num_channels if config.controller_scope == "window" else 1


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if share else _NEVER


class Controller(nn.Module):
    """From a scaled window to signals; what each is stands in `forward`."""

    def __init__(self, config: DynoNetConfig):
        super().__init__()
        self.config = config
        weighs = len(config.specialists or ()) > 1
        reads = config.controller and (config.num_worker_layers > 0 or weighs)
        width = config.controller_hidden_size if reads else None
        self.num_channels = _channels_read(config)
        channels, units = self.num_channels, config.worker_hidden_size
        self.reader = Reader(config) if reads else None
        if config.num_worker_layers:
            film_layers = config.num_worker_layers if config.film else 0
            self.film = nn.ModuleList(
                Head(width, channels * 2 * units, [0.0] * (channels * 2 * units)) for _ in range(film_layers)
            )
            self.gate = None if config.gating == "none" else Head(width, channels * units)
            self.context = Head(width, units)
            self.training_signals = nn.ModuleDict(
                {
                    name: Head(width, channels, [_logit((value - low) / (high - low))] * channels)
                    for name, (low, high, first) in TRAINING_SIGNALS.items()
                    for value in [config.worker_dropout if name == "dropout_rate" else first]
                }
            )
            self.input_noise = Head(width, channels, [0.0] * channels)
        self.mixture = None
        if weighs:
            weights = config.mixture or [1.0] * len(config.specialists or ())
            start = [math.log(weight) for weight in weights] * channels
            self.mixture = Head(width, len(start), start)

    def forward(self, values: Tensor) -> Signals:
        """Return the signals of scaled windows (B, L, C).

        Of models with workers of h units and n layers:
            film: (n, 2, B, C, h), scale and shift of what each layer puts out.
            gate_masks: (B, C, h), or (B, C, steps, h) if they follow the controller, factors of the workers' input.
            context: (B, h), what all workers are told of the window; (B, C, h) of one that reads channels.
            lr_scale, wd_scale, dropout_rate, grad_clip, loss_weight, freeze_prob: (B, C), see `TRAINING_SIGNALS`.
            input_noise: (B, C), standard deviation of noise on the workers' input in training.
        Of models with two specialists or more: mixture (B, C, specialists), their weights, 1 in sum.
        """
        if self.config.controller_scope == "window":
            return self._speak(values)
        alone = self._speak(values.transpose(1, 2).flatten(0, 1)[..., None])
        return {name: self._of_windows(name, signal) for name, signal in alone.items()}

    def _of_windows(self, name: str, signal: Tensor) -> Tensor:
        """A signal of (B C) windows of one channel as one of B windows of C channels."""
        batch_axis = 2 if name == "film" else 0
        apart = signal if name == "context" else signal.squeeze(batch_axis + 1)
        return apart.unflatten(batch_axis, (-1, self.config.num_channels))

    def _speak(self, values: Tensor) -> Signals:
        config, channels = self.config, self.num_channels
        if self.reader is None:
            states = values.new_zeros(len(values), 1, config.controller_hidden_size)
        else:
            states = self.reader(values, last_only=config.gating != "time_varying")
        last = states[:, -1]
        signals: Signals = {}
        if config.num_worker_layers:
            if self.film:
                signals["film"] = torch.stack([self._film(head, last) for head in self.film])
            if self.gate is not None:
                signals["gate_masks"] = self._gates(self.gate, states)
            signals["context"] = self.context(last)
            for name, (low, high, _) in TRAINING_SIGNALS.items():
                signals[name] = low + (high - low) * self.training_signals[name](last).sigmoid()
            signals["input_noise"] = NOISE_RANGE * self.input_noise(last).tanh()
        if self.mixture is not None:
            signals["mixture"] = self.mixture(last).unflatten(1, (channels, -1)).softmax(dim=2)
        return signals

    def _film(self, head: nn.Module, state: Tensor) -> Tensor:
        """(2, B, C, h) of one layer."""
        bounded = self.config.film_range * head(state).unflatten(1, (self.num_channels, 2, -1)).tanh()
        gamma, beta = bounded.unbind(dim=2)
        return torch.stack([1 + gamma, beta])

    def _gates(self, head: nn.Module, states: Tensor) -> Tensor:
        """(B, C, h), or (B, C, steps, h): each step of the workers takes the controller's state when it has read it."""
        config = self.config
        if config.gating == "constant":
            return head(states[:, -1]).unflatten(1, (self.num_channels, -1)).sigmoid()
        steps = torch.arange(config.worker_context_length // config.worker_patch_length, device=states.device)
        steps_after = (len(steps) - 1 - steps) * config.worker_patch_length
        read = states.shape[1] - 1 + -steps_after // config.controller_patch_length
        gates = head(states[:, read.clamp(min=0)]).sigmoid()
        return gates.unflatten(2, (self.num_channels, -1)).transpose(1, 2)
