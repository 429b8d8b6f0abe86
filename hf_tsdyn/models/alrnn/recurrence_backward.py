"""The compiled back-propagation through the AL-RNN recurrence for one CPU core.

The gradient of the state before a step is that of y with pulled units cut, and that of y is K' of the gradient of the
state after it, where units at rest pass their own share A alone. Gradients and inputs of the latest steps stay in cache
until their outer products are summed, lane by lane; the sums over lanes come last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hf_tsdyn.models.alrnn.products import add_outer_tile
from hf_tsdyn.models.alrnn.recurrence import LANES, ROWS
from hf_tsdyn.models.alrnn.recurrence_forward import (
    Grid,
    across,
    compiled,
    enter,
    find_forced_steps,
    inlined,
    last_lane,
    located,
    multiply,
    set_matrix,
)
from hf_tsdyn.models.alrnn.vectors import (
    above_zero,
    add,
    below_zero,
    clear,
    flush_subnormals,
    gather,
    load,
    multiply_add,
    pointer,
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

SLOTS = 12
"""Steps that stay in cache until their products are summed."""


class Gradients(NamedTuple):
    """Gradients that come in, those that go out, and memory for one model; places as in `Run`."""

    observed: Any
    states: Any
    has_states: int
    A: Any
    W: Any
    h: Any
    initial: Any
    after: Any
    """(SLOTS, rows, lanes) of the states after steps."""
    inputs: Any
    """(SLOTS, rows, lanes) phi(y) of those steps."""
    W_sums: Any
    A_sums: Any
    h_sums: Any


@compiled
def _located_gradients(of, number):
    return Gradients(
        Grid(pointer(of.observed.place, number), of.observed.strides), pointer(of.states, number), of.has_states,
        pointer(of.A, number), pointer(of.W, number), pointer(of.h, number), pointer(of.initial, number),
        pointer(of.after, number), pointer(of.inputs, number), pointer(of.W_sums, number), pointer(of.A_sums, number),
        pointer(of.h_sums, number),
    )  # fmt: skip


@compiled
def _clear_rows(place, rows):
    for row in range(rows):
        clear(place, row * LANES)


@compiled
def _read_trail(run, observed, model, first, step):
    """Read the gradients of observed units of the `LANES` steps, or what there are of them, that `step` is one of."""
    step -= step % LANES
    count = min(LANES, run.num_steps - step) * run.num_channels
    a, b, c, d = observed.strides
    place = shift(observed.place, model * a + first * b + step * c)
    last, whole = last_lane(run, first), count // LANES * LANES if d == 1 and c == run.num_channels else 0
    for row in range(0, whole, LANES):
        transpose(shift(place, row), b, last, shift(run.trail, row * LANES), LANES, LANES - 1)
    for row in range(whole, count):
        at = row // run.num_channels * c + row % run.num_channels * d
        store(run.trail, row * LANES, gather(place, at, b, last))


@compiled
def _set_incoming(run, of, model, first, step):
    """Set the base to the gradient that comes into the states after a step from outside."""
    if step % LANES == LANES - 1 or step == run.num_steps - 1:
        _read_trail(run, of.observed, model, first, step)
    if of.has_states != 0:
        states = shift(of.states, (model * run.num_steps + step) * run.rows * run.width + first)
        for row in range(run.rows):
            store(run.base, row * LANES, load(states, row * run.width))
    else:
        _clear_rows(run.base, run.num_channels)
    last = last_lane(run, first)
    for channel in range(run.num_channels):
        value = where_real(load(run.trail, (step % LANES * run.num_channels + channel) * LANES), last)
        store(run.base, channel * LANES, add(load(run.base, channel * LANES), value))


@compiled
def _rectify(run, of, after, inputs):
    """Turn y of the rectified units into phi(y), after adding to the gradient of A."""
    for unit in range(run.num_units - run.num_relu_units, run.num_units):
        at = unit * LANES
        value = load(inputs, at)
        store(of.A_sums, at, multiply_add(load(after, at), below_zero(value), load(of.A_sums, at)))
        store(inputs, at, above_zero(value))


@compiled
def _add_products(num_steps, rows, after, inputs, W_sums, h_sums):
    """Add the outer products of some steps, in tiles of `ROWS` by `ROWS`, and the gradients themselves."""
    for row in range(0, rows, ROWS):
        for column in range(0, rows, ROWS):
            add_outer_tile(num_steps, shift(after, row * LANES), shift(inputs, column * LANES), rows * LANES, W_sums)
            W_sums = shift(W_sums, ROWS * ROWS * LANES)
    for row in range(rows):
        value = load(h_sums, row * LANES)
        for step in range(num_steps):
            value = add(value, load(after, (step * rows + row) * LANES))
        store(h_sums, row * LANES, value)


@inlined
def _retreat(run, of, model, first, step, inputs, after, before):
    """Write the gradient of the state before a step, from that of the state after it."""
    is_forced = read(run.is_forced, step) != 0
    if step > 0 and not is_forced:
        _set_incoming(run, of, model, first, step - 1)
    else:
        _clear_rows(run.base, run.rows)
    multiply(run.tile, run.rows, run.base, after, LANES, run.matrix, run.num_units, 0, before, LANES)
    for unit in range(run.num_units - run.num_relu_units, run.num_units):
        at = unit * LANES
        share = spread(read(run.A, model * run.num_units + unit))
        resting = multiply_add(share, load(after, at), load(run.base, at))
        store(before, at, where_positive(load(inputs, at), load(before, at), resting))
    if is_forced:
        _release(run, of, model, first, step, before)


@compiled
def _release(run, of, model, first, step, before):
    """Cut the gradient through pulled units, then add what comes in from outside."""
    for channel in range(run.num_channels):
        share = across(run.weight, model, first, step, channel, last_lane(run, first))
        store(before, channel * LANES, release(load(before, channel * LANES), share))
    if step > 0:
        _set_incoming(run, of, model, first, step - 1)
        for row in range(run.rows):
            store(before, row * LANES, add(load(before, row * LANES), load(run.base, row * LANES)))


@compiled
def _differentiate_block(run, of, model, first):
    """Add to the sums of a model from one block of series, and write the gradient of its initial states."""
    size, block = run.rows * LANES, run.rows * run.width
    _clear_rows(run.base, run.rows)
    _set_incoming(run, of, model, first, run.num_steps - 1)
    for row in range(run.rows):
        store(of.after, row * LANES, load(run.base, row * LANES))
    slot = 0
    for step in range(run.num_steps - 1, -1, -1):
        states = shift(run.states, (model * run.num_steps + step - 1) * block + first)
        after, inputs = shift(of.after, slot * size), shift(of.inputs, slot * size)
        enter(run, model, first, step, states, run.width, inputs)
        _rectify(run, of, after, inputs)
        slot += 1
        if slot == SLOTS or step == 0:
            _add_products(slot, run.rows, of.after, of.inputs, of.W_sums, of.h_sums)
        slot = 0 if slot == SLOTS else slot
        _retreat(run, of, model, first, step, inputs, after, shift(of.after, slot * size))
    place = shift(of.initial, (model * run.num_series + first) * run.num_units)
    for unit in range(run.num_units):
        scatter(of.after, slot * size + unit * LANES, place, unit, run.num_units, last_lane(run, first))


@compiled
def _write_gradients(run, of, model):
    M, tiles = run.num_units, run.rows // ROWS
    for row in range(M):
        for column in range(M):
            tile = row // ROWS * tiles + column // ROWS
            at = tile * ROWS * ROWS + row % ROWS * ROWS + column % ROWS
            write(of.W, (model * M + row) * M + column, total(load(of.W_sums, at * LANES)))
        own = read(of.W, (model * M + row) * M + row)
        write(of.A, model * M + row, own + total(load(of.A_sums, row * LANES)))
        write(of.h, model * M + row, total(load(of.h_sums, row * LANES)))


@compiled
def run_backward(call, gradients, number):
    """Write the gradients of all models."""
    control = flush_subnormals()
    run, of = located(call, number), _located_gradients(gradients, number)
    for model in range(run.num_models - 1, -1, -1):  # what the forward run wrote last may still be in cache
        find_forced_steps(run, model, number)
        set_matrix(run, model, False)
        _clear_rows(of.W_sums, run.rows * run.rows)
        _clear_rows(of.A_sums, run.rows)
        _clear_rows(of.h_sums, run.rows)
        for first in range(0, run.num_series, LANES):
            _differentiate_block(run, of, model, first)
        _write_gradients(run, of, model)
    restore(control)
