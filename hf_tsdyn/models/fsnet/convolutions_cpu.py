"""Machine code for the dilated network on one CPU core: all blocks forward, and their gradients backward.

Compiled code takes each stack of layers as flat rows: weight (layers, outputs, width = inputs x kernel_size), bias
(layers, outputs), and the scales of weights, (layers, 1, width) or (layers, outputs, kernel_size), of biases and of
features, (layers, outputs) both. Where all outputs share the scales of weights, the columns that the weights meet are
scaled in their stead, which are far fewer; taps that reach nothing but padding meet columns of zeros.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

STACK, LAYER, INPUTS, SCALING, STEPS, COLUMNS, SLOPES, RAW, SCALED = range(9)
"""Columns of a table of layers: the layer's stack and its place there, its inputs, how weights are scaled, the steps
that it is asked at, and where what the backward pass needs begins in the tape: columns, slopes of GELU, outputs before
they are scaled, and what SCALING says."""

BY_INPUT, BY_OUTPUT, BY_OUTPUT_ONE_TAP = range(3)
"""How weights are scaled: all outputs alike; each output in its own way, for which the tape keeps scaled weights; the
same where the middle tap alone counts, and outputs can be scaled, for which it keeps what they were."""

FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Liberties of the compiler: the order of sums, fused products. NaN and infinity stay what they are."""

_SQRT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)


@njit(cache=True, fastmath=FAST)
def _piece(tape, first, rows, width):
    return tape[first : first + rows * width].reshape(rows, width)


@njit(cache=True, fastmath=FAST)
def _scale_by_output(weight, scales, scaled):
    """Write weight (outputs, width) times the scales (outputs, kernel_size) of its taps."""
    outputs, kernel = scales.shape
    factors = np.empty(weight.shape[1], weight.dtype)
    for output in range(outputs):
        for first in range(0, len(factors), kernel):
            for tap in range(kernel):
                factors[first + tap] = scales[output, tap]
        for place in range(len(factors)):
            scaled[output, place] = weight[output, place] * factors[place]


@njit(cache=True, fastmath=FAST)
def _unscale_by_output(weight, scales, of_weight, of_scales):
    """From the gradient of scaled weights in `of_weight`, make that of weights there and that of their scales."""
    outputs, kernel = scales.shape
    for output in range(outputs):
        for tap in range(kernel):
            total = weight.dtype.type(0)
            for place in range(tap, weight.shape[1], kernel):
                total += of_weight[output, place] * weight[output, place]
            of_scales[output, tap] = total
    _scale_by_output(of_weight, scales, of_weight)


@njit(cache=True, fastmath=FAST)
def _fill_columns(values, steps, columns, slopes):
    """Write GELU of values (batch x steps, inputs), where each tap meets it, and its slopes."""
    rows, inputs = values.shape
    taps = columns.shape[1] // inputs
    columns[:] = 0
    for row in range(rows):
        step, first = row % steps, row - row % steps
        for channel in range(inputs):
            value = values[row, channel]
            below = 0.5 * (1 + math.erf(value * _SQRT_HALF))
            slopes[row, channel] = below + value * _DENSITY * math.exp(-0.5 * value * value)
            for tap in range(taps):
                place = step - tap + taps // 2
                if 0 <= place < steps:
                    columns[first + place, channel * taps + tap] = value * below


