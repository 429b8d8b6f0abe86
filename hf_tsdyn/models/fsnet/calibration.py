"""How averaged gradients calibrate stacked convolutions: scales of weights, biases and features, helped by a memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, silu
from transformers.utils.generic import maybe_autocast

from .averages import GradientAverages
from .configuration_fsnet import FSNetConfig, query_size
from .convolutions import Scales
from .memory import Memory
from .reach import Part

QUERY_DECAY = 0.3
"""Share of a running average of queries that a step keeps."""
FUSION = 0.75
"""Share of a layer's own calibration that is kept where memory is read."""


class StackedLinear(nn.Module):
    """One linear map a layer: (layers, rows, inputs) to (layers, rows, outputs)."""

    def __init__(self, num_layers: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(num_layers, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """Map each layer's rows by its own weights."""
        return torch.baddbmm(self.bias[:, None], values, self.weight.mT)


class Heads(StackedLinear):
    """The scales that a layer gives to each chunk: weights' per tap, then biases' and features' per output."""


class Controller(nn.Module):
    """Read chunks of averaged gradients: (layers, chunks, controller_size), one or two layers deep.

    `weight`: (layers, controller_size, rows, kinds x kernel_size, inputs), rows being the outputs of a chunk.
    """

    def __init__(self, config: FSNetConfig, *, num_layers: int, num_chunks: int, rows: int, inputs: int):
        super().__init__()
        self.num_chunks, size = num_chunks, config.controller_size
        kinds = 2 if config.track_second_moment else 1
        self.weight = nn.Parameter(torch.empty(num_layers, size, rows, kinds * config.kernel_size, inputs))
        self.bias = nn.Parameter(torch.empty(num_layers, size))
        self.gate = self.second = None
        if config.controller == "gated_residual":
            self.gate = StackedLinear(num_layers, size, size)
            self.second = StackedLinear(num_layers, size, size)
        self.dropout = config.controller_dropout

    def forward(self, averages: GradientAverages) -> Tensor:
        """Return what it says of all chunks of all layers."""
        chunks = [
            values.reshape(part.num_layers, self.num_chunks, -1)
            for part in averages.parts
            for values in averages.features(part)
        ]
        places = [
            (part.layers, slice(first + taps.start, first + taps.stop))
            for part in averages.parts
            for taps in [averages.taps(part)]
            for first in range(0, self.weight.shape[3], averages.slow.shape[2])
        ]
        # Compilers write gradients of their own, and stumble over ours.
        multiply: Any = _chunk_products if torch.compiler.is_compiling() else _ChunkProducts.apply
        hidden = silu(multiply(self.weight, places, *chunks) + self.bias[:, None])
        if self.gate is not None and self.second is not None:
            gate = self.gate(hidden).sigmoid()
            hidden = torch.lerp(hidden, silu(self.second(hidden)), gate)
        return dropout(hidden, self.dropout, self.training)


def _chunk_products(weight: Tensor, places: list[tuple[slice, slice]], *chunks: Tensor) -> Tensor:
    found = weight.new_zeros(len(weight), chunks[0].shape[1], weight.shape[1])
    for (layers, taps), values in zip(places, chunks, strict=True):
        found[layers].baddbmm_(values, weight[layers, :, :, taps].flatten(2).mT)
    return found


class _ChunkProducts(torch.autograd.Function):
    """Products of chunks, constants, with the pieces of one weight that they belong to, summed by layer.

    Its gradient is written piece by piece into one tensor, where slicing would make one of full size for each.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, places: list[tuple[slice, slice]], *chunks: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.shape, ctx.places, ctx.chunks = weight.shape, places, chunks
        return _chunk_products(weight, places, *chunks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = gradient.new_zeros(ctx.shape)
        for (layers, taps), values in zip(ctx.places, ctx.chunks, strict=True):
            piece = found[layers, :, :, taps]
            piece.copy_((gradient[layers].mT @ values).view(piece.shape))
        return found, None, *(None for _ in ctx.chunks)


class Calibration(nn.Module):
    """Controllers, heads, memory and state of convolutions of equal shape, one a layer.

    Buffers beside those of its parts: `query` (layers, size), the running average of what the layers said, and
    `has_query`, whether there is one: the first learning forward begins it at 0.
    """

    query: Tensor
    has_query: Tensor

    def __init__(self, config: FSNetConfig, *, num_layers: int, inputs: int, outputs: int, parts: list[Part]):
        super().__init__()
        self.config = config
        self.by_output = config.chunk_by == "output"
        self.num_chunks = outputs if self.by_output else inputs
        self.rows = outputs // self.num_chunks  # outputs that one chunk speaks of
        kernel = config.kernel_size
        self.averages = GradientAverages(config, num_layers=num_layers, inputs=inputs, outputs=outputs, parts=parts)
        self.controller = Controller(
            config, num_layers=num_layers, num_chunks=self.num_chunks, rows=self.rows, inputs=inputs
        )
        self.heads = Heads(num_layers, config.controller_size, kernel + 2 * self.rows)
        self.memory = self.fusion_weight = self.fusion_bias = None
        if config.memory == "none":
            return
        size = query_size(inputs, outputs, kernel, chunk_by=config.chunk_by)
        self.memory = Memory(config, num_layers=num_layers, size=size)
        self.register_buffer("query", torch.empty(num_layers, size))
        self.register_buffer("has_query", torch.empty((), dtype=torch.bool))
        if config.adaptive_fusion:
            self.fusion_weight = nn.Parameter(torch.empty(num_layers, self.num_chunks))
            self.fusion_bias = nn.Parameter(torch.empty(num_layers))

    def forward(self, *, learning: bool) -> Scales:
        """Return the scales; a learning forward also moves the average of queries, and writes where triggered.

        All of it has the precision of the state, in mixed precision too.
        """
        with maybe_autocast(self.heads.weight.device.type, enabled=False):
            return self._calibrated(learning)

    def moved_by_learning(self) -> list[Tensor]:
        """Return the buffers that a learning forward is about to write to."""
        if self.memory is None:
            return []
        own = [self.query, self.has_query, self.averages.trigger]
        return [*own, self.memory.slots] if self._may_ask() else own

    def _calibrated(self, learning: bool) -> Scales:
        said = self.controller(self.averages)
        heads = self.heads(said)
        sizes = [self.config.kernel_size, self.rows, self.rows]
        if self.memory is None:
            return self._scales(*(each.flatten(1) for each in heads.split(sizes, dim=2)))
        query = torch.cat([each.flatten(1) for each in heads.split(sizes, dim=2)], dim=1)
        average = self._next_average(query) if learning or self._may_ask() else None
        calibrated = query if average is None else self._ask_memory(self.memory, query, average, said, learning)
        outputs = self.num_chunks * self.rows
        return self._scales(*calibrated.split([self.num_chunks * self.config.kernel_size, outputs, outputs], dim=1))

    def _may_ask(self) -> bool:
        """Whether some layer's trigger is set, or cannot be looked at."""
        trigger = self.averages.trigger
        return torch.compiler.is_compiling() or trigger.is_meta or bool(trigger.any())

    def _next_average(self, query: Tensor) -> Tensor:
        return torch.where(self.has_query.clone(), QUERY_DECAY * self.query + (1 - QUERY_DECAY) * query, 0.0)

    def _ask_memory(self, memory: Memory, query: Tensor, average: Tensor, said: Tensor, learning: bool) -> Tensor:
        """The queries, those of the layers with a trigger mixed with what they read; learning moves the state."""
        calibrated = query
        if self._may_ask():
            layers, trigger = self._asking(), self.averages.trigger
            reading, asked = memory.read(layers, query[layers], average[layers]), trigger[layers]
            share = self._fusion(layers, said)
            mixed = torch.where(asked[:, None], share * query[layers] + (1 - share) * reading.values, query[layers])
            calibrated = query.index_put((layers,), mixed)
            if learning:
                memory.write(layers, reading, average[layers], asked)
                trigger.zero_()
        if learning:
            self.query.copy_(average.detach())
            self.has_query.fill_(True)
        return calibrated

    def _asking(self) -> Tensor:
        """The numbers of the layers whose trigger is set; of all where that cannot be looked at."""
        trigger = self.averages.trigger
        if torch.compiler.is_compiling() or trigger.is_meta:
            return torch.arange(len(trigger), device=trigger.device)
        return trigger.nonzero().flatten()

    def _fusion(self, layers: Tensor, said: Tensor) -> Tensor | float:
        if self.fusion_weight is None or self.fusion_bias is None:
            return FUSION
        linear = (said[layers].mean(dim=2) * self.fusion_weight[layers]).sum(dim=1) + self.fusion_bias[layers]
        return linear.sigmoid()[:, None]

    def _scales(self, weight: Tensor, bias: Tensor, feature: Tensor) -> Scales:
        by_chunk = weight.unflatten(1, (self.num_chunks, -1))
        return Scales(by_chunk[:, :, None] if self.by_output else by_chunk[:, None], bias, feature)
