"""The blocks of the dilated network: as plain operations, and as one compiled pass that does the same.

A block is GELU, convolution, GELU, convolution, and its input added; the last one's residual is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    none = values.new_empty(0, 0)
    plain = Scales(none[:, :, None, None], none, none)
    arguments = [each for stack in stacks for each in (stack.weight, stack.bias, *(stack.scales or plain))]
    end, start = _Blocks.apply(values, [stack.taps for stack in stacks], *arguments)  # pyright: ignore[reportGeneralTypeIssues]
    return BlockOutputs(end, start, ())


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, taps: list[tuple[int, ...]], *arguments: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from .convolutions_cpu import STEPS, forward
        from .scaling_cpu import write_scaled

        batch, steps, channels = values.shape
        stacks = _stacks(arguments)
        table, sizes = _table(batch, steps, taps, [tuple(weight.shape) for weight, _, _ in stacks])
        weights, biases, tape = (values.new_empty(size).numpy() for size in sizes)
        for (weight, bias, scales), rows in zip(stacks, _rows(table, taps), strict=True):
            write_scaled(weight, bias, scales, rows, weights, biases)
        flat = _numpy(values.reshape(batch * steps, channels))
        end, start = forward(flat, batch, table, weights, biases, tape)
        ctx.save_for_backward(*arguments)
        ctx.table, ctx.taps, ctx.shape, ctx.weights, ctx.tape = table, taps, values.shape, weights, tape
        left = table[-1, STEPS]
        return torch.from_numpy(end).view(batch, left, -1), torch.from_numpy(start).view(batch, left, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from .convolutions_cpu import OUTPUTS, backward
        from .scaling_cpu import write_gradients

        end, start = (_numpy(each.flatten(0, 1)) for each in gradients)
        weights = np.empty_like(ctx.weights)
        biases = np.empty(ctx.table[:, OUTPUTS].sum(), weights.dtype)
        values = backward(end, start, ctx.shape[0], ctx.table, ctx.weights, ctx.tape, weights, biases)
        targets = [torch.zeros_like(each, memory_format=torch.contiguous_format) for each in ctx.saved_tensors]
        stacks, written = _stacks(ctx.saved_tensors), _stacks(targets)
        for stack, into, rows in zip(stacks, written, _rows(ctx.table, ctx.taps), strict=True):
            write_gradients(*stack, rows, (weights, biases), (*into[:2], *into[2]))
        return torch.from_numpy(values).view(ctx.shape), None, *targets


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().numpy()


def _stacks(arguments: Sequence[Tensor]) -> list[tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]]:
    """Weight, bias and scales of each stack."""
    arrays = [_numpy(each) for each in arguments]
    return [(arrays[i], arrays[i + 1], tuple(arrays[i + 2 : i + 5])) for i in range(0, len(arrays), 5)]


def _rows(table: np.ndarray, taps: list[tuple[int, ...]]) -> list[np.ndarray]:
    """The table's rows of each stack."""
    return np.split(table, np.cumsum([len(each) for each in taps])[:-1])


def _table(
    batch: int, steps: int, taps: list[tuple[int, ...]], shapes: list[tuple[int, ...]]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The table of layers that compiled code reads, and how many weights, biases and numbers of its tape there are."""
    rows, weight, bias, tape = [], 0, 0, 0
    for counts, (_, outputs, inputs, _) in zip(taps, shapes, strict=True):
        for count in counts:
            left = -(-steps // 2 ** (len(rows) // 2))
            columns = batch * left * inputs * count
            rows.append((weight, bias, outputs, inputs, count, left, tape, tape + columns))
            weight, bias = weight + outputs * inputs * count, bias + outputs
            tape += columns + batch * left * inputs
    return np.array(rows, np.int64), (weight, bias, tape)
