"""Machine code for one CPU core that moves running averages of gradients."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .convolutions_cpu import FAST


@njit(cache=True, fastmath=FAST)
def _write_unit(fibre, unit):
    """Write a fibre of gradients to `unit`, of norm 1; zeros stay zeros."""
    total = unit.dtype.type(0)
    for channel in range(len(unit)):
        unit[channel] = fibre[channel]
    for channel in range(len(unit)):
        total += unit[channel] * unit[channel]
    factor = unit.dtype.type(1) / max(math.sqrt(total), unit.dtype.type(1e-12))
    for channel in range(len(unit)):
        unit[channel] *= factor


@njit(cache=True, fastmath=FAST)
def _move(unit, slow, fast, keep):
    """Move a fibre's averages; return the sums of fast x slow, fast x fast and slow x slow, slow as it was."""
    one = unit.dtype.type(1)
    product = fast_square = slow_square = unit.dtype.type(0)
    for channel in range(len(unit)):
        new = fast[channel] * keep[1] + unit[channel] * (one - keep[1])
        old = slow[channel]
        fast[channel] = new
        slow[channel] = old * keep[0] + unit[channel] * (one - keep[0])
        product += new * old
        fast_square += new * new
        slow_square += old * old
    return product, fast_square, slow_square


@njit(cache=True, fastmath=FAST)
def update_averages(gradient, first, reach, averages, keep):
    """Move averages by the gradients of layers, and return the cosine of the fast and the slow one of each.

    gradient: (layers, outputs, inputs, kernel_size). first, reach: of the layers in `averages`, and their taps.
    averages: slow, fast and of squares (all layers, outputs, kernel_size, inputs), the last may have no layers.
    keep: shares of each that stay, of their precision.
    """
    slow, fast, second = averages
    layers, outputs, inputs, kernel = gradient.shape
    cosines = np.empty(layers, slow.dtype)
    unit = np.empty(inputs, slow.dtype)
    for layer in range(layers):
        product = fast_square = slow_square = 0.0
        for output in range(outputs):
            for tap in range(kernel // 2 - reach, kernel // 2 + reach + 1):
                _write_unit(gradient[layer, output, :, tap], unit)
                sums = _move(unit, slow[first + layer, output, tap], fast[first + layer, output, tap], keep)
                product, fast_square, slow_square = product + sums[0], fast_square + sums[1], slow_square + sums[2]
                if len(second):
                    square = second[first + layer, output, tap]
                    for channel in range(inputs):
                        new = unit[channel] * unit[channel]
                        square[channel] = square[channel] * keep[2] + new * (slow.dtype.type(1) - keep[2])
        cosines[layer] = product / (max(math.sqrt(fast_square), 1e-6) * max(math.sqrt(slow_square), 1e-6))
    return cosines
