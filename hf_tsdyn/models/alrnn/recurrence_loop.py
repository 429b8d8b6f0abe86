"""The recurrence of AL-RNN step by step in torch: what the kernels are compared with, and what takes any tensor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ForcedRun(NamedTuple):
    """States after each step, (models, series, steps, units), and their observed units by themselves."""

    observed: Tensor
    states: Tensor


def rectify(states: Tensor, num_relu_units: int) -> Tensor:
    """Return phi(states): the last `num_relu_units` of the last axis rectified, the others as they are."""
    linear = states.shape[-1] - num_relu_units
    return torch.cat([states[..., :linear], states[..., linear:].relu()], dim=-1)


def _step(A: Tensor, W: Tensor, h: Tensor, state: Tensor, num_relu_units: int) -> Tensor:
    return A[:, None] * state + rectify(state, num_relu_units) @ W.mT + h[:, None]


def forced_run_loop(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, forcing: Tensor, weight: Tensor, *, num_relu_units: int
) -> ForcedRun:
    """Return what `forced_run` does, step by step in torch, with its automatic derivatives: the reference."""
    observed = forcing.shape[-1]
    weight = weight.expand_as(forcing)
    forcing = torch.where(weight == 0, 0, forcing)
    state, states = initial, []
    for step in range(forcing.shape[2]):
        seen = state[..., :observed]
        pulled = seen + weight[:, :, step] * (forcing[:, :, step] - seen)
        state = _step(A, W, h, torch.cat([pulled, state[..., observed:]], dim=-1), num_relu_units)
        states.append(state)
    stacked = torch.stack(states, dim=2)
    return ForcedRun(stacked[..., :observed], stacked)


def free_run_loop(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, num_steps: int, num_relu_units: int, num_units: int
) -> Tensor:
    outputs = initial.new_empty(*initial.shape[:2], num_steps, num_units)
    state = initial
    for step in range(num_steps):
        state = _step(A, W, h, state, num_relu_units)
        outputs[:, :, step] = state[..., :num_units]
    return outputs