@njit(cache=True, fastmath=FAST)
def _convolve(values, row, stacks, tape):
    """GELU, then the convolution of values (batch x steps, inputs); what the backward pass needs goes to the tape."""
    weights, biases, by_weight, by_bias, by_feature = stacks[row[STACK]]
    layer, rows = row[LAYER], values.shape[0]
    outputs, width = weights.shape[1:]
    columns = _piece(tape, row[COLUMNS], rows, width)
    _fill_columns(values, row[STEPS], columns, _piece(tape, row[SLOPES], rows, values.shape[1]))
    raw = _piece(tape, row[RAW], rows, outputs)
    if row[SCALING] == BY_INPUT:
        np.dot(columns * by_weight[layer, 0], weights[layer].T, raw)
    elif row[SCALING] == BY_OUTPUT:
        scaled = _piece(tape, row[SCALED], outputs, width)
        _scale_by_output(weights[layer], by_weight[layer], scaled)
        np.dot(columns, scaled.T, raw)
    else:
        products = _piece(tape, row[SCALED], rows, outputs)
        np.dot(columns, weights[layer].T, products)
        raw[:] = products * by_weight[layer, :, by_weight.shape[2] // 2]
    found = np.empty_like(raw)
    for place in range(rows):
        for output in range(outputs):
            raw[place, output] += biases[layer, output] * by_bias[layer, output]
            found[place, output] = raw[place, output] * by_feature[layer, output]
    return found


@njit(cache=True, fastmath=FAST)
def forward(values, batch, table, stacks, tape):
    """Return the last block's output without its residual, and its input, of values (batch x steps, channels)."""
    for block in range(len(table) // 2 - 1):
        inner = _convolve(values, table[2 * block], stacks, tape)
        added = _convolve(inner, table[2 * block + 1], stacks, tape)
        steps, left = table[2 * block][STEPS], table[2 * block + 2][STEPS]
        kept = np.empty((batch * left, values.shape[1]), values.dtype)
        for row in range(batch * left):
            source = row // left * steps + (steps - 1) % 2 + row % left * 2
            kept[row] = values[source] + added[source]
        values = kept
    inner = _convolve(values, table[-2], stacks, tape)
    return _convolve(inner, table[-1], stacks, tape), values


@njit(cache=True, fastmath=FAST)
def _back_through_outputs(gradient, raw, layer, stack, target):
    """The gradient of a layer's products from that of its output; its bias's, and two scales', are written."""
    _, biases, _, by_bias, by_feature = stack
    _, of_bias, _, of_bias_scale, of_feature = target
    found, total = np.empty_like(gradient), np.zeros(gradient.shape[1], gradient.dtype)
    of_feature[layer] = 0
    for row in range(gradient.shape[0]):
        for output in range(gradient.shape[1]):
            found[row, output] = gradient[row, output] * by_feature[layer, output]
            of_feature[layer, output] += gradient[row, output] * raw[row, output]
            total[output] += found[row, output]
    of_bias[layer] = total * by_bias[layer]
    of_bias_scale[layer] = total * biases[layer]
    return found


@njit(cache=True, fastmath=FAST)
def _gather(through, steps, slopes):
    """The gradient of values (batch x steps, inputs) from that of the columns that `_fill_columns` made of them."""
    found = np.empty_like(slopes)
    rows, inputs = slopes.shape
    taps = through.shape[1] // inputs
    for row in range(rows):
        step, first = row % steps, row - row % steps
        for channel in range(inputs):
            total = slopes[row, channel] * 0
            for tap in range(taps):
                place = step - tap + taps // 2
                if 0 <= place < steps:
                    total += through[first + place, channel * taps + tap]
            found[row, channel] = total * slopes[row, channel]
    return found


@njit(cache=True, fastmath=FAST)
def _back(gradient, row, stacks, targets, tape):
    """The gradient of a layer's input from that of its output; those of all that the layer has are written."""
    stack, target, layer, steps = stacks[row[STACK]], targets[row[STACK]], row[LAYER], row[STEPS]
    weights, by_weight, of_weight, of_scales = stack[0], stack[2], target[0], target[2]
    outputs, width = weights.shape[1:]
    rows, raw = len(gradient), _piece(tape, row[RAW], len(gradient), outputs)
    columns = _piece(tape, row[COLUMNS], rows, width)
    products = _back_through_outputs(gradient, raw, layer, stack, target)
    if row[SCALING] == BY_INPUT:
        scales, through = by_weight[layer, 0], np.dot(products, weights[layer])
        np.dot(products.T, columns * scales, of_weight[layer])
        of_scales[layer, 0] = (through * columns).sum(axis=0)
        through *= scales
    elif row[SCALING] == BY_OUTPUT:
        through = np.dot(products, _piece(tape, row[SCALED], outputs, width))
        np.dot(products.T, columns, of_weight[layer])
        _unscale_by_output(weights[layer], by_weight[layer], of_weight[layer], of_scales[layer])
    else:
        middle = by_weight.shape[2] // 2
        of_scales[layer] = 0
        of_scales[layer, :, middle] = (products * _piece(tape, row[SCALED], rows, outputs)).sum(axis=0)
        products *= by_weight[layer, :, middle]
        through = np.dot(products, weights[layer])
        np.dot(products.T, columns, of_weight[layer])
    return _gather(through, steps, _piece(tape, row[SLOPES], rows, row[INPUTS]))


@njit(cache=True, fastmath=FAST)
def backward(end, start, batch, table, stacks, targets, tape):
    """Return the gradient of `forward`'s values from those of its results; those of the stacks go to `targets`."""
    inner = _back(end, table[-1], stacks, targets, tape)
    gradient = start + _back(inner, table[-2], stacks, targets, tape)
    for block in range(len(table) // 2 - 2, -1, -1):
        steps, left = table[2 * block][STEPS], table[2 * block + 2][STEPS]
        spread = np.zeros((batch * steps, gradient.shape[1]), gradient.dtype)
        for row in range(batch * left):
            spread[row // left * steps + (steps - 1) % 2 + row % left * 2] = gradient[row]
        inner = _back(spread, table[2 * block + 1], stacks, targets, tape)
        gradient = spread + _back(inner, table[2 * block], stacks, targets, tape)
    return gradient
