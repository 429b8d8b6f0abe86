"""The blocks of the dilated network: as plain operations, and as one compiled pass that does the same.

A block is GELU, convolution, GELU, convolution, and its input added; the last one's residual is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv1d, gelu

from ...torch_transforms import is_transformed


class Scales(NamedTuple):
    """Factors of stacked layers.

    weight: (layers, outputs or 1, inputs or 1, kernel_size). bias, feature: (layers, outputs).
    """

    weight: Tensor
    bias: Tensor
    feature: Tensor


class Stack(NamedTuple):
    """Convolutions of equal shape that follow each other: what each puts out is feature * (weight' * x + bias').

    weight: (layers, outputs, inputs, kernel_size). bias: (layers, outputs). taps: how many count, of each layer.
    """

    weight: Tensor
    bias: Tensor
    taps: tuple[int, ...]
    scales: Scales | None

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (outputs, inputs, taps that count) and bias (outputs,) of each layer, times their scales."""
        weight, bias = self.weight, self.bias
        if self.scales is not None:
            weight = weight * self.scales.weight * self.scales.feature[:, :, None, None]
            bias = bias * self.scales.bias * self.scales.feature
        first = [(weight.shape[3] - taps) // 2 for taps in self.taps]
        cut = [each[..., start : start + n] for each, start, n in zip(weight, first, self.taps, strict=True)]
        return list(zip(cut, bias, strict=True))


class BlockOutputs(NamedTuple):
    """The last block's output without its residual, and its input (batch, steps, channels), and all other outputs."""

    end: Tensor
    start: Tensor
    outputs: tuple[Tensor, ...]


def run_blocks_plainly(values: Tensor, stacks: Sequence[Stack]) -> BlockOutputs:
    """Run embedded windows (batch, time, channels) through all blocks, operation by operation.

    From block to block every second step is left out, the last one kept: the others reach it no more.
    """
    layers = [layer for stack in stacks for layer in stack.layers()]
    values, outputs = values.mT, []

    def convolve(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv1d(gelu(values), weight, bias, padding=weight.shape[2] // 2)

    for first, second in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        values = values + convolve(convolve(values, *first), *second)
        outputs.append(values.mT)
        values = values[:, :, (values.shape[2] - 1) % 2 :: 2]
    end = convolve(convolve(values, *layers[-2]), *layers[-1])
    return BlockOutputs(end.mT, values.mT, tuple(outputs))


def is_compiled_for(values: Tensor) -> bool:
    """Return whether `run_blocks` takes these values: float32 or float64 on the CPU, in no transform of torch's."""
    plain = torch.compiler.is_compiling() or values.device.type != "cpu" or is_transformed([values])
    return not plain and values.dtype in (torch.float32, torch.float64)


def run_blocks(values: Tensor, stacks: Sequence[Stack]) -> BlockOutputs:
    """Run windows as `run_blocks_plainly` does, compiled, without the blocks' own outputs; differentiable once."""
    arguments = [each for stack in stacks for each in (stack.weight, stack.bias, *(stack.scales or _ones(stack)))]
    end, start = _Blocks.apply(values, *arguments)  # pyright: ignore[reportGeneralTypeIssues]
    return BlockOutputs(end, start, ())


def _ones(stack: Stack) -> Scales:
    """Scales that change nothing."""
    ones = torch.ones_like(stack.bias)
    return Scales(torch.ones_like(stack.weight[:, :1]), ones, ones)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *arguments: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from .convolutions_cpu import STEPS, forward

        batch, steps, channels = values.shape
        pairs = [(arguments[i].shape, arguments[i + 2].shape) for i in range(0, len(arguments), 5)]
        table, size = _table(batch, steps, tuple((weight, _is_by_input(weight, scales)) for weight, scales in pairs))
        tape = np.empty(size, values.detach().numpy().dtype)
        flat = _numpy(values.reshape(batch * steps, channels))
        end, start = forward(flat, batch, table, _stacks(arguments), tape)
        ctx.save_for_backward(*arguments)
        ctx.table, ctx.shape, ctx.tape = table, values.shape, tape
        left = table[-1, STEPS]
        return torch.from_numpy(end).view(batch, left, -1), torch.from_numpy(start).view(batch, left, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from .convolutions_cpu import backward

        arguments: tuple[Tensor, ...] = ctx.saved_tensors
        end, start = (_numpy(each.flatten(0, 1)) for each in gradients)
        targets = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in arguments]
        values = backward(end, start, ctx.shape[0], ctx.table, _stacks(arguments), _stacks(targets), ctx.tape)
        return torch.from_numpy(values).view(ctx.shape), *targets


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().numpy()


def _stacks(arguments: Sequence[Tensor]) -> tuple[tuple[np.ndarray, ...], ...]:
    """Weight, bias and scales of each stack, as rows."""
    found = []
    for first in range(0, len(arguments), 5):
        weight, bias, by_weight, by_bias, by_feature = (_numpy(each) for each in arguments[first : first + 5])
        layers, outputs = bias.shape
        rows = 1 if _is_by_input(weight.shape, by_weight.shape) else outputs
        flat = weight.reshape(layers, outputs, -1), bias, by_weight.reshape(layers, rows, -1), by_bias, by_feature
        found.append(flat)
    return tuple(found)


def _is_by_input(weight: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    """Whether scales of weights, by their shapes as in `Stack` and `Scales`, are those of each input."""
    return scales[1:3] == (1, weight[2])


@lru_cache(maxsize=64)
def _table(batch: int, steps: int, shapes: tuple[tuple[tuple[int, ...], bool], ...]) -> tuple[np.ndarray, int]:
    """The table of layers that compiled code reads, and how many numbers its tape holds.

    shapes: of each stack's weight, and whether it is scaled by input.
    """
    from .convolutions_cpu import BY_INPUT, BY_OUTPUT, BY_OUTPUT_ONE_TAP

    rows, tape = [], 0
    for stack, ((layers, outputs, inputs, kernel), by_input) in enumerate(shapes):
        for layer in range(layers):
            left = -(-steps // 2 ** (len(rows) // 2))
            scaling = BY_INPUT if by_input else BY_OUTPUT if left > 1 else BY_OUTPUT_ONE_TAP
            kept = {BY_INPUT: 0, BY_OUTPUT: outputs * inputs * kernel, BY_OUTPUT_ONE_TAP: batch * left * outputs}
            sizes = [batch * left * inputs * kernel, batch * left * inputs, batch * left * outputs, kept[scaling]]
            *places, end = accumulate(sizes, initial=tape)
            rows.append((stack, layer, inputs, scaling, left, *places))
            tape = end
    return np.array(rows, np.int64), tape
