"""Machine code for one CPU core: the nearest neighbour of every point of an orbit, and how the two part."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def nearest_neighbours(points, num_points, window):
    """Return of each of the first `num_points` points the nearest one more than `window` steps away; -1 if none is.

    points: (time, channels).
    """
    nearest = np.full(num_points, -1)
    distances = np.full(num_points, np.inf)
    for first in range(num_points):
        for second in range(first + window + 1, num_points):
            square = 0.0
            for channel in range(points.shape[1]):
                square += (points[first, channel] - points[second, channel]) ** 2
            if square < distances[first]:
                distances[first] = square
                nearest[first] = second
            if square < distances[second]:
                distances[second] = square
                nearest[second] = first
    return nearest


@njit(cache=True)
def sums_of_log_distances(points, nearest, num_steps, num_blocks, resolution):
    """Return the sums over pairs of log distance, (blocks, num_steps + 1), each pair in the block of its first point.

    Distances below `resolution` count as that. Every pair is followed for `num_steps` steps.
    """
    sums = np.zeros((num_blocks, num_steps + 1))
    for first in range(len(nearest)):
        block = first * num_blocks // len(nearest)
        for step in range(num_steps + 1):
            square = resolution**2
            distance = 0.0
            for channel in range(points.shape[1]):
                distance += (points[first + step, channel] - points[nearest[first] + step, channel]) ** 2
            sums[block, step] += math.log(max(distance, square)) / 2
    return sums
