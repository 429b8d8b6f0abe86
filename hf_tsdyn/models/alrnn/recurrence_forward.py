"""The compiled steps of the AL-RNN recurrence for one CPU core.

The series of a batch stand side by side in the lanes of a vector. States are stored as (models, steps, rows, lanes):
the units padded to a multiple of `ROWS`, the series to a multiple of `LANES` with copies of the last one. A model and a
block of `LANES` series are an item of work whose state stays in cache for all steps; no model reads another, so it has
the same bits whatever other models are in the call.

With K = W + diag(A) a step is z' = K phi(y) + A min(y, 0) + h, the second term for rectified units alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from hf_tsdyn.models.alrnn.products import multiply_tile
from hf_tsdyn.models.alrnn.recurrence import LANES
from hf_tsdyn.models.alrnn.vectors import (
    below_zero,
    flush_subnormals,
    gather,
    load,
    multiply_add,
    pointer,
    pull,
    read,
    restore,
    scatter,
    shift,
    spread,
    store,
    transpose,
    write,
)

# Memory comes from torch and is only borrowed here: numba's reference counting is left out.
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "nogil": True, "_nrt": False}
compiled = njit(**OPTIONS)
inlined = njit(forceinline=True, **OPTIONS)


class Grid(NamedTuple):
    """Where numbers of (models, series, steps, units) lie in memory, and how far apart."""

    place: Any
    strides: tuple[int, ...]


class Run(NamedTuple):
    """Sizes and places of a run: addresses when it is called, pointers in compiled functions."""

    num_models: int
    num_series: int
    num_steps: int
    num_channels: int
    num_units: int
    num_relu_units: int
    rows: int
    width: int
    """Lanes of all series."""
    tile: int
    """Rows that a product holds in registers."""
    A: Any
    W: Any
    h: Any
    initial: Any
    forcing: Any
    weight: Any
    states: Any
    observed: Any
    """(models, series, steps, channels)"""
    matrix: Any
    """(units, rows) K or its transpose."""
    base: Any
    """(rows, lanes) what a product is added to."""
    entering: Any
    """(2, rows, lanes) states that are not stored."""
    trail: Any
    """(LANES, channels, lanes) observed units, or their gradients, of `LANES` steps from a multiple of it on."""
    is_forced: Any
    """(steps,) not 0 where any weight of the step is not 0."""


@compiled
def located(run, number):
    """Return the run with pointers to numbers of the type of `number` instead of addresses."""
    return Run(
        run.num_models, run.num_series, run.num_steps, run.num_channels, run.num_units, run.num_relu_units, run.rows,
        run.width, run.tile, pointer(run.A, number), pointer(run.W, number), pointer(run.h, number),
        Grid(pointer(run.initial.place, number), run.initial.strides),
        Grid(pointer(run.forcing.place, number), run.forcing.strides),
        Grid(pointer(run.weight.place, number), run.weight.strides),
        pointer(run.states, number), pointer(run.observed, number), pointer(run.matrix, number),
        pointer(run.base, number), pointer(run.entering, number), pointer(run.trail, number),
        pointer(run.is_forced, number),
    )  # fmt: skip


@compiled
def multiply(tile, rows, base, inputs, inputs_stride, matrix, linear, rectified, outputs, outputs_stride):
    """outputs = base + matrix phi(inputs); the `rectified` columns follow the `linear` ones."""
    for row in range(0, rows, tile):
        multiply_tile(
            min(tile, rows - row), shift(base, row * LANES), inputs, inputs_stride, shift(matrix, row), rows,
            linear, rectified, shift(outputs, row * outputs_stride), outputs_stride,
        )  # fmt: skip


@compiled
def set_matrix(run, model, transposed):
    """Set the matrix to K of a model or to its transpose."""
    M = run.num_units
    for row in range(M):
        for column in range(M):
            at = column * M + row if transposed else row * M + column
            value = read(run.W, model * M * M + at)
            write(run.matrix, row * run.rows + column, value + read(run.A, model * M + row) if row == column else value)


@compiled
def find_forced_steps(run, model, number):
    """Set `is_forced` of a model, `number` being 0; weights that stand for many series or units are read once."""
    a, b, c, d = run.weight.strides
    for step in range(run.num_steps):
        write(run.is_forced, step, number)
    for series in range(run.num_series if b != 0 else min(run.num_series, 1)):
        for step in range(run.num_steps):
            for channel in range(run.num_channels if d != 0 else min(run.num_channels, 1)):
                share = read(run.weight.place, model * a + series * b + step * c + channel * d)
                if share != 0:
                    write(run.is_forced, step, share)


@inlined
def last_lane(run, first):
    """Return the lane of the last series of the block that begins with series `first`."""
    return min(LANES, run.num_series - first) - 1


@inlined
def across(grid, model, first, step, unit, last):
    """Return one number of each series of a block; lanes past `last` repeat that one."""
    a, b, c, d = grid.strides
    return gather(grid.place, model * a + first * b + step * c + unit * d, b, last)


@compiled
def enter(run, model, first, step, states, stride, inputs):
    """Write y of one step: the state before it, or the first one, with the observed units pulled."""
    last = last_lane(run, first)
    for unit in range(run.num_units):
        if step == 0:
            store(inputs, unit * LANES, across(run.initial, model, first, 0, unit, last))
        else:
            store(inputs, unit * LANES, load(states, unit * stride))
    if read(run.is_forced, step) != 0:
        for channel in range(run.num_channels):
            towards = across(run.forcing, model, first, step, channel, last)
            share = across(run.weight, model, first, step, channel, last)
            store(inputs, channel * LANES, pull(load(inputs, channel * LANES), towards, share))


@inlined
def _advance(run, model, inputs, inputs_stride, outputs, outputs_stride):
    """Write the state after a step that is entered with `inputs`; the base holds h for the other units."""
    linear = run.num_units - run.num_relu_units
    for unit in range(linear, run.num_units):
        at = model * run.num_units + unit
        resting = below_zero(load(inputs, unit * inputs_stride))
        store(run.base, unit * LANES, multiply_add(spread(read(run.A, at)), resting, spread(read(run.h, at))))
    multiply(
        run.tile, run.rows, run.base, inputs, inputs_stride, run.matrix, linear, run.num_relu_units, outputs,
        outputs_stride,
    )  # fmt: skip


@inlined
def _observe(run, model, first, step, states, stride):
    """Put the observed units after a step into the trail, and write the trail where it ends."""
    for channel in range(run.num_channels):
        store(run.trail, (step % LANES * run.num_channels + channel) * LANES, load(states, channel * stride))
    if step % LANES == LANES - 1 or step == run.num_steps - 1:
        _write_trail(run, model, first, step)


@compiled
def _write_trail(run, model, first, step):
    count = (step % LANES + 1) * run.num_channels
    series = run.num_steps * run.num_channels
    place = shift(run.observed, (model * run.num_series + first) * series + (step + 1) * run.num_channels - count)
    last, whole = last_lane(run, first), count // LANES * LANES
    for row in range(0, whole, LANES):
        transpose(shift(run.trail, row * LANES), LANES, LANES - 1, shift(place, row), series, last)
    for row in range(whole, count):
        scatter(run.trail, row * LANES, place, row, series, last)


@compiled
def _run_block(run, model, first):
    """Store and observe all states of one block of series."""
    block = run.rows * run.width
    states = shift(run.states, model * run.num_steps * block + first)
    for step in range(run.num_steps):
        inputs, stride = shift(states, (step - 1) * block), run.width
        if step == 0 or read(run.is_forced, step) != 0:
            enter(run, model, first, step, inputs, stride, run.entering)
            inputs, stride = run.entering, LANES
        outputs = shift(states, step * block)
        _advance(run, model, inputs, stride, outputs, run.width)
        _observe(run, model, first, step, outputs, run.width)


@compiled
def _run_block_freely(run, model, first):
    """Observe the states of one block of series that is never pulled, without storing them."""
    here, there = run.entering, shift(run.entering, run.rows * LANES)
    enter(run, model, first, 0, here, LANES, here)
    for step in range(run.num_steps):
        _advance(run, model, here, LANES, there, LANES)
        here, there = there, here
        _observe(run, model, first, step, here, LANES)


@compiled
def run_forward(call, number, is_free):
    """Run all models; without storing states if free."""
    control = flush_subnormals()
    run = located(call, number)
    for model in range(run.num_models):
        if not is_free:
            find_forced_steps(run, model, number)
        set_matrix(run, model, True)
        for unit in range(run.num_units):
            store(run.base, unit * LANES, spread(read(run.h, model * run.num_units + unit)))
        for first in range(0, run.num_series, LANES):
            if is_free:
                _run_block_freely(run, model, first)
            else:
                _run_block(run, model, first)
    restore(control)
