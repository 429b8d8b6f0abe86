"""Many GRUs at once: the recurrences of DynoNet's controller (one) and workers (one a channel).

With input x and state s, torch.nn.GRU's formulas hold in each group:

    r = sigmoid(W_ir x + b_ir + W_hr s + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz s + b_hz)
    n = tanh(W_in x + b_in + r (W_hn s + b_hn))
    s' = (1 - z) n + z s

Weights stack r, z and n along their second axis (Cho et al., 2014, arXiv:1406.1078, with the reset after the product).
Runs are one operator of torch with a backward pass of its own; second derivatives go through the plain loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...torch_transforms import is_transformed
from .recurrence_steps import (
    Gradients,
    Sizes,
    Steps,
    new_gates,
    new_operands,
    segment_length,
    sizes_of,
)

__all__ = ["grouped_gru", "grouped_gru_loop"]


def grouped_gru(
    inputs: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    initial: Tensor | None = None,
    *,
    last_only: bool = False,
) -> Tensor:
    """Return the states (groups, series, steps, units) after each step, or after the last alone.

    Differentiable in all tensors, any number of times; under torch.func and forward derivatives it is the plain loop.
    Half precision is computed in single precision.

    Args:
        inputs: (groups, series, steps, inputs).
        weight_ih: (groups, 3 units, inputs).
        weight_hh: (groups, 3 units, units).
        bias_ih: (groups, 3 units).
        bias_hh: (groups, 3 units).
        initial: (groups, series, units), states before the first step; None stands for 0.
        last_only: return (groups, series, 1, units), in a fraction of the memory.
    Returns: states in the type of `inputs`, laid out with the series last.
    Raises: ValueError on shapes or devices that do not fit, and on no steps.
    """
    if initial is None:
        initial = inputs.new_zeros(*inputs.shape[:2], weight_hh.shape[-1])
    tensors = (inputs, weight_ih, weight_hh, bias_ih, bias_hh, initial)
    _check(*tensors)
    if is_transformed(tensors):
        states = grouped_gru_loop(*tensors)
        return states[:, :, -1:] if last_only else states
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    is_kept = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    states, *_ = _run(*(tensor.to(dtype) for tensor in tensors), last_only, is_kept)
    return states.to(inputs.dtype)


def grouped_gru_loop(
    inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, initial: Tensor
) -> Tensor:
    """Return all states that `grouped_gru` does, step by step with automatic derivatives: the reference."""
    units = weight_hh.shape[2]
    series_last = inputs.permute(2, 0, 3, 1)  # (steps, groups, inputs, series)
    state, states = initial.mT, []
    for x in series_last.contiguous().unbind():
        from_inputs = torch.baddbmm(bias_ih[:, :, None], weight_ih, x)
        from_units = torch.baddbmm(bias_hh[:, :, None], weight_hh, state)
        both = (from_inputs[:, : 2 * units] + from_units[:, : 2 * units]).sigmoid()
        candidate = torch.addcmul(from_inputs[:, 2 * units :], both[:, :units], from_units[:, 2 * units :]).tanh()
        state = torch.lerp(candidate, state, both[:, units:])
        states.append(state)
    return torch.stack(states).permute(1, 3, 0, 2)


def _check(
    inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, initial: Tensor
) -> None:
    names = ("inputs", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "initial")
    tensors = (inputs, weight_ih, weight_hh, bias_ih, bias_hh, initial)
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(names, tensors, strict=True)}
    if inputs.ndim != 4 or not inputs.shape[2]:
        raise ValueError(
            f"inputs must be (groups, series, steps, inputs) of at least one step, found {shapes['inputs']}; "
            "change their shape."
        )
    groups, series, _, width = inputs.shape
    units = weight_hh.shape[-1] if weight_hh.ndim else 0
    wanted = (
        shapes["inputs"],
        (groups, 3 * units, width),
        (groups, 3 * units, units),
        (groups, 3 * units),
        (groups, 3 * units),
        (groups, series, units),
    )
    for name, shape in zip(names, wanted, strict=True):
        if shapes[name] != shape:
            raise ValueError(
                f"{name} must be {shape} beside inputs {shapes['inputs']} and weight_hh {shapes['weight_hh']}, found "
                f"{shapes[name]}; change its shape."
            )
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device, found {devices}; move them.")


def _states_of_steps(like: Tensor, sizes: Sizes, num_steps: int, width: int) -> Tensor:
    """(groups, series, steps, width), the series last in memory."""
    return like.new_empty(num_steps, sizes.groups, width, sizes.series).permute(1, 3, 0, 2)


@torch.library.custom_op("hf_tsdyn::grouped_gru", mutates_args=())
def _run(
    inputs: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    initial: Tensor,
    last_only: bool,
    is_kept: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return states, and for the way back the states before segments, or operands and gates of a single one."""
    sizes = sizes_of(inputs, weight_hh)
    length = segment_length(sizes, inputs.element_size())
    steps = Steps(sizes, weight_ih, weight_hh, bias_ih, bias_hh)
    operands = new_operands(inputs, sizes, length)
    gates = new_gates(inputs, sizes, length if is_kept and length == sizes.steps else 1)
    states = _states_of_steps(inputs, sizes, 1 if last_only else sizes.steps, sizes.units)
    before, state = [], initial.mT
    for first in range(0, sizes.steps, length):
        before.append(state)
        state = _run_segment(steps, inputs, first, state, operands, gates)
        ran = min(length, sizes.steps - first)
        if not last_only:
            states[:, :, first : first + ran] = operands[1 : ran + 1, :, -sizes.units :].permute(1, 3, 0, 2)
    if last_only:
        states[:, :, 0] = state.mT
    if not is_kept:
        return states, inputs.new_empty(0), inputs.new_empty(0), inputs.new_empty(0)
    if length == sizes.steps:
        return states, inputs.new_empty(0), operands, gates
    return states, torch.stack(before), inputs.new_empty(0), inputs.new_empty(0)


