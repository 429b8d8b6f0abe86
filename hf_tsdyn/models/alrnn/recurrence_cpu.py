"""The recurrence of AL-RNN compiled for one CPU core: the series of a batch side by side in the lanes of a vector.

States are stored as (models, steps, rows, lanes): the units padded to a multiple of `ROWS`, the series to a multiple of
`LANES` with copies of the last one. A model and a block of `LANES` series form an item of work whose state stays in
cache for all steps; no model reads another, so it has the same bits whatever other models are in the call.

With K = W + diag(A) a step is z' = K phi(y) + A min(y, 0) + h, the second term for rectified units alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, types
from torch import Tensor

from hf_tsdyn.models.alrnn.vectors import (
    LANES,
    ROWS,
    above_zero,
    add,
    add_outer_tile,
    below_zero,
    clear,
    flush_subnormals,
    gather,
    largest_tile,
    load,
    multiply_add,
    multiply_tile,
    pointer,
    prefetch,
    pull,
    read,
    release,
    restore,
    scatter,
    shift,
    spread,
    store,
    total,
    transpose,
    where_positive,
    where_real,
    write,
)

_OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "nogil": True, "_nrt": False}
_compiled = njit(**_OPTIONS)
_inlined = njit(forceinline=True, **_OPTIONS)


AHEAD = 2
SLOTS = 12


class Grid(NamedTuple):
    """Where numbers of (models, series, steps, units) lie in memory, and how far apart."""

    place: Any
    strides: tuple[int, int, int, int]


class Problem(NamedTuple):
    """Sizes and places: addresses outside the compiled functions, pointers inside."""

    num_models: int
    num_series: int
    num_steps: int
    num_channels: int
    num_units: int
    num_relu_units: int
    tile: int
    """Rows that a product holds in registers."""
    rows: int
    width: int
    """Lanes of all series."""
    A: Any
    W: Any
    h: Any
    initial: Any
    forcing: Any
    weight: Any
    is_forced: Any
    """(steps,) 1 where any weight of the step is not 0."""
    states: Any
    observed: Any
    """(models, series, steps, num_channels)"""
    matrix: Any
    """(units, rows) K or its transpose."""
    base: Any
    """(rows, lanes) what a product is added to."""
    entering: Any
    """(2, rows, lanes) states that are not stored."""
    trail: Any
    """(LANES, channels, lanes) observed units, or their gradients, of `LANES` steps from a multiple of it on."""


class Gradients(NamedTuple):
    """Gradients that come in and go out, and memory for what is needed of one model."""

    observed: Any
    has_states: int
    states: Any
    A: Any
    W: Any
    h: Any
    initial: Any
    after: Any
    """(LANES, rows, lanes) gradient of the state after each of the latest steps."""
    inputs: Any
    """(LANES, rows, lanes) phi(y) of those steps."""
    W_sums: Any
    A_sums: Any
    h_sums: Any


@_compiled
def _multiply(tile, rows, base, inputs, inputs_stride, matrix, linear, rectified, outputs, outputs_stride):
    """outputs = base + matrix phi(inputs)"""
    for row in range(0, rows, tile):
        multiply_tile(
            min(tile, rows - row), shift(base, row * LANES), inputs, inputs_stride, shift(matrix, row), rows,
            linear, rectified, shift(outputs, row * outputs_stride), outputs_stride,
        )  # fmt: skip


@_compiled
def _add_outer(num_steps, rows, left, right, sums):
    """sums += left right', in tiles of ROWS by ROWS."""
    for row in range(0, rows, ROWS):
        for column in range(0, rows, ROWS):
            add_outer_tile(num_steps, shift(left, row * LANES), shift(right, column * LANES), rows * LANES, sums)
            sums = shift(sums, ROWS * ROWS * LANES)


@_compiled
def _set_matrix(p, model, transposed):
    M = p.num_units
    for row in range(M):
        for column in range(M):
            at = column * M + row if transposed else row * M + column
            value = read(p.W, model * M * M + at)
            write(p.matrix, row * p.rows + column, value + read(p.A, model * M + row) if row == column else value)


