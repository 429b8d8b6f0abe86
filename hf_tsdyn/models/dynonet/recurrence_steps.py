"""The steps of grouped GRUs, forwards and backwards, in buffers that stay in cache, without automatic derivatives.

The series of a batch come last, so that every gate of a step is one block of memory. A step reads a row of `operands`,
(groups, inputs + 1 + units, series): its inputs, ones for the biases, the state before it. It leaves a row of `gates`,
(groups, 4 units, series): the units' share of the candidate before it is reset, reset r, update z, candidate n.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BUFFER_BYTES = 2**24
"""Of operands and gates that are held at once; longer runs are cut into segments that run twice for a gradient.

A second run costs less than fresh memory does.
"""

NEGLIGIBLE = 2.0**26
"""Gradients of states below so many of the smallest normal number count as 0; what subnormal numbers cost is spared."""


class Sizes(NamedTuple):
    """Of a call; units are those of one group."""

    groups: int
    series: int
    steps: int
    inputs: int
    units: int

    @property
    def rows(self) -> int:
        return self.inputs + 1 + self.units


def sizes_of(inputs: Tensor, weight_hh: Tensor) -> Sizes:
    groups, series, steps, width = inputs.shape
    return Sizes(groups, series, steps, width, weight_hh.shape[2])


def segment_length(sizes: Sizes, itemsize: int) -> int:
    """Return how many steps a segment has."""
    bytes_of_step = sizes.groups * sizes.series * (sizes.rows + 4 * sizes.units) * itemsize
    return max(1, min(sizes.steps, BUFFER_BYTES // max(1, bytes_of_step)))


def new_operands(like: Tensor, sizes: Sizes, num_steps: int) -> Tensor:
    """Return operands of so many steps and the state after them, ones in place."""
    operands = like.new_empty(num_steps + 1, sizes.groups, sizes.rows, sizes.series)
    operands[:, :, sizes.inputs] = 1
    return operands


def new_gates(like: Tensor, sizes: Sizes, num_steps: int) -> Tensor:
    return like.new_empty(num_steps, sizes.groups, 4 * sizes.units, sizes.series)


class Steps:
    """The weights of a call, laid out for steps forwards."""

    def __init__(self, sizes: Sizes, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor):
        self.sizes, both = sizes, 2 * sizes.units
        bias = (bias_ih + bias_hh)[:, :both, None]
        self.reset_update = torch.cat([weight_ih[:, :both], bias, weight_hh[:, :both]], dim=2)
        self.candidate_inputs = torch.cat([weight_ih[:, both:], bias_ih[:, both:, None]], dim=2)
        self.candidate_units = torch.cat([bias_hh[:, both:, None], weight_hh[:, both:]], dim=2)

    def run(self, operands: Tensor, gates: Tensor, num_steps: int) -> None:
        """Fill in the states after each step; of gates, if they are fewer than steps, all use the first."""
        first, units = self.sizes.inputs, self.sizes.units
        from_inputs, from_units = operands[:, :, : first + 1].unbind(), operands[:, :, first:].unbind()
        states, whole = operands[:, :, first + 1 :].unbind(), operands.unbind()
        hidden, resets, updates, candidates = (block.unbind() for block in gates.split(units, dim=2))
        both = gates[:, :, units : 3 * units].unbind()
        for step in range(num_steps):
            at = step if len(both) > 1 else 0
            torch.bmm(self.candidate_units, from_units[step], out=hidden[at])
            torch.bmm(self.reset_update, whole[step], out=both[at])
            torch.bmm(self.candidate_inputs, from_inputs[step], out=candidates[at])
            both[at].sigmoid_()
            candidates[at].addcmul_(resets[at], hidden[at]).tanh_()
            torch.lerp(candidates[at], states[step], updates[at], out=states[step + 1])


class Gradients:
    """The gradients of a call while its steps are gone through backwards."""

    def __init__(self, sizes: Sizes, weight_ih: Tensor, weight_hh: Tensor, state: Tensor):
        self.sizes, units = sizes, sizes.units
        self.state = state
        """(groups, units, series), of the state before the step that was last gone through."""
        self.to_units = weight_hh.roll(units, dims=1).mT.contiguous()
        self.to_inputs = weight_ih.mT.contiguous()
        self.weights_inputs = weight_ih.new_zeros(sizes.groups, sizes.inputs + 1, 3 * units)
        self.weights_units = weight_ih.new_zeros(sizes.groups, 1 + units, 3 * units)
        self.negligible = torch.finfo(state.dtype).tiny * NEGLIGIBLE

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of weight_ih, weight_hh, bias_ih and bias_hh."""
        inputs, units = self.weights_inputs, self.weights_units.roll(-self.sizes.units, dims=2)
        return inputs[:, :-1].mT.contiguous(), units[:, 1:].mT.contiguous(), inputs[:, -1].clone(), units[:, 0].clone()

    def go_back(self, operands: Tensor, gates: Tensor, incoming: Tensor, inputs: Tensor | None) -> None:
        """Add what the steps of `gates` pass on, last step first.

        incoming: (steps, groups, units, series), what reaches the states after steps from outside; of fewer steps, the
        last ones. inputs: (steps, groups, inputs, series), where the gradients of inputs go.
        """
        num_steps, units, first = len(gates), self.sizes.units, self.sizes.inputs
        state, difference = self.state, torch.empty_like(self.state)
        passed = gates.new_empty(gates.shape[1:])
        to_hidden, to_reset, to_update, to_candidate = passed.split(units, dim=1)
        through_units, through_inputs = passed[:, : 3 * units], passed[:, units:]
        from_inputs, from_units = operands[:, :, : first + 1].unbind(), operands[:, :, first:].unbind()
        states = operands[:, :, first + 1 :].unbind()
        blocks = zip(*(block.unbind() for block in gates.split(units, dim=2)), strict=True)
        sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        for step, (hidden, reset, update, candidate) in reversed(list(enumerate(blocks))):
            at = step - num_steps + len(incoming)
            if at >= 0:
                state += incoming[at]
            torch.sub(states[step], candidate, out=difference).mul_(state)
            sigmoid_backward(difference, update, grad_input=to_update)
            torch.addcmul(state, state, update, value=-1, out=difference)
            tanh_backward(difference, candidate, grad_input=to_candidate)
            torch.mul(to_candidate, hidden, out=difference)
            sigmoid_backward(difference, reset, grad_input=to_reset)
            torch.mul(to_candidate, reset, out=to_hidden)
            state.mul_(update).baddbmm_(self.to_units, through_units)
            torch.hardshrink(state, self.negligible, out=state)
            self.weights_units.baddbmm_(from_units[step], through_units.mT)
            self.weights_inputs.baddbmm_(from_inputs[step], through_inputs.mT)
            if inputs is not None:
                torch.bmm(self.to_inputs, through_inputs, out=inputs[step])
