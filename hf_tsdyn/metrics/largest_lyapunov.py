"""The largest Lyapunov exponent of an attractor, from how fast neighbouring stretches of one orbit part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .correlation_dimension import FEWEST_POINTS, NUM_BLOCKS, RESOLUTION, checked_window, jackknife_error
from .invariants import complete_series

FOLLOWED_SHARE = 8
"""Neighbours are followed for one part in this many of the series."""

CLIMB = (0.3, 0.6)
"""Ends of the range of the fit, as shares of the climb of the mean log distance from neighbours to random pairs."""

NUM_LAGS = 16


class LargestLyapunov(NamedTuple):
    """An exponent per unit of time, its standard error, and the curve whose slope it is.

    log_distances: (steps,) mean log distance of neighbours, in standard deviations, so many steps later.
    first, last: ends of the range of the fit, in steps, both part of it.
    """

    exponent: float
    standard_error: float
    log_distances: NDArray[np.float64]
    first: int
    last: int


def largest_lyapunov(values: ArrayLike, *, dt: float = 1.0, theiler_window: int | None = None) -> LargestLyapunov:
    """Return the largest Lyapunov exponent of the attractor that the series covers, per unit of time.

    Each point and its nearest neighbour, more than `theiler_window` steps away in time, are followed for an eighth of
    the series; the exponent is the slope of their mean log distance. The fit takes from three to six tenths of the
    climb from neighbours to random pairs: before, neighbours turn into the direction that grows; after, some pairs are
    as far apart as the attractor is wide. Where the climb takes longer than neighbours are followed, the fit ends
    there; without a climb, as on a limit cycle or a torus, the result is about 0. The standard error joins that of a
    jackknife over ten stretches of the series to half the difference between the slopes of the lower and the upper
    half of the range.

    Limits: negative exponents are not seen. Over stretches of 20 chaotic flows, on which the range of the fit was also
    chosen, the estimate is off by 27 % in the median and 87 % in the worst tenth for 28 periods in 3584 points, by 35 %
    and 135 % for 16 periods in 2048; two standard errors cover four in five. Weak chaos comes out too strong, as
    neighbours are never near enough: compare estimates of one length and sampling alone. Noise adds to it. Time grows
    as the square of the number of steps: 0.03 s for 4096.

    Args:
        values: (time, channels), all coordinates of the state, or a delay embedding.
        dt: time of one step.
        theiler_window: steps; where None the longest time in which a channel's autocorrelation falls to 1 / e.
    Raises: ValueError on a series that is not finite, constant in a channel, short, or slower than a tenth of its
        length.
    Source: Rosenstein, Collins, De Luca, Physica D 65, 117 (1993); Kantz, Physics Letters A 185, 77 (1994). The range
        of the fit is our own rule.
    """
    from .neighbours_cpu import nearest_neighbours, sums_of_log_distances

    series = complete_series("values", values, min_steps=FEWEST_POINTS)
    if not dt > 0:
        raise ValueError(f"dt must be positive, found {dt!r}; give the time of one step.")
    window = checked_window(series, theiler_window)
    points = (series - series.mean(axis=0)) / series.std(axis=0)
    num_steps = len(points) // FOLLOWED_SHARE
    nearest = nearest_neighbours(points, len(points) - num_steps, window)
    sums = sums_of_log_distances(points, nearest, num_steps, NUM_BLOCKS, RESOLUTION)
    counts = np.bincount(np.arange(len(nearest)) * NUM_BLOCKS // len(nearest))
    curve = sums.sum(axis=0) / len(nearest)
    without = (sums.sum(axis=0) - sums) / (len(nearest) - counts)[:, None]
    first, last = _fit_range(curve, _log_distance_of_strangers(points, window))
    exponent = _slope(curve, first, last)
    middle = (first + last) // 2
    bend = (_slope(curve, first, max(middle, first + 1)) - _slope(curve, min(middle, last - 1), last)) / 2
    error = np.hypot(jackknife_error([_slope(one, first, last) for one in without]), bend)
    return LargestLyapunov(exponent / dt, float(error / dt), curve, first, last)


def _log_distance_of_strangers(points: np.ndarray, window: int) -> float:
    """Return the mean log distance of pairs at lags spread over the series: where neighbours end up."""
    lags = np.linspace(window + 1, len(points) // 2, NUM_LAGS).astype(np.int64)
    means = [
        np.log(np.maximum(np.linalg.norm(points[lag:] - points[:-lag], axis=1), RESOLUTION)).mean() for lag in lags
    ]
    return float(np.mean(means))


def _fit_range(curve: np.ndarray, saturation: float) -> tuple[int, int]:
    """Return the first and the last step of the middle of the climb, the whole curve where there is no climb."""
    low, high = (curve[0] + share * (saturation - curve[0]) for share in CLIMB)
    above = np.flatnonzero(curve > high)
    last = max(int(above[0]) if len(above) else len(curve) - 1, 2)
    return min(int(np.argmax(curve > low)), last // 2, last - 2), last


def _slope(curve: np.ndarray, first: int, last: int) -> float:
    return float(np.polyfit(np.arange(first, last + 1), curve[first : last + 1], 1)[0])