@_compiled
def _set_bias(p, model):
    for unit in range(p.num_units):
        store(p.base, unit * LANES, spread(read(p.h, model * p.num_units + unit)))


@_inlined
def _across(grid, model, first, step, unit, last):
    """Return one number of each series of a block; lanes past `last` repeat that one."""
    a, b, c, d = grid.strides
    return gather(grid.place, model * a + first * b + step * c + unit * d, b, last)


@_inlined
def _last_lane(p, first):
    return min(LANES, p.num_series - first) - 1


@_compiled
def _enter(p, model, first, step, states, stride, inputs):
    """Write y of one step: the state before it, or the first one, with the observed units pulled."""
    last = _last_lane(p, first)
    if step == 0:
        for unit in range(p.num_units):
            store(inputs, unit * LANES, _across(p.initial, model, first, 0, unit, last))
    else:
        for unit in range(p.num_units):
            store(inputs, unit * LANES, load(states, unit * stride))
    if read(p.is_forced, step) != 0:
        for channel in range(p.num_channels):
            towards = _across(p.forcing, model, first, step, channel, last)
            share = _across(p.weight, model, first, step, channel, last)
            store(inputs, channel * LANES, pull(load(inputs, channel * LANES), towards, share))


@_inlined
def _advance(p, model, inputs, inputs_stride, outputs, outputs_stride):
    """Write the state after a step that is entered with `inputs`."""
    linear = p.num_units - p.num_relu_units
    for unit in range(linear, p.num_units):
        at = model * p.num_units + unit
        bias = multiply_add(
            spread(read(p.A, at)), below_zero(load(inputs, unit * inputs_stride)), spread(read(p.h, at))
        )
        store(p.base, unit * LANES, bias)
    _multiply(
        p.tile, p.rows, p.base, inputs, inputs_stride, p.matrix, linear, p.num_relu_units, outputs, outputs_stride
    )


@_compiled
def _write_trail(p, model, first, step):
    """Write the observed units of the steps up to `step` that are in the trail."""
    count = (step % LANES + 1) * p.num_channels
    series = p.num_steps * p.num_channels
    place = shift(p.observed, (model * p.num_series + first) * series + (step + 1) * p.num_channels - count)
    last, whole = _last_lane(p, first), count // LANES * LANES
    for row in range(0, whole, LANES):
        transpose(p.trail, row * LANES, LANES, LANES - 1, place, row, series, last)
    for row in range(whole, count):
        scatter(p.trail, row * LANES, place, row, series, last)


@_compiled
def _read_trail(p, observed, model, first, step):
    """Read the gradients of observed units of the `LANES` steps, or what is left of them, that `step` is one of."""
    step -= step % LANES
    count = min(LANES, p.num_steps - step) * p.num_channels
    a, b, c, d = observed.strides
    last, whole = _last_lane(p, first), count // LANES * LANES if d == 1 and c == p.num_channels else 0
    place = shift(observed.place, model * a + first * b + step * c)
    for row in range(0, whole, LANES):
        transpose(place, row, b, last, p.trail, row * LANES, LANES, LANES - 1)
    for row in range(whole, count):
        at = row // p.num_channels * c + row % p.num_channels * d
        store(p.trail, row * LANES, gather(place, at, b, last))


def _forward(problem, number):
    control = flush_subnormals()
    p = _located(problem, number)
    for model in range(p.num_models):
        _set_matrix(p, model, True)
        _set_bias(p, model)
        for first in range(0, p.num_series, LANES):
            _forward_block(p, model, first)
    restore(control)


@_compiled
def _forward_block(p, model, first):
    block = p.rows * p.width
    states = shift(p.states, model * p.num_steps * block + first)
    for step in range(p.num_steps):
        inputs, stride = shift(states, (step - 1) * block), p.width
        if step == 0 or read(p.is_forced, step) != 0:
            _enter(p, model, first, step, inputs, stride, p.entering)
            inputs, stride = p.entering, LANES
        outputs = shift(states, step * block)
        _advance(p, model, inputs, stride, outputs, p.width)
        for channel in range(p.num_channels):
            value = load(outputs, channel * p.width)
            store(p.trail, (step % LANES * p.num_channels + channel) * LANES, value)
        if step % LANES == LANES - 1 or step == p.num_steps - 1:
            _write_trail(p, model, first, step)


