"""The correlation dimension of an attractor, from how the number of close pairs of points grows with distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from .invariants import complete_series

MIN_POINTS = 4000
"""Below, the largest distance of the scaling range must grow, for the range to stay a factor of four in pairs."""

FEWEST_POINTS = 1000
"""Below, no two stretches of an orbit are close, and the scaling range would reach over four per cent of all pairs."""

PAIR_SHARE = 0.01
"""Share of pairs within the largest distance of the scaling range."""

PAIR_RATIO = 4
"""Pairs within the largest distance for each within the smallest, at least."""

NEIGHBOURS = 10
"""Mean number of neighbours within the smallest distance: below, distances show how the orbit is sampled."""

RESOLUTION = 1e-5
"""Smallest distance that counts, in standard deviations: coarser than single precision."""

NUM_RADII = 24
NUM_BLOCKS = 10


class CorrelationDimension(NamedTuple):
    """A dimension, its standard error, and the curve whose slope it is.

    radii: (radii,) distances in standard deviations, the scaling range in equal ratios.
    pairs: (radii,) pairs of points within each distance; straight against `radii` on logarithmic axes if the
        attractor scales.
    """

    dimension: float
    standard_error: float
    radii: NDArray[np.float64]
    pairs: NDArray[np.int64]


def correlation_dimension(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    num_points: int = 20_000,
    theiler_window: int | None = None,
    min_points: int = MIN_POINTS,
) -> CorrelationDimension:
    """Return the correlation dimension of the attractor that the series covers.

    The slope of log C(r) against log r, C(r) the number of pairs of standardised points closer than r and more than
    `theiler_window` steps apart in time, by least squares. The range of r is that from ten neighbours a point to one
    per cent of all pairs. The standard error joins that of a jackknife over ten stretches of the series to half the
    difference between the slopes of the lower and the upper half of the range.

    Limits: edges of the attractor lower the estimate, by a few per cent up to dimension three and by more above;
    noise raises it wherever its size lies in the range; a series in which few returns come close to each other says
    little whatever its number of steps. With fewer than 4000 points the range goes up to four times its lower end in
    pairs, 2 % of all at 2000 points. Mean and scatter of four stretches of 2048 points: 1.20 and 0.02 (Henon), 2.19 and
    0.10 (Lorenz, 16 periods), 1.81 and 0.26 (Rossler, 16 periods); of 3584: 1.22 and 0.03, 2.13 and 0.02 (28 periods),
    1.65 and 0.21 (28 periods).

    Args:
        values: (time, channels), all coordinates of the state, or a delay embedding.
        rng: chooses the points, and the pairs that set the range.
        num_points: points that are used, drawn from a longer series; time and memory grow as its square.
        theiler_window: steps; where None the longest time in which a channel's autocorrelation falls to 1 / e.
        min_points: a series with fewer steps is refused; from 1000.
    Raises: ValueError on a series that is not finite, constant in a channel, short, slower than a tenth of its length,
        or that repeats the same few points.
    Source: Grassberger, Procaccia, Physica D 9, 189 (1983); the window: Theiler, Physical Review A 34, 2427 (1986).
    """
    if min_points < FEWEST_POINTS:
        raise ValueError(f"min_points must be at least {FEWEST_POINTS}, found {min_points!r}; take longer series.")
    series = complete_series("values", values, min_steps=min_points)
    if num_points < min_points:
        raise ValueError(f"num_points must be at least {min_points}, found {num_points!r}; ask for more.")
    window = checked_window(series, theiler_window)
    times = np.sort(rng.choice(len(series), size=min(num_points, len(series)), replace=False))
    points = ((series - series.mean(axis=0)) / series.std(axis=0))[times]
    first, second, distances = _close_pairs(points, times, window, rng)
    low = np.partition(distances, NEIGHBOURS * len(points) // 2)[NEIGHBOURS * len(points) // 2]
    high = distances.max()
    _check_apart(low, high)
    radii = np.geomspace(low, high, NUM_RADII)
    shell = np.minimum(np.searchsorted(radii, distances), NUM_RADII - 1)
    blocks = np.arange(len(points)) * NUM_BLOCKS // len(points)
    pairs = np.bincount(shell, minlength=NUM_RADII).cumsum()
    return _fit(radii, pairs, _pairs_of_blocks(shell, blocks[first], blocks[second]))


def _check_apart(low: float, high: float) -> None:
    """Raise ValueError unless distances from `low` to `high` can be a scaling range."""
    if not RESOLUTION < low < high:
        raise ValueError(
            f"close pairs must lie more than {RESOLUTION:.0e} standard deviations apart, found {low:.1e}; give no "
            "fixed points, cycles of few points or rounded values, which have no dimension to estimate."
        )


def checked_window(series: np.ndarray, theiler_window: int | None) -> int:
    """Return the Theiler window in steps; ValueError if it is negative or longer than a tenth of the series."""
    window = correlation_length(series) if theiler_window is None else theiler_window
    if not 0 <= window <= len(series) // 10:
        raise ValueError(
            f"theiler_window, by default the correlation time, must be from 0 to a tenth of the series' {len(series)} "
            f"steps, found {window!r}; give a longer series, without trends."
        )
    return window


def correlation_length(series: np.ndarray) -> int:
    """Return the first lag at which the autocorrelation of every channel has fallen below 1 / e once."""
    centred = series - series.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(centred, n=2 * len(series), axis=0)) ** 2
    correlation = np.fft.irfft(spectrum, axis=0)[: len(series)]
    return int(np.argmax(correlation < correlation[0] / np.e, axis=0).max())


def _close_pairs(
    points: np.ndarray, times: np.ndarray, window: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return indices and distances of the closest pairs outside the window, those of the scaling range."""
    first, second = rng.integers(len(points), size=(2, 200_000))
    apart = np.abs(times[first] - times[second]) > window
    sample = np.linalg.norm(points[first[apart]] - points[second[apart]], axis=1)
    reach = float(np.quantile(sample, max(PAIR_SHARE, PAIR_RATIO * NEIGHBOURS / len(points))))
    _check_apart(reach, np.inf)  # before as many pairs as there are repeated points fill the memory
    pairs = KDTree(points).query_pairs(reach, output_type="ndarray")
    first, second = pairs[np.abs(times[pairs[:, 0]] - times[pairs[:, 1]]) > window].T
    return first, second, np.linalg.norm(points[first] - points[second], axis=1)


