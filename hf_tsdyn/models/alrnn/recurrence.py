"""The recurrence of AL-RNN for many models at once: a plain loop, and the choice of the kernel that does the same.

With state z, forcing x and weight w, step t is

    y[n] = z[n] + w[t, n] (x[t, n] - z[n])   for the first N units, y = z for the others
    z'   = A y + W phi(y) + h                phi: the last P units rectified

(Brenner et al., NeurIPS 2024, arXiv:2410.14240). Shapes: models E, series B, steps T, units M, observed units N.
The kernels are custom operators of torch: gradients that nobody asks for stay unmade, and torch.compile takes them.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from hf_tsdyn.models.alrnn.recurrence_loop import ForcedRun, forced_run_loop, free_run_loop, rectify
from hf_tsdyn.torch_transforms import is_transformed

Backend = Literal["loop", "cpu", "triton"]

LANES, ROWS = 16, 4
"""Kernels store states as (models, steps, units, series), the last two padded to multiples of `ROWS` and `LANES`."""

__all__ = ["Backend", "ForcedRun", "forced_run", "forced_run_loop", "free_run", "rectify", "states_shape"]


def forced_run(
    A: Tensor,
    W: Tensor,
    h: Tensor,
    initial: Tensor,
    forcing: Tensor,
    weight: Tensor,
    *,
    num_relu_units: int,
    backend: Backend | None = None,
) -> ForcedRun:
    """Return the states after each step of a run that is pulled towards a series.

    Differentiable in `A`, `W`, `h` and `initial` through both outputs, once; for second derivatives take the loop.
    Forcing and weight count as constants; gradients pass a pulled unit with the share 1 - weight.

    Args:
        A: (E, M).
        W: (E, M, M).
        h: (E, M).
        initial: (E, B, M), states before the first step.
        forcing: (E, B, T, N), N at most M; of no account, even NaN, where the weight is 0.
        weight: broadcastable to `forcing`.
        num_relu_units: P, from 0 to M.
        backend: None chooses the fastest that takes these tensors; "cpu" and "triton" are compiled kernels for float32
            or float64 on the CPU and for float32 on CUDA, "loop" takes all.

    Raises:
        ValueError: on shapes or types that do not fit, and on a backend that cannot take them.
    """
    _check_parameters(A, W, h, initial, num_relu_units)
    _check_forcing(A, initial, forcing, weight)
    forcing, weight = forcing.detach(), weight.detach()
    backend = _choose(backend, A, W, h, initial, forcing, weight)
    if backend == "loop":
        return forced_run_loop(A, W, h, initial, forcing, weight, num_relu_units=num_relu_units)
    observed, states = _forced_run(A, W, h, initial, forcing, weight, num_relu_units, backend)
    return ForcedRun(observed, states.permute(0, 3, 1, 2)[:, : initial.shape[1], :, : A.shape[1]])


@torch.no_grad()
def free_run(
    A: Tensor,
    W: Tensor,
    h: Tensor,
    initial: Tensor,
    num_steps: int,
    *,
    num_relu_units: int,
    num_units: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the first `num_units` units (None: all) after each step of a run of its own, (E, B, num_steps, num_units).

    Without gradients. Numbers that overflow go on as inf and NaN. Arguments and errors are those of `forced_run`.
    """
    _check_parameters(A, W, h, initial, num_relu_units)
    num_units = A.shape[1] if num_units is None else num_units
    if not 0 <= num_units <= A.shape[1] or num_steps < 0:
        raise ValueError(
            f"num_units must be from 0 to {A.shape[1]} and num_steps at least 0, found {num_units} and {num_steps}."
        )
    backend = _choose(backend, A, W, h, initial)
    if backend == "loop":
        return free_run_loop(A, W, h, initial, num_steps, num_relu_units, num_units)
    return _free_run(A, W, h, initial, num_steps, num_relu_units, num_units, backend)


def _check_parameters(A: Tensor, W: Tensor, h: Tensor, initial: Tensor, num_relu_units: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in (("A", A), ("W", W), ("h", h), ("initial", initial))}
    num_models, num_units = A.shape if A.ndim == 2 else (-1, -1)
    wanted = {"A": (num_models, num_units), "W": (num_models, num_units, num_units), "h": (num_models, num_units)}
    fits = all(shapes[name] == shape for name, shape in wanted.items())
    if not fits or initial.ndim != 3 or (initial.shape[0], initial.shape[2]) != (num_models, num_units):
        raise ValueError(
            f"Shapes must be A (models, units), W (models, units, units), h (models, units) and initial "
            f"(models, series, units), found {shapes}; change those that do not fit."
        )
    if num_units == 0:
        raise ValueError("there must be at least one unit, found A of 0 units.")
    if not 0 <= num_relu_units <= num_units:
        raise ValueError(f"num_relu_units must be from 0 to the number of units, {num_units}, found {num_relu_units}.")
    kinds = {(tensor.dtype, tensor.device) for tensor in (A, W, h, initial)}
    if len(kinds) > 1 or not A.is_floating_point():
        raise ValueError(f"A, W, h and initial must be of one floating-point type on one device, found {kinds}.")


def _check_forcing(A: Tensor, initial: Tensor, forcing: Tensor, weight: Tensor) -> None:
    series = tuple(initial.shape[:2])
    if forcing.ndim != 4 or forcing.shape[:2] != series or not forcing.shape[2] or forcing.shape[3] > A.shape[1]:
        raise ValueError(
            f"forcing must be (models, series, steps, observed units): {(*series, '1 or more', f'<= {A.shape[1]}')}, "
            f"found {tuple(forcing.shape)}; change its shape."
        )
    pairs = zip(weight.shape[::-1], forcing.shape[::-1], strict=False)
    if weight.ndim > 4 or any(size not in (1, whole) for size, whole in pairs):
        raise ValueError(
            f"weight must be broadcastable to forcing, {tuple(forcing.shape)}, found {tuple(weight.shape)}; "
            "a weight for each step is (steps, 1)."
        )
    kinds = {(tensor.dtype, tensor.device) for tensor in (A, forcing, weight)}
    if len(kinds) > 1:
        raise ValueError(f"forcing and weight must be of A's type on its device, found {kinds}; convert them.")


