"""The recurrence of AL-RNN in Triton: one program per model and block of series holds W on the chip for all steps.

States are stored as (models, steps, rows, lanes), as by the CPU kernels. In the backward run every program sums the
gradients of its own block; torch adds the blocks in a fixed order, so that equal calls give equal bits.
"""

# Triton is no dependency, and its compiled functions take options beyond their parameters.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_tsdyn.models.alrnn.recurrence import states_shape

BLOCK = 16
"""Series of one program, the least that a product on the chip takes."""


@triton.jit
def _entered(states, weight, forcing, at_weight, at_forcing, is_pulled):
    """Return y of a step and its weights: the states with the observed units pulled."""
    share = tl.load(weight + at_weight, mask=is_pulled, other=0.0)
    towards = tl.load(forcing + at_forcing, mask=is_pulled & (share != 0), other=0.0)
    return tl.where(share != 0, states + share * (towards - states), states), share


@triton.jit
def _run_forward(
    A, W, h, initial, forcing, weight, states, observed, num_series, num_steps, num_channels, num_units, linear,
    forcing_0, forcing_1, forcing_2, forcing_3, weight_0, weight_1, weight_2, weight_3, rows, width,
    IS_FREE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    model = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, SIZE)[:, None]
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    series = tl.minimum(lane, num_series - 1)
    column = tl.arange(0, SIZE)[None, :]
    matrix = tl.load(
        W + model * num_units * num_units + unit * num_units + column,
        mask=(unit < num_units) & (column < num_units),
        other=0.0,
    )
    own = tl.load(A + model * num_units + unit, mask=unit < num_units, other=0.0)
    bias = tl.load(h + model * num_units + unit, mask=unit < num_units, other=0.0)
    state = tl.load(
        initial + (model * num_series + series) * num_units + unit,
        mask=(unit < num_units) & (lane < width),
        other=0.0,
    )
    for step in range(num_steps):
        if not IS_FREE:
            at_weight = model * weight_0 + series * weight_1 + step * weight_2 + unit * weight_3
            at_forcing = model * forcing_0 + series * forcing_1 + step * forcing_2 + unit * forcing_3
            is_pulled = (unit < num_channels) & (lane < width)
            state, _ = _entered(state, weight, forcing, at_weight, at_forcing, is_pulled)
        rectified = tl.where((unit >= linear) & (state < 0), 0.0, state)
        state = own * state + tl.dot(matrix, rectified, input_precision="ieee") + bias
        state = tl.where(unit < num_units, state, 0.0)  # rows of padding must not turn into NaN beside an overflow
        if not IS_FREE:
            place = states + ((model * num_steps + step) * rows + unit) * width + lane
            tl.store(place, state, mask=(unit < rows) & (lane < width))
        place = observed + ((model * num_series + lane) * num_steps + step) * num_channels + unit
        tl.store(place, state, mask=(unit < num_channels) & (lane < num_series))