def _pairs_of_blocks(shell: np.ndarray, first: np.ndarray, second: np.ndarray) -> NDArray[np.int64]:
    """Return the pairs within each radius that have a point in each block of time, (blocks, radii)."""
    count = np.bincount(first * NUM_RADII + shell, minlength=NUM_BLOCKS * NUM_RADII)
    other = first != second
    count += np.bincount(second[other] * NUM_RADII + shell[other], minlength=NUM_BLOCKS * NUM_RADII)
    return count.reshape(NUM_BLOCKS, NUM_RADII).cumsum(axis=1)


def _fit(radii: np.ndarray, pairs: np.ndarray, pairs_of_blocks: np.ndarray) -> CorrelationDimension:
    """Return the slope of the curve and its standard error from the curves without one block each."""
    dimension = _slope(radii, pairs)
    jackknife = jackknife_error([_slope(radii, pairs - lost) for lost in pairs_of_blocks])
    half = NUM_RADII // 2
    bend = (_slope(radii[:half], pairs[:half]) - _slope(radii[half:], pairs[half:])) / 2
    return CorrelationDimension(dimension, float(np.hypot(jackknife, bend)), radii, pairs)


def jackknife_error(without: Sequence[float]) -> float:
    """Return the standard error of an estimate from its values without one block of the series each."""
    return float(np.sqrt((len(without) - 1) * np.var(without)))


def _slope(radii: np.ndarray, pairs: np.ndarray) -> float:
    return float(np.polyfit(np.log(radii), np.log(pairs), 1)[0])