def _run_segment(steps: Steps, inputs: Tensor, first: int, state: Tensor, operands: Tensor, gates: Tensor) -> Tensor:
    """Run from the step `first` on until operands or inputs end, and return the state after it."""
    sizes = steps.sizes
    num_steps = min(len(operands) - 1, sizes.steps - first)
    operands[:num_steps, :, : sizes.inputs] = inputs[:, :, first : first + num_steps].permute(2, 0, 3, 1)
    operands[0, :, -sizes.units :] = state
    steps.run(operands, gates, num_steps)
    return operands[num_steps, :, -sizes.units :].clone()


@_run.register_fake
def _(inputs, weight_ih, weight_hh, bias_ih, bias_hh, initial, last_only, is_kept):
    sizes = sizes_of(inputs, weight_hh)
    length = segment_length(sizes, inputs.element_size())
    states = _states_of_steps(inputs, sizes, 1 if last_only else sizes.steps, sizes.units)
    nothing = inputs.new_empty(0)
    if not is_kept:
        return states, nothing, nothing.clone(), nothing.clone()
    if length == sizes.steps:
        return states, nothing, new_operands(inputs, sizes, length), new_gates(inputs, sizes, length)
    before = inputs.new_empty(-(-sizes.steps // length), sizes.groups, sizes.units, sizes.series)
    return states, before, nothing, nothing.clone()


@torch.library.custom_op("hf_tsdyn::grouped_gru_backward", mutates_args=())
def _run_backward(
    incoming: Tensor,
    inputs: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    before: Tensor,
    operands: Tensor,
    gates: Tensor,
    needs_inputs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of inputs, weights, biases and initial states, those of inputs only if they are needed."""
    sizes = sizes_of(inputs, weight_hh)
    length, is_kept = segment_length(sizes, inputs.element_size()), len(gates) > 0
    if not is_kept:
        steps = Steps(sizes, weight_ih, weight_hh, bias_ih, bias_hh)
        operands, gates = new_operands(inputs, sizes, length), new_gates(inputs, sizes, length)
    gradients = Gradients(sizes, weight_ih, weight_hh, inputs.new_zeros(sizes.groups, sizes.units, sizes.series))
    to_inputs = _states_of_steps(inputs, sizes, sizes.steps if needs_inputs else 0, sizes.inputs)
    to_states, at_inputs = incoming.permute(2, 0, 3, 1), to_inputs.permute(2, 0, 3, 1)
    earliest = sizes.steps - len(to_states)
    for segment in reversed(range(-(-sizes.steps // length))):
        first, last = segment * length, min((segment + 1) * length, sizes.steps)
        reached = to_states[max(first - earliest, 0) : max(last - earliest, 0)].contiguous()
        if not gradients.state.any() and not reached.any():
            at_inputs[first:last] = 0
            continue
        if not is_kept:
            _run_segment(steps, inputs, first, before[segment], operands, gates)
        gradients.go_back(operands, gates[: last - first], reached, at_inputs[first:last] if needs_inputs else None)
    return to_inputs, *gradients.weights(), gradients.state.mT.contiguous()


@_run_backward.register_fake
def _(incoming, inputs, weight_ih, weight_hh, bias_ih, bias_hh, before, operands, gates, needs_inputs):
    sizes = sizes_of(inputs, weight_hh)
    to_inputs = _states_of_steps(inputs, sizes, sizes.steps if needs_inputs else 0, sizes.inputs)
    weights = (each.new_empty(each.shape) for each in (weight_ih, weight_hh, bias_ih, bias_hh))
    return to_inputs, *weights, inputs.new_empty(sizes.groups, sizes.series, sizes.units)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.last_only, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, incoming, *_):
    tensors = ctx.saved_tensors
    if incoming is None:
        return (None,) * 8
    if torch.is_grad_enabled():
        return *_differentiate_loop(tensors[:6], incoming, ctx.last_only), None, None
    inputs, weight_ih, weight_hh, bias_ih, bias_hh, _, *kept = tensors
    needs_inputs = ctx.needs_input_grad[0]
    gradient, *others = _run_backward(incoming, inputs, weight_ih, weight_hh, bias_ih, bias_hh, *kept, needs_inputs)
    return gradient if needs_inputs else None, *others, None, None


def _differentiate_loop(tensors: tuple[Tensor, ...], incoming: Tensor, last_only: bool) -> tuple[Tensor | None, ...]:
    """Return gradients that can be differentiated again."""
    tensors = tuple(tensor.view_as(tensor) for tensor in tensors)  # one tensor may stand in two places
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    with torch.autocast(incoming.device.type, enabled=False):
        states = grouped_gru_loop(*tensors)
        states = states[:, :, -1:] if last_only else states
        gradients = iter(torch.autograd.grad(states, wanted, incoming, create_graph=True))
    return tuple(next(gradients) if tensor.requires_grad else None for tensor in tensors)


_run.register_autograd(_differentiate, setup_context=_keep)