def _free_run(problem, number):
    control = flush_subnormals()
    p = _located(problem, number)
    for model in range(p.num_models):
        _set_matrix(p, model, True)
        _set_bias(p, model)
        for first in range(0, p.num_series, LANES):
            _free_run_block(p, model, first)
    restore(control)


@_compiled
def _free_run_block(p, model, first):
    here, there = p.entering, shift(p.entering, p.rows * LANES)
    _enter(p, model, first, 0, here, LANES, here)
    for step in range(p.num_steps):
        _advance(p, model, here, LANES, there, LANES)
        here, there = there, here
        for channel in range(p.num_channels):
            store(p.trail, (step % LANES * p.num_channels + channel) * LANES, load(here, channel * LANES))
        if step % LANES == LANES - 1 or step == p.num_steps - 1:
            _write_trail(p, model, first, step)


@_compiled
def _set_incoming(p, g, model, first, step):
    """Set the base to the gradient that comes into the states after a step from outside."""
    if step % LANES == LANES - 1 or step == p.num_steps - 1:
        _read_trail(p, g.observed, model, first, step)
    last = _last_lane(p, first)
    if g.has_states != 0:
        states = shift(g.states, (model * p.num_steps + step) * p.rows * p.width + first)
        for row in range(p.rows):
            store(p.base, row * LANES, load(states, row * p.width))
    else:
        for channel in range(p.num_channels):
            clear(p.base, channel * LANES)
    for channel in range(p.num_channels):
        value = where_real(load(p.trail, (step % LANES * p.num_channels + channel) * LANES), last)
        store(p.base, channel * LANES, add(load(p.base, channel * LANES), value))


@_compiled
def _clear(place, rows):
    for row in range(rows):
        clear(place, row * LANES)


@_compiled
def _rectify(p, A_sums, after, inputs):
    """Turn y of the rectified units into phi(y), after adding to the gradient of A."""
    for unit in range(p.num_units - p.num_relu_units, p.num_units):
        at = unit * LANES
        value = load(inputs, at)
        store(A_sums, at, multiply_add(load(after, at), below_zero(value), load(A_sums, at)))
        store(inputs, at, above_zero(value))


@_compiled
def _add_rows(num_steps, rows, after, sums):
    for row in range(rows):
        value = load(sums, row * LANES)
        for step in range(num_steps):
            value = add(value, load(after, (step * rows + row) * LANES))
        store(sums, row * LANES, value)


@_inlined
def _retreat(p, g, model, first, step, inputs, after, before):
    """Write the gradient of the state before a step, from that of the state after it."""
    is_forced = read(p.is_forced, step) != 0
    if step > 0 and not is_forced:
        _set_incoming(p, g, model, first, step - 1)
    else:
        _clear(p.base, p.rows)
    _multiply(p.tile, p.rows, p.base, after, LANES, p.matrix, p.num_units, 0, before, LANES)
    for unit in range(p.num_units - p.num_relu_units, p.num_units):
        at = unit * LANES
        A = spread(read(p.A, model * p.num_units + unit))
        resting = multiply_add(A, load(after, at), load(p.base, at))
        store(before, at, where_positive(load(inputs, at), load(before, at), resting))
    if is_forced:
        _release(p, g, model, first, step, before)


@_compiled
def _release(p, g, model, first, step, before):
    """Cut the gradient through pulled units, then add what comes in from outside."""
    for channel in range(p.num_channels):
        share = _across(p.weight, model, first, step, channel, _last_lane(p, first))
        store(before, channel * LANES, release(load(before, channel * LANES), share))
    if step > 0:
        _set_incoming(p, g, model, first, step - 1)
        for row in range(p.rows):
            store(before, row * LANES, add(load(before, row * LANES), load(p.base, row * LANES)))


