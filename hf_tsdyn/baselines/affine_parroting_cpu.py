"""The search of affine parroting, compiled for one CPU core."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _compare(z, point, squares):
    """Write the squared distance of each step of `z` (channels, time) from a point into `squares` (time,)."""
    squares[:] = 0.0
    for channel in range(z.shape[0]):
        for k in range(z.shape[1]):
            squares[k] += (z[channel, k] - point[channel]) ** 2


@njit(cache=True)
def _find_nearest(squares, newest, last, total):
    """Return the step up to `last` whose motif is nearest, the latest of several; `squares` is a ring of rows."""
    length = len(squares)
    total[length - 1 : last + 1] = 0.0
    for back in range(length):
        row = squares[(newest - back) % length]
        for k in range(length - 1, last + 1):
            total[k] += row[k - back]
    best = length - 1
    for k in range(length, last + 1):
        if total[k] <= total[best]:
            best = k
    return best


@njit(cache=True)
def roll_out(z, bounds, length, min_lag, factor, path):
    """Fill `path` (channels, length + steps), whose first `length` steps are the last of `z` (channels, time).

    bounds: (2, channels), the lowest and highest values. `length` steps are compared, at least `min_lag` away.
    """
    channels, time = z.shape
    squares, total = np.empty((length, time)), np.empty(time)
    for step in range(length):
        _compare(z, path[:, step], squares[step])
    for step in range(length, path.shape[1]):
        # The state stands at time - 1 + step - length; the context's last step has no successor.
        last = min(time - 2, time - 1 + step - length - min_lag)
        k = _find_nearest(squares, step - 1, last, total)
        for channel in range(channels):
            moved = z[channel, k + 1] + factor * (path[channel, step - 1] - z[channel, k])
            path[channel, step] = min(max(moved, bounds[0, channel]), bounds[1, channel])
        _compare(z, path[:, step], squares[step % length])