@triton.jit
def _incoming(
    grad_observed, grad_states, model, step, unit, lane, num_series, num_steps, num_channels, num_units, rows, width,
    HAS_OBSERVED: tl.constexpr, HAS_STATES: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the gradient that comes into the states after a step from outside."""
    gradient = tl.zeros((SIZE, BLOCK), tl.float32)
    if HAS_OBSERVED:
        place = grad_observed + ((model * num_series + lane) * num_steps + step) * num_channels + unit
        gradient += tl.load(place, mask=(unit < num_channels) & (lane < num_series), other=0.0)
    if HAS_STATES:
        place = grad_states + ((model * num_steps + step) * rows + unit) * width + lane
        gradient += tl.load(place, mask=(unit < num_units) & (lane < num_series), other=0.0)
    return gradient


@triton.jit
def _write_part(part, sums, model, num_units, SIZE: tl.constexpr):
    """Write a program's sums over its series, one number a unit."""
    unit = tl.arange(0, SIZE)
    place = part + (model * tl.num_programs(1) + tl.program_id(1)) * num_units + unit
    tl.store(place, tl.sum(sums, axis=1), mask=unit < num_units)


@triton.jit
def _run_backward(
    A, W, initial, forcing, weight, states, grad_observed, grad_states, grad_A, grad_W, grad_h, grad_initial,
    num_series, num_steps, num_channels, num_units, linear, forcing_0, forcing_1, forcing_2, forcing_3, weight_0,
    weight_1, weight_2, weight_3, rows, width,
    HAS_OBSERVED: tl.constexpr, HAS_STATES: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    model = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, SIZE)[:, None]
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    series = tl.minimum(lane, num_series - 1)
    row = tl.arange(0, SIZE)[None, :]
    is_entry = (unit < num_units) & (row < num_units)
    transposed = tl.load(W + model * num_units * num_units + row * num_units + unit, mask=is_entry, other=0.0)
    own = tl.load(A + model * num_units + unit, mask=unit < num_units, other=0.0)
    gradient = tl.zeros((SIZE, BLOCK), tl.float32)
    sum_A = tl.zeros((SIZE, BLOCK), tl.float32)
    sum_h = tl.zeros((SIZE, BLOCK), tl.float32)
    sum_W = tl.zeros((SIZE, SIZE), tl.float32)
    is_unit = (unit < num_units) & (lane < width)
    is_pulled = (unit < num_channels) & (lane < width)
    for count in range(num_steps):
        step = num_steps - 1 - count
        gradient += _incoming(
            grad_observed, grad_states, model, step, unit, lane, num_series, num_steps, num_channels, num_units, rows,
            width, HAS_OBSERVED, HAS_STATES, SIZE, BLOCK,
        )  # fmt: skip
        if step > 0:
            before = tl.load(states + ((model * num_steps + step - 1) * rows + unit) * width + lane, is_unit, 0.0)
        else:
            before = tl.load(initial + (model * num_series + series) * num_units + unit, is_unit, 0.0)
        at_weight = model * weight_0 + series * weight_1 + step * weight_2 + unit * weight_3
        at_forcing = model * forcing_0 + series * forcing_1 + step * forcing_2 + unit * forcing_3
        entered, share = _entered(before, weight, forcing, at_weight, at_forcing, is_pulled)
        rectified = tl.where((unit >= linear) & (entered < 0), 0.0, entered)
        sum_A += gradient * entered
        sum_h += gradient
        sum_W += tl.dot(gradient, tl.trans(rectified), input_precision="ieee")
        through = tl.dot(transposed, gradient, input_precision="ieee")
        gradient = own * gradient + tl.where((unit < linear) | (entered > 0), through, 0.0)
        gradient -= share * gradient
    place = grad_initial + (model * num_series + lane) * num_units + unit
    tl.store(place, gradient, mask=(unit < num_units) & (lane < num_series))
    _write_part(grad_A, sum_A, model, num_units, SIZE)
    _write_part(grad_h, sum_h, model, num_units, SIZE)
    part = model * tl.num_programs(1) + tl.program_id(1)
    tl.store(grad_W + (part * num_units + unit) * num_units + row, sum_W, mask=is_entry)


def _layout(A: Tensor, initial: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the grid of programs and what they are compiled for."""
    size = max(16, triton.next_power_of_2(A.shape[1]))
    grid = (A.shape[0], triton.cdiv(initial.shape[1], BLOCK))
    return grid, {"SIZE": size, "BLOCK": BLOCK, "num_warps": max(4, size // 8), "enable_fp_fusion": True}


def forward(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, forcing: Tensor, weight: Tensor, num_relu_units: int
) -> tuple[Tensor, Tensor]:
    """Return the observed units, (models, series, steps, channels), and the states as they are stored."""
    states = A.new_empty(states_shape(initial, forcing.shape[2]))
    observed = A.new_empty(forcing.shape)
    weight = weight.expand_as(forcing)
    grid, options = _layout(A, initial)
    with torch.cuda.device_of(A):
        _run_forward[grid](
            A.contiguous(), W.contiguous(), h.contiguous(), initial.contiguous(), forcing, weight, states, observed,
            *forcing.shape[1:], A.shape[1], A.shape[1] - num_relu_units, *forcing.stride(), *weight.stride(),
            *states.shape[2:], IS_FREE=False, **options,
        )  # fmt: skip
    return observed, states


def backward(
    A: Tensor,
    W: Tensor,
    initial: Tensor,
    forcing: Tensor,
    weight: Tensor,
    num_relu_units: int,
    states: Tensor,
    grad_observed: Tensor | None,
    grad_states: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of A, W, h and the initial states; the incoming ones are those of `forward`'s results."""
    weight = weight.expand_as(forcing)
    grid, options = _layout(A, initial)
    parts_A, parts_h = A.new_empty(*grid, A.shape[1]), A.new_empty(*grid, A.shape[1])
    parts_W = A.new_empty(*grid, *W.shape[1:])
    grad_initial = A.new_empty(initial.shape)
    states = states.contiguous()
    incoming = [A if gradient is None else gradient.contiguous() for gradient in (grad_observed, grad_states)]
    with torch.cuda.device_of(A):
        _run_backward[grid](
            A.contiguous(), W.contiguous(), initial.contiguous(), forcing, weight, states, *incoming, parts_A, parts_W,
            parts_h, grad_initial, *forcing.shape[1:], A.shape[1], A.shape[1] - num_relu_units, *forcing.stride(),
            *weight.stride(), *states.shape[2:], HAS_OBSERVED=grad_observed is not None,
            HAS_STATES=grad_states is not None, **options,
        )  # fmt: skip
    return parts_A.sum(1), parts_W.sum(1), parts_h.sum(1), grad_initial


def free_run(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, num_steps: int, num_relu_units: int, num_units: int
) -> Tensor:
    """Return the first units after each step, (models, series, num_steps, num_units)."""
    outputs = A.new_empty(*initial.shape[:2], num_steps, num_units)
    grid, options = _layout(A, initial)
    with torch.cuda.device_of(A):
        _run_forward[grid](
            A.contiguous(), W.contiguous(), h.contiguous(), initial.contiguous(), A, A, A, outputs, *outputs.shape[1:],
            A.shape[1], A.shape[1] - num_relu_units, *[0] * 8, 0, grid[1] * BLOCK, IS_FREE=True, **options,
        )  # fmt: skip
    return outputs