@_compiled
def _backward_block(p, g, model, first):
    size, block = p.rows * LANES, p.rows * p.width
    _clear(p.base, p.rows)
    _set_incoming(p, g, model, first, p.num_steps - 1)
    for row in range(p.rows):
        store(g.after, row * LANES, load(p.base, row * LANES))
    slot = 0
    for step in range(p.num_steps - 1, -1, -1):
        states = shift(p.states, (model * p.num_steps + step - 1) * block + first)
        after, inputs = shift(g.after, slot * size), shift(g.inputs, slot * size)
        for row in range(p.rows):
            prefetch(states, row * p.width - AHEAD * block)
        _enter(p, model, first, step, states, p.width, inputs)
        _rectify(p, g.A_sums, after, inputs)
        slot += 1
        if slot == SLOTS or step == 0:
            _add_outer(slot, p.rows, g.after, g.inputs, g.W_sums)
            _add_rows(slot, p.rows, g.after, g.h_sums)
        slot = 0 if slot == SLOTS else slot
        _retreat(p, g, model, first, step, inputs, after, shift(g.after, slot * size))
    place = shift(g.initial, (model * p.num_series + first) * p.num_units)
    for unit in range(p.num_units):
        scatter(g.after, slot * size + unit * LANES, place, unit, p.num_units, _last_lane(p, first))


@_compiled
def _write_gradients(p, g, model):
    M, tiles = p.num_units, p.rows // ROWS
    for row in range(M):
        for column in range(M):
            tile = row // ROWS * tiles + column // ROWS
            at = tile * ROWS * ROWS + row % ROWS * ROWS + column % ROWS
            write(g.W, (model * M + row) * M + column, total(load(g.W_sums, at * LANES)))
        own = read(g.W, (model * M + row) * M + row)
        write(g.A, model * M + row, own + total(load(g.A_sums, row * LANES)))
        write(g.h, model * M + row, total(load(g.h_sums, row * LANES)))


def _backward(problem, gradients, number):
    control = flush_subnormals()
    p, g = _located(problem, number), _located_gradients(gradients, number)
    for model in range(p.num_models - 1, -1, -1):  # what the forward run wrote last may still be in cache
        _set_matrix(p, model, False)
        _clear(g.W_sums, p.rows * p.rows)
        _clear(g.A_sums, p.rows)
        _clear(g.h_sums, p.rows)
        for first in range(0, p.num_series, LANES):
            _backward_block(p, g, model, first)
        _write_gradients(p, g, model)
    restore(control)


@_compiled
def _located(p, number):
    """Return the problem with pointers instead of addresses."""
    return Problem(
        p.num_models, p.num_series, p.num_steps, p.num_channels, p.num_units, p.num_relu_units, p.tile, p.rows, p.width,
        pointer(p.A, number), pointer(p.W, number), pointer(p.h, number),
        Grid(pointer(p.initial.place, number), p.initial.strides),
        Grid(pointer(p.forcing.place, number), p.forcing.strides),
        Grid(pointer(p.weight.place, number), p.weight.strides),
        pointer(p.is_forced, np.uint8(0)), pointer(p.states, number), pointer(p.observed, number),
        pointer(p.matrix, number), pointer(p.base, number), pointer(p.entering, number), pointer(p.trail, number),
    )  # fmt: skip


@_compiled
def _located_gradients(g, number):
    return Gradients(
        Grid(pointer(g.observed.place, number), g.observed.strides), g.has_states, pointer(g.states, number),
        pointer(g.A, number), pointer(g.W, number), pointer(g.h, number), pointer(g.initial, number),
        pointer(g.after, number), pointer(g.inputs, number), pointer(g.W_sums, number), pointer(g.A_sums, number),
        pointer(g.h_sums, number),
    )  # fmt: skip


