"""Machine code for one CPU core of what surrounds the convolutions: scaled weights, their gradients, and averages."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .convolutions_cpu import BIAS, FAST, TAPS, WEIGHT


@njit(cache=True, fastmath=FAST)
def write_scaled(weight, bias, scales, rows, weights, biases):
    """Write the weights and biases of stacked layers, times their scales, where the table's `rows` say.

    weight: (layers, outputs, inputs, kernel_size). scales: of weights (layers, outputs or 1, inputs or 1, kernel_size),
    biases and features (layers, outputs); those of plain layers have no outputs.
    """
    by_weight, by_bias, by_feature = scales
    plain = by_feature.shape[1] == 0
    layers, outputs, inputs, kernel = weight.shape
    for layer in range(layers):
        taps, place, start = rows[layer][TAPS], rows[layer][WEIGHT], rows[layer][BIAS]
        first = kernel // 2 - taps // 2
        for output in range(outputs):
            feature = by_feature.dtype.type(1) if plain else by_feature[layer, output]
            scaled = bias[layer, output] if plain else bias[layer, output] * by_bias[layer, output] * feature
            biases[start + output] = scaled
            o = min(output, by_weight.shape[1] - 1)
            for channel in range(inputs):
                c = min(channel, by_weight.shape[2] - 1)
                for tap in range(first, first + taps):
                    value = weight[layer, output, channel, tap]
                    weights[place] = value if plain else value * by_weight[layer, o, c, tap] * feature
                    place += 1


@njit(cache=True, fastmath=FAST)
def write_gradients(weight, bias, scales, rows, found, targets):
    """Write the gradients of `write_scaled`'s arguments from `found`, those of its flat weights and biases.

    targets: like weight, bias and the three scales, zeros.
    """
    by_weight, by_bias, by_feature = scales
    of_weight, of_bias, of_weight_scale, of_bias_scale, of_feature = targets
    plain = by_feature.shape[1] == 0
    layers, outputs, inputs, kernel = weight.shape
    for layer in range(layers):
        taps, place, start = rows[layer][TAPS], rows[layer][WEIGHT], rows[layer][BIAS]
        first = kernel // 2 - taps // 2
        for output in range(outputs):
            gradient = found[1][start + output]
            if plain:
                of_bias[layer, output] = gradient
                for channel in range(inputs):
                    for tap in range(first, first + taps):
                        of_weight[layer, output, channel, tap] = found[0][place]
                        place += 1
                continue
            feature, scale, value = by_feature[layer, output], by_bias[layer, output], bias[layer, output]
            of_bias[layer, output] = gradient * scale * feature
            of_bias_scale[layer, output] = gradient * value * feature
            total = gradient * value * scale
            o = min(output, by_weight.shape[1] - 1)
            for channel in range(inputs):
                c = min(channel, by_weight.shape[2] - 1)
                for tap in range(first, first + taps):
                    gradient, value = found[0][place], weight[layer, output, channel, tap]
                    scale = by_weight[layer, o, c, tap]
                    of_weight[layer, output, channel, tap] = gradient * scale * feature
                    of_weight_scale[layer, o, c, tap] += gradient * value * feature
                    total += gradient * value * scale
                    place += 1
            of_feature[layer, output] = total


@njit(cache=True, fastmath=FAST)
def update_averages(gradient, first, reach, averages, keep):
    """Move averages by the gradients of layers, and return the cosine of the fast and the slow one of each.

    gradient: (layers, outputs, inputs, kernel_size). first, reach: of the layers in `averages`, and their taps.
    averages: slow, fast and of squares (all layers, outputs, kernel_size, inputs), the last may have no layers.
    keep: shares of each that stay.
    """
    slow, fast, second = averages
    layers, outputs, inputs, kernel = gradient.shape
    cosines = np.empty(layers, slow.dtype)
    unit = np.empty(inputs, slow.dtype)
    for layer in range(layers):
        product = fast_norm = slow_norm = 0.0
        for output in range(outputs):
            for tap in range(kernel // 2 - reach, kernel // 2 + reach + 1):
                total = 0.0
                for channel in range(inputs):
                    unit[channel] = gradient[layer, output, channel, tap]
                    total += unit[channel] * unit[channel]
                unit /= max(math.sqrt(total), 1e-12)
                s, f = slow[first + layer, output, tap], fast[first + layer, output, tap]
                for channel in range(inputs):
                    new, old = f[channel] * keep[1] + unit[channel] * (1 - keep[1]), s[channel]
                    f[channel] = new
                    product += new * old
                    fast_norm += new * new
                    slow_norm += old * old
                    s[channel] = old * keep[0] + unit[channel] * (1 - keep[0])
                if len(second):
                    square = second[first + layer, output, tap]
                    square[:] = square * keep[2] + unit * unit * (1 - keep[2])
        cosines[layer] = product / (max(math.sqrt(fast_norm), 1e-6) * max(math.sqrt(slow_norm), 1e-6))
    return cosines
