"""The dilated convolutions of the family: stacked by shape, calibrated where they adapt, cut to what can be seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .calibration import Calibration
from .configuration_fsnet import FSNetConfig
from .convolutions import Stack, is_compiled_for, run_blocks, run_blocks_plainly
from .reach import parts_of


class Bank(nn.Module):
    """Convolutions of equal shape, stacked along the leading axis, in the order in which they are met."""

    def __init__(self, config: FSNetConfig, *, blocks: list[int], inputs: int, outputs: int):
        super().__init__()
        layers = len(blocks)
        parts = parts_of(blocks, context_length=config.context_length, kernel_size=config.kernel_size)
        self.taps = tuple(2 * part.reach + 1 for part in parts for _ in range(part.num_layers))
        self.weight = nn.Parameter(torch.empty(layers, outputs, inputs, config.kernel_size))
        self.bias = nn.Parameter(torch.empty(layers, outputs))
        self.calibration = None
        if config.adaptive:
            self.calibration = Calibration(config, num_layers=layers, inputs=inputs, outputs=outputs, parts=parts)

    def forward(self, *, learning: bool) -> Stack:
        """Return the layers as they are now; a learning forward moves the state of their calibration."""
        scales = None if self.calibration is None else self.calibration(learning=learning)
        return Stack(self.weight, self.bias, self.taps, scales)

    def after_optimizer_step(self, *, online: bool) -> None:
        """Take the weights' gradients into the averages; without one, nothing moves."""
        if self.calibration is not None and self.weight.grad is not None:
            self.calibration.averages.update(self.weight.grad, online=online)


class DilatedNetwork(nn.Module):
    """Blocks of two convolutions with a residual; what comes out is the last block's last step.

    banks: the blocks' convolutions, the first and the second of the last block.
    """

    def __init__(self, config: FSNetConfig):
        super().__init__()
        hidden, last = config.hidden_size, config.num_hidden_layers
        shapes: list[tuple[list[int], int, int]] = []
        if last:
            shapes.append(([block for block in range(last) for _ in range(2)], hidden, hidden))
        shapes += [([last], hidden, config.representation_size)]
        shapes += [([last], config.representation_size, config.representation_size)]
        self.banks = nn.ModuleList(
            Bank(config, blocks=blocks, inputs=inputs, outputs=outputs) for blocks, inputs, outputs in shapes
        )
        self.residual = nn.Linear(hidden, config.representation_size)

    def forward(self, values: Tensor, *, learning: bool, keep: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the representation (batch, representation_size) of embedded windows (batch, time, hidden_size).

        keep: also return the output of every block but the last at the steps that count, (batch, steps, channels).
        """
        stacks = [bank(learning=learning) for bank in self.banks]
        run = run_blocks if not keep and is_compiled_for(values) else run_blocks_plainly
        end, start, outputs = run(values, stacks)
        return end[:, -1] + self.residual(start[:, -1]), outputs