@cache
def _kernel(function: Callable, dtype: torch.dtype) -> Callable:
    """Return a function compiled for numbers of one type, from numba's disk cache where it has it."""
    whole = types.int64
    number = types.float32 if dtype == torch.float32 else types.float64
    grid = types.NamedTuple([whole, types.UniTuple(whole, 4)], Grid)
    grids = {"initial", "forcing", "weight"}
    problem = types.NamedTuple([grid if field in grids else whole for field in Problem._fields], Problem)
    gradients = types.NamedTuple([grid, *[whole] * (len(Gradients._fields) - 1)], Gradients)
    arguments = (problem, gradients, number) if function is _backward else (problem, number)
    return njit(types.void(*arguments), cache=True, **_OPTIONS)(function)


def _padded(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _grid(numbers: Tensor) -> Grid:
    return Grid(numbers.data_ptr(), numbers.stride())


def _memory(like: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return zeros and the addresses of pieces of so many numbers, each a multiple of `LANES`, in them."""
    memory = like.new_zeros(sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    return memory, [memory.data_ptr() + int(start) * memory.element_size() for start in starts]


def _problem(A, W, h, initial, forcing, weight, num_relu_units, states, observed):
    num_models, num_series, num_steps, num_channels = forcing.shape
    num_units = A.shape[1]
    rows, largest = _padded(num_units, ROWS), largest_tile(torch.finfo(A.dtype).bits)
    is_forced = weight[(None,) * (4 - weight.ndim)].ne(0).any(3).any(1).any(0).expand(num_steps).contiguous()
    A, W, h = (x.contiguous() for x in (A, W, h))
    memory, places = _memory(
        A, [rows * rows, rows * LANES, 2 * rows * LANES, LANES * num_channels * LANES]
    )
    tile = _padded(-(-rows // -(-rows // largest)), ROWS)
    problem = Problem(
        num_models, num_series, num_steps, num_channels, num_units, num_relu_units, tile, rows,
        _padded(num_series, LANES), *(x.data_ptr() for x in (A, W, h)),
        *(_grid(x) for x in (initial[:, :, None], forcing, weight.expand_as(forcing))),
        is_forced.data_ptr(), states.data_ptr(), observed.data_ptr(), *places
    )  # fmt: skip
    return problem, (memory, A, W, h, is_forced)


def forward(A, W, h, initial, forcing, weight, num_relu_units):
    num_models, num_series, num_steps, _ = forcing.shape
    states = A.new_empty(num_models, num_steps, _padded(A.shape[1], ROWS), _padded(num_series, LANES))
    observed = A.new_empty(forcing.shape)
    problem, _alive = _problem(A, W, h, initial, forcing, weight, num_relu_units, states, observed)
    _kernel(_forward, A.dtype)(problem, 0.0)
    return observed, states


def backward(A, W, initial, forcing, weight, num_relu_units, states, grad_observed, grad_states, chunk=0):
    outgoing = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (A, W, A, initial)]
    problem, _alive = _problem(A, W, A, initial, forcing, weight, num_relu_units, states, states)
    grad_observed = A.new_zeros(1).expand(forcing.shape) if grad_observed is None else grad_observed
    grad_states = None if grad_states is None else grad_states.contiguous()
    size = problem.rows * LANES
    memory, places = _memory(A, [SLOTS * size, SLOTS * size, problem.rows * size, size, size])
    gradients = Gradients(
        _grid(grad_observed), int(grad_states is not None), 0 if grad_states is None else grad_states.data_ptr(),
        *(x.data_ptr() for x in outgoing), *places
    )  # fmt: skip
    _kernel(_backward, A.dtype)(problem, gradients, 0.0)
    return outgoing


def free_run(A, W, h, initial, num_steps, num_relu_units, num_units):
    outputs = A.new_empty(*initial.shape[:2], num_steps, num_units)
    none = A.new_zeros(1).expand(outputs.shape)
    problem, _alive = _problem(A, W, h, initial, none, none[:1, :1, :1, :1], num_relu_units, outputs, outputs)
    _kernel(_free_run, A.dtype)(problem, 0.0)
    return outputs
