"""An exponential moving average of a model's weights over training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TRAINING_WEIGHTS_FILE = "training_weights.safetensors"
"""In a checkpoint, whose own weights are the average: those that training goes on with."""


@dataclass(frozen=True)
class WeightAveraging:
    """Validate and save an average of the weights in place of the latest; training goes on with the latest.

    Args:
        decay: of the average at each step; it spans about 1 / (1 - decay) steps.
        start_step: the average begins with the weights after this step, and before it there is none."""

    decay: float = 0.999
    start_step: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.start_step < 1:
            raise ValueError(
                "weight_averaging must have a decay in [0, 1) and a start_step of at least 1, found "
                f"{self.decay} and {self.start_step}; change them."
            )

    def check_begins(self, max_steps: int) -> None:
        """Raise ValueError if a run of so many steps, unless it has none, ends before the average begins."""
        if 0 < max_steps < self.start_step:
            raise ValueError(
                f"weight_averaging.start_step must be at most training.max_steps, {max_steps}, found "
                f"{self.start_step}: nothing would be averaged; lower it, or leave weight_averaging out."
            )


class AveragedWeights:
    """The average of a model's trainable parameters, once it has begun; of no effect on the model unless in place."""

    def __init__(self, options: WeightAveraging, model: nn.Module):
        self.options = options
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._average: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after training step `step`, counted from 1."""
        if step < self.options.start_step:
            return
        if self._average is None:
            self._average = self._copy()
        else:
            for name, average in self._average.items():
                average.lerp_(self._parameters[name], 1 - self.options.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model has the average for its weights."""
        training = self._copy()
        self.settle()
        try:
            yield
        finally:
            self._set(training)

    def settle(self) -> None:
        """Give the model the average for good."""
        if self._average is not None:
            self._set(self._average)

    def save(self, checkpoint: Path) -> None:
        """Write the training's weights beside the average, which the checkpoint holds as the model."""
        if self._average is not None:
            save_file(self._copy(), checkpoint / TRAINING_WEIGHTS_FILE)

    def resume(self, checkpoint: Path) -> None:
        """Take the average from the model, which was loaded from a checkpoint, and give it the training's weights."""
        file = checkpoint / TRAINING_WEIGHTS_FILE
        if file.is_file():
            self._average = self._copy()
            self._set(load_file(file))

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: each.detach().clone(memory_format=torch.contiguous_format) for name, each in self._parameters.items()
        }

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
