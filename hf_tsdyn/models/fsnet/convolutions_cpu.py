"""Machine code for the dilated network on one CPU core: all blocks forward, and their gradients backward."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

WEIGHT, BIAS, OUTPUTS, INPUTS, TAPS, STEPS, COLUMNS, SLOPES = range(8)
"""Columns of a table of layers: where weight and bias begin in the flat arrays, the shape of the convolution, the steps
that it is asked at, and where what the backward pass needs begins in the tape."""

FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Liberties of the compiler: the order of sums, fused products. NaN and infinity stay what they are."""

_SQRT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)


@njit(cache=True, fastmath=FAST)
def _convolve(values, layer, weights, biases, tape):
    """GELU, then the convolution of values (batch x steps, inputs); what the backward pass needs goes to the tape."""
    outputs, inputs, taps, steps = layer[OUTPUTS], layer[INPUTS], layer[TAPS], layer[STEPS]
    rows, width, reach = values.shape[0], inputs * taps, taps // 2
    columns = tape[layer[COLUMNS] : layer[COLUMNS] + rows * width].reshape(rows, width)
    slopes = tape[layer[SLOPES] : layer[SLOPES] + rows * inputs].reshape(rows, inputs)
    if taps > 1:
        columns[:] = 0
    for row in range(rows):
        step, first = row % steps, row - row % steps
        for channel in range(inputs):
            value = values[row, channel]
            below = 0.5 * (1 + math.erf(value * _SQRT_HALF))
            slopes[row, channel] = below + value * _DENSITY * math.exp(-0.5 * value * value)
            for tap in range(taps):
                place = step - tap + reach
                if 0 <= place < steps:
                    columns[first + place, channel * taps + tap] = value * below
    weight = weights[layer[WEIGHT] : layer[WEIGHT] + outputs * width].reshape(outputs, width)
    found = np.dot(columns, weight.T)
    for row in range(rows):
        for output in range(outputs):
            found[row, output] += biases[layer[BIAS] + output]
    return found


@njit(cache=True, fastmath=FAST)
def forward(values, batch, table, weights, biases, tape):
    """Return the last block's output without its residual, and its input, of values (batch x steps, channels)."""
    for block in range(len(table) // 2 - 1):
        inner = _convolve(values, table[2 * block], weights, biases, tape)
        added = _convolve(inner, table[2 * block + 1], weights, biases, tape)
        steps, left = table[2 * block][STEPS], table[2 * block + 2][STEPS]
        kept = np.empty((batch * left, values.shape[1]), values.dtype)
        for row in range(batch * left):
            source = row // left * steps + (steps - 1) % 2 + row % left * 2
            kept[row] = values[source] + added[source]
        values = kept
    inner = _convolve(values, table[-2], weights, biases, tape)
    return _convolve(inner, table[-1], weights, biases, tape), values


@njit(cache=True, fastmath=FAST)
def _back(gradient, layer, weights, tape, weight_gradient, bias_gradient):
    """The gradient of a layer's input from that of its output; its weight's and bias's are written."""
    outputs, inputs, taps, steps = layer[OUTPUTS], layer[INPUTS], layer[TAPS], layer[STEPS]
    rows, width, reach = gradient.shape[0], inputs * taps, taps // 2
    columns = tape[layer[COLUMNS] : layer[COLUMNS] + rows * width].reshape(rows, width)
    slopes = tape[layer[SLOPES] : layer[SLOPES] + rows * inputs].reshape(rows, inputs)
    weight = weights[layer[WEIGHT] : layer[WEIGHT] + outputs * width].reshape(outputs, width)
    target = weight_gradient[layer[WEIGHT] : layer[WEIGHT] + outputs * width].reshape(outputs, width)
    np.dot(gradient.T, columns, target)
    for output in range(outputs):
        bias_gradient[layer[BIAS] + output] = gradient[:, output].sum()
    through = np.dot(gradient, weight)
    found = np.empty((rows, inputs), gradient.dtype)
    for row in range(rows):
        step, first = row % steps, row - row % steps
        for channel in range(inputs):
            total = slopes[row, channel] * 0
            for tap in range(taps):
                place = step - tap + reach
                if 0 <= place < steps:
                    total += through[first + place, channel * taps + tap]
            found[row, channel] = total * slopes[row, channel]
    return found


@njit(cache=True, fastmath=FAST)
def backward(end, start, batch, table, weights, tape, weight_gradient, bias_gradient):
    """Return the gradient of `forward`'s values from those of its results; weights' and biases' are written."""
    inner = _back(end, table[-1], weights, tape, weight_gradient, bias_gradient)
    gradient = start + _back(inner, table[-2], weights, tape, weight_gradient, bias_gradient)
    for block in range(len(table) // 2 - 2, -1, -1):
        steps, left = table[2 * block][STEPS], table[2 * block + 2][STEPS]
        spread = np.zeros((batch * steps, gradient.shape[1]), gradient.dtype)
        for row in range(batch * left):
            spread[row // left * steps + (steps - 1) % 2 + row % left * 2] = gradient[row]
        inner = _back(spread, table[2 * block + 1], weights, tape, weight_gradient, bias_gradient)
        gradient = spread + _back(inner, table[2 * block], weights, tape, weight_gradient, bias_gradient)
    return gradient
