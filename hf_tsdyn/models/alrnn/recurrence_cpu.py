"""The recurrence of AL-RNN compiled for one CPU core: what torch hands over, and numba's machine code for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import llvmlite
import torch
from numba import njit, types
from torch import Tensor

from hf_tsdyn.models.alrnn.products import REGISTER_BITS, largest_tile
from hf_tsdyn.models.alrnn.recurrence import LANES, ROWS, states_shape
from hf_tsdyn.models.alrnn.recurrence_backward import SLOTS, Gradients, run_backward
from hf_tsdyn.models.alrnn.recurrence_forward import OPTIONS, Grid, Run, run_forward


def forward(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, forcing: Tensor, weight: Tensor, num_relu_units: int
) -> tuple[Tensor, Tensor]:
    """Return the observed units, (models, series, steps, channels), and the states as they are stored."""
    states = A.new_empty(states_shape(initial, forcing.shape[2]))
    observed = A.new_empty(forcing.shape)
    run, _alive = _run(A, W, h, initial, forcing, weight.expand_as(forcing), num_relu_units, states, observed)
    _kernel("forward", A.dtype)(run, 0.0, False)
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
    grad_observed = A.new_zeros(1).expand(forcing.shape) if grad_observed is None else grad_observed
    grad_states = None if grad_states is None else grad_states.contiguous()
    states = states.contiguous()  # whoever kept them may have turned them round
    outgoing = A.new_empty(A.shape), A.new_empty(W.shape), A.new_empty(A.shape), A.new_empty(initial.shape)
    run, _alive = _run(A, W, A, initial, forcing, weight.expand_as(forcing), num_relu_units, states, grad_observed)
    size = run.rows * LANES
    _memory, places = _carve(A, (SLOTS * size, SLOTS * size, run.rows * size, size, size))
    gradients = Gradients(
        _grid(grad_observed),
        0 if grad_states is None else grad_states.data_ptr(),
        int(grad_states is not None),
        *(gradient.data_ptr() for gradient in outgoing),
        *places,
    )
    _kernel("backward", A.dtype)(run, gradients, 0.0)
    return outgoing


def free_run(
    A: Tensor, W: Tensor, h: Tensor, initial: Tensor, num_steps: int, num_relu_units: int, num_units: int
) -> Tensor:
    """Return the first units after each step, (models, series, num_steps, num_units)."""
    outputs = A.new_empty(*initial.shape[:2], num_steps, num_units)
    never = A.new_zeros(1).expand(outputs.shape)
    run, _alive = _run(A, W, h, initial, never, never, num_relu_units, outputs, outputs)
    _kernel("forward", A.dtype)(run, 0.0, True)
    return outputs


def _padded(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _grid(numbers: Tensor) -> Grid:
    return Grid(numbers.data_ptr(), numbers.stride())


def _carve(like: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return zeros, and the addresses of pieces of so many of them; each begins a vector."""
    starts = list(accumulate((_padded(size, LANES) for size in sizes), initial=0))
    memory = like.new_zeros(starts.pop())
    first, itemsize = memory.data_ptr(), memory.element_size()
    return memory, [first + start * itemsize for start in starts]


def _run(
    A: Tensor,
    W: Tensor,
    h: Tensor,
    initial: Tensor,
    forcing: Tensor,
    weight: Tensor,
    num_relu_units: int,
    states: Tensor,
    observed: Tensor,
) -> tuple[Run, tuple[Tensor, ...]]:
    """Return what the kernels take, and the tensors that must outlive the call."""
    num_models, num_series, num_steps, num_channels = forcing.shape
    num_units = A.shape[1]
    rows, largest = _padded(num_units, ROWS), largest_tile(8 * A.element_size())
    A, W, h, initial = A.contiguous(), W.contiguous(), h.contiguous(), initial.contiguous()
    sizes = (num_units * rows, rows * LANES, 2 * rows * LANES, LANES * num_channels * LANES, max(num_steps, 1))
    memory, places = _carve(A, sizes)
    run = Run(
        num_models,
        num_series,
        num_steps,
        num_channels,
        num_units,
        num_relu_units,
        rows,
        _padded(num_series, LANES),
        _padded(-(-rows // -(-rows // largest)), ROWS),  # tiles of nearly equal size
        A.data_ptr(),
        W.data_ptr(),
        h.data_ptr(),
        Grid(initial.data_ptr(), (num_series * num_units, num_units, 0, 1)),
        _grid(forcing),
        _grid(weight),
        states.data_ptr(),
        observed.data_ptr(),
        *places,
    )
    return run, (A, W, h, initial, memory)


def _entries(sources: int) -> dict[str, Callable]:
    """Return the functions to compile; numba's disk cache watches this file and what they close over."""

    def forward(run, number, is_free):
        if sources:
            run_forward(run, number, is_free)

    def backward(run, gradients, number):
        if sources:
            run_backward(run, gradients, number)

    return {"forward": forward, "backward": backward}


@cache
def _kernel(name: Literal["forward", "backward"], dtype: torch.dtype) -> Callable:
    """Return machine code for numbers of one type, from numba's disk cache where it has it."""
    folder = Path(__file__).parent
    files = ("recurrence.py", "vectors.py", "products.py", "recurrence_forward.py", "recurrence_backward.py")
    parts = [*((folder / file).read_bytes() for file in files), repr((REGISTER_BITS, llvmlite.__version__)).encode()]
    sources = hashlib.sha256(b"".join(parts)).digest()
    whole, number = types.int64, types.float32 if dtype == torch.float32 else types.float64
    grid = types.NamedTuple([whole, types.UniTuple(whole, 4)], Grid)
    run = types.NamedTuple([grid if x in ("initial", "forcing", "weight") else whole for x in Run._fields], Run)
    gradients = types.NamedTuple([grid if x == "observed" else whole for x in Gradients._fields], Gradients)
    arguments = (run, gradients, number) if name == "backward" else (run, number, types.boolean)
    function = _entries(int.from_bytes(sources[:7], "big"))[name]
    try:
        return njit(types.void(*arguments), cache=True, **OPTIONS)(function)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        return njit(types.void(*arguments), **OPTIONS)(function)  # no folder to keep it in


def check_compiles() -> None:
    """Compile the kernels of single precision; whatever numba raises if it cannot."""
    _kernel("forward", torch.float32)
    _kernel("backward", torch.float32)