def _choose(backend: Backend | None, *tensors: Tensor) -> Backend:
    if backend is not None and backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))} or None, found {backend!r}.")
    A = tensors[0]
    is_plain = all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors) and not is_transformed(tensors)
    takes_cpu = is_plain and A.device.type == "cpu" and A.dtype in (torch.float32, torch.float64)
    takes_triton = is_plain and A.dtype == torch.float32 and A.shape[1] <= _largest_triton_size(A.device)
    if backend is None:
        if takes_cpu and (torch.compiler.is_compiling() or _cpu_kernels_compile()):
            return "cpu"
        return "triton" if takes_triton and A.device.type == "cuda" and find_spec("triton") else "loop"
    if (backend == "cpu" and not takes_cpu) or (backend == "triton" and not (takes_triton and find_spec("triton"))):
        raise ValueError(
            "backend 'cpu' takes plain float32 or float64 tensors on the CPU, 'triton', where it is installed, plain "
            f"float32 tensors of at most {_largest_triton_size(A.device)} units, found backend={backend!r}, {A.dtype}, "
            f"{A.device}, {A.shape[1]} units; leave backend at None."
        )
    return backend


@cache
def _cpu_kernels_compile() -> bool:
    """Return whether numba makes the CPU kernels on this machine; if not, warn once with its reason."""
    try:
        from hf_tsdyn.models.alrnn import recurrence_cpu

        recurrence_cpu.check_compiles()
    except Exception as error:  # numba has many ways to fail, and the loop needs none of it
        warnings.warn(
            f"the compiled recurrence of AL-RNN cannot be used here, the loop in torch is, which takes a hundred times "
            f"as long: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


def _largest_triton_size(device: torch.device) -> int:
    """Return how many units the matrix may have that a Triton program holds in the memory of one multiprocessor."""
    if device.type != "cuda":
        return 128
    return 128 if torch.cuda.get_device_properties(device).shared_memory_per_block_optin > 2**17 else 64


def states_shape(initial: Tensor, num_steps: int) -> tuple[int, int, int, int]:
    """Return the shape of the states that a kernel stores."""
    num_models, num_series, num_units = initial.shape
    return num_models, num_steps, -(-num_units // ROWS) * ROWS, -(-num_series // LANES) * LANES


def _kernels(backend: str):
    if backend == "cpu":
        from hf_tsdyn.models.alrnn import recurrence_cpu as kernels
    else:
        from hf_tsdyn.models.alrnn import recurrence_triton as kernels
    return kernels


@torch.library.custom_op("hf_tsdyn::alrnn_forced_run", mutates_args=())
def _forced_run(
    A: Tensor,
    W: Tensor,
    h: Tensor,
    initial: Tensor,
    forcing: Tensor,
    weight: Tensor,
    num_relu_units: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _kernels(backend).forward(A, W, h, initial, forcing, weight, num_relu_units)


@_forced_run.register_fake
def _(A, W, h, initial, forcing, weight, num_relu_units, backend):
    return forcing.new_empty(forcing.shape), A.new_empty(states_shape(initial, forcing.shape[2]))


@torch.library.custom_op("hf_tsdyn::alrnn_forced_run_backward", mutates_args=())
def _forced_run_backward(
    A: Tensor,
    W: Tensor,
    initial: Tensor,
    forcing: Tensor,
    weight: Tensor,
    states: Tensor,
    grad_observed: Tensor | None,
    grad_states: Tensor | None,
    num_relu_units: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _kernels(backend).backward(
        A, W, initial, forcing, weight, num_relu_units, states, grad_observed, grad_states
    )


@_forced_run_backward.register_fake
def _(A, W, initial, forcing, weight, states, grad_observed, grad_states, num_relu_units, backend):
    return A.new_empty(A.shape), A.new_empty(W.shape), A.new_empty(A.shape), A.new_empty(initial.shape)


def _refuse(ctx, *gradients):
    raise NotImplementedError(
        "the kernels of AL-RNN must be differentiated once, found a second derivative; give backend='loop'."
    )


_forced_run_backward.register_autograd(_refuse)


def _keep(ctx, inputs, output) -> None:
    A, W, _, initial, forcing, weight, ctx.num_relu_units, ctx.backend = inputs
    ctx.save_for_backward(A, W, initial, forcing, weight, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_observed, grad_states):
    gradients = _forced_run_backward(*ctx.saved_tensors, grad_observed, grad_states, ctx.num_relu_units, ctx.backend)
    return *gradients, None, None, None, None


_forced_run.register_autograd(_differentiate, setup_context=_keep)


@torch.library.custom_op("hf_tsdyn::alrnn_free_run", mutates_args=())
def _free_run(
    A: Tensor,
    W: Tensor,
    h: Tensor,
    initial: Tensor,
    num_steps: int,
    num_relu_units: int,
    num_units: int,
    backend: str,
) -> Tensor:
    return _kernels(backend).free_run(A, W, h, initial, num_steps, num_relu_units, num_units)


@_free_run.register_fake
def _(A, W, h, initial, num_steps, num_relu_units, num_units, backend):
    return A.new_empty(*initial.shape[:2], num_steps, num_units)
