"""The memory of stacked layers: slots of past calibrations, asked when a layer's gradients turn against their past."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .configuration_fsnet import FSNetConfig

TEMPERATURE = 0.5
WRITE_SHARE = 0.25
"""Share of a written slot that is new."""


class Reading(NamedTuple):
    """What the asking layers read (asked, size), the slots (asked, heads, k) and the weights they had, shaped alike."""

    values: Tensor
    slots: Tensor
    weights: Tensor


class Memory(nn.Module):
    """Slots (layers, query size, slots) that a layer's averaged query looks up by softmax attention.

    A query is cut into `num_memory_heads` parts that look up, read and write by themselves.
    """

    slots: Tensor

    def __init__(self, config: FSNetConfig, *, num_layers: int, size: int):
        super().__init__()
        self.config = config
        self.register_buffer("slots", torch.empty(num_layers, size, config.num_memory_slots))
        self.temperature_weight = self.temperature_bias = None
        if config.dynamic_temperature:
            self.temperature_weight = nn.Parameter(torch.empty(num_layers, size))
            self.temperature_bias = nn.Parameter(torch.empty(num_layers))

    def read(self, layers: Tensor, query: Tensor, average: Tensor) -> Reading:
        """Look up `average`, the running average of the queries, of which `query` is the newest, (asked, size) both.

        layers: (asked,), the numbers of the layers that ask.
        """
        config = self.config
        heads = _by_head(self.slots[layers], config)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.dynamic_temperature):
            asked = average.unflatten(1, (config.num_memory_heads, -1))
            scores = torch.einsum("lhd,lhds->lhs", asked, heads)
            attention = (scores / self._temperature(layers, query)).softmax(dim=2)
            weights, slots = attention.topk(config.num_retrieved, dim=2)
            if config.dynamic_temperature:
                weights = weights / weights.sum(dim=2, keepdim=True)
            factors = slots.to(weights.dtype) if config.memory == "published" else weights
            values = torch.einsum("lhdk,lhk->lhd", _chosen(heads, slots), factors)
        return Reading(values.flatten(1), slots, weights.detach())

    def _temperature(self, layers: Tensor, query: Tensor) -> Tensor | float:
        if self.temperature_weight is None or self.temperature_bias is None:
            return TEMPERATURE
        linear = (query * self.temperature_weight[layers]).sum(dim=1) + self.temperature_bias[layers]
        return (0.3 + 0.4 * linear.sigmoid())[:, None, None]

    @torch.no_grad()
    def write(self, layers: Tensor, reading: Reading, average: Tensor, asked: Tensor) -> None:
        """Let the slots that were read learn, in the layers that `asked` (boolean), and keep their norm bounded."""
        config = self.config
        values = reading.values.detach() if config.memory_write == "read" else average.detach()
        new = values.unflatten(1, (config.num_memory_heads, -1))[..., None] * reading.weights[:, :, None]
        before = self.slots[layers]
        heads = _by_head(before, config)
        mixed = (1 - WRITE_SHARE) * _chosen(heads, reading.slots) + WRITE_SHARE * new
        index = reading.slots[:, :, None].expand(-1, -1, heads.shape[2], -1)
        written = heads.scatter(3, index, mixed).flatten(1, 2)
        if config.memory_diversity:
            written = written - config.memory_diversity * likeness_gradient(written)
        self.slots[layers] = torch.where(asked[:, None, None], self._bounded(written), before)

    @torch.no_grad()
    def normalize(self) -> None:
        """Give the whole memory of each layer, or each slot, the norm 1 that new ones have."""
        norm = torch.linalg.vector_norm(self.slots, dim=self._dims, keepdim=True)
        self.slots.div_(norm.clamp(min=torch.finfo(norm.dtype).tiny))

    @property
    def _dims(self) -> tuple[int, ...]:
        """The axes over which norms are taken."""
        return (1, 2) if self.config.slot_normalization == "memory" else (1,)

    def _bounded(self, slots: Tensor) -> Tensor:
        return slots / torch.linalg.vector_norm(slots, dim=self._dims, keepdim=True).clamp(min=1.0)


def _chosen(heads: Tensor, slots: Tensor) -> Tensor:
    """(layers, heads, size / heads, k) of the slots (layers, heads, k)."""
    return heads.gather(3, slots[:, :, None].expand(-1, -1, heads.shape[2], -1))


def _by_head(slots: Tensor, config: FSNetConfig) -> Tensor:
    """Slots (layers, size, slots) as (layers, heads, size / heads, slots)."""
    return slots.unflatten(1, (config.num_memory_heads, -1))


def likeness(slots: Tensor) -> Tensor:
    """Return the mean squared cosine between different slots (layers, size, slots) of each layer, (layers,)."""
    unit = nn.functional.normalize(slots, dim=1)
    cosines = unit.mT @ unit
    count = slots.shape[2]
    return (cosines.square().sum(dim=(1, 2)) - count) / (count * (count - 1))


def likeness_gradient(slots: Tensor) -> Tensor:
    """Return the gradient of `likeness` with respect to each layer's slots, of their shape."""
    norm = torch.linalg.vector_norm(slots, dim=1, keepdim=True).clamp(min=1e-12)
    unit, count = slots / norm, slots.shape[2]
    cosines = unit.mT @ unit
    cosines.diagonal(dim1=1, dim2=2).zero_()
    toward = (unit @ cosines) * (4 / (count * (count - 1)))
    return (toward - unit * (unit * toward).sum(dim=1, keepdim=True)) / norm
