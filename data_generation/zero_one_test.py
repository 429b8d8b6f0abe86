"""The 0-1 test for chaos: does a series, read as steps of a walk in the plane, diffuse or stay bounded?

G. A. Gottwald, I. Melbourne, SIAM Journal on Applied Dynamical Systems 8, 129 (2009). A smooth series is thinned out
first, as neighbouring samples of a fast sampled flow carry the walk along whatever the dynamics."""

import math

import numpy as np
from numba import njit

NUM_FREQUENCIES = 100
FREQUENCY_RANGE = (math.pi / 5, 4 * math.pi / 5)
MAX_LAG, NUM_BINS = 50, 64
MIN_THINNED_LENGTH = 20
"""Of a thinned series: two displacements, the fewest that have a trend."""

# Spread, relative to that of the series, that says nothing of the dynamics.
ROUNDING = 1e-9

# Sums may be reordered: they are of finite numbers, and one compiled loop always takes one order.
_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})


def draw_frequencies(rng: np.random.Generator) -> np.ndarray:
    """Return the (NUM_FREQUENCIES,) angles c of the walks, drawn from `rng`, in radians per sample."""
    return rng.uniform(*FREQUENCY_RANGE, NUM_FREQUENCIES)


def diffusing_share(series: np.ndarray, frequencies: np.ndarray, *, min_correlation: float, min_share: float) -> float:
    """Return the share of walks that diffuse, among those walked until it was clear which side of `min_share` it is.

    A walk diffuses when its `growth_correlation` is at least `min_correlation`. None does where the thinned series
    stands still: the series is constant, or periodic with the lag.

    Args:
        series: (time,), evenly sampled; thinned here by its `information_lag`.
        frequencies: (num_frequencies,) of the walks, taken in this order."""
    thinned = np.ascontiguousarray(series[:: information_lag(series)], np.float64)
    if np.ptp(thinned) <= ROUNDING * np.ptp(series):
        return 0.0
    num_needed = math.ceil(min_share * len(frequencies) - 1e-9)
    return _count_diffusing(thinned - thinned.mean(), frequencies, min_correlation, num_needed)


def information_lag(series: np.ndarray) -> int:
    """Return the first lag at which the mutual information between a series and its past has a minimum.

    Histograms of NUM_BINS equal bins for each of the two, over the range of the series; three neighbouring lags are
    averaged before the comparison. Without a minimum up to MAX_LAG it is the lag of the smallest information."""
    low, high = float(series.min()), float(series.max())
    if low == high:
        return 1
    bins = np.minimum((series - low) * (NUM_BINS / (high - low)), NUM_BINS - 1).astype(np.int64)
    counts = np.arange(len(series) + 1, dtype=np.float64)
    counts[1:] *= np.log(counts[1:])
    return _first_minimum(bins, counts, max(1, min(MAX_LAG, len(series) // MIN_THINNED_LENGTH)))


@_compiled
def growth_correlation(series: np.ndarray, frequency: float) -> float:
    """Return K: the correlation of the mean square displacement of the walk with time, about 1 for diffusion.

    Over displacements of up to a tenth of the series, whose mean must be 0 (it would add an oscillation to them)."""
    num_points = len(series)
    east, north = np.empty(num_points), np.empty(num_points)
    x = y = 0.0
    for j in range(num_points):
        x += series[j] * math.cos(frequency * (j + 1))
        y += series[j] * math.sin(frequency * (j + 1))
        east[j], north[j] = x, y
    num_shifts = num_points // 10
    displacements = np.empty(num_shifts)
    for shift in range(1, num_shifts + 1):
        total = 0.0
        for j in range(num_points - shift):
            total += (east[j + shift] - east[j]) ** 2 + (north[j + shift] - north[j]) ** 2
        displacements[shift - 1] = total / (num_points - shift)
    mean_shift, mean = (num_shifts + 1) / 2, displacements.mean()
    covariance = variance = shift_variance = 0.0
    for i in range(num_shifts):
        covariance += (i + 1 - mean_shift) * (displacements[i] - mean)
        variance += (displacements[i] - mean) ** 2
        shift_variance += (i + 1 - mean_shift) ** 2
    return covariance / math.sqrt(variance * shift_variance) if variance > 0 else 0.0


@_compiled
def _count_diffusing(series, frequencies, min_correlation, num_needed):
    num_diffusing = num_walked = 0
    for frequency in frequencies:
        num_diffusing += growth_correlation(series, frequency) >= min_correlation
        num_walked += 1
        if num_diffusing >= num_needed or num_diffusing + len(frequencies) - num_walked < num_needed:
            break
    return num_diffusing / num_walked


@_compiled
def _first_minimum(bins, weighted_logarithms, max_lag):
    information = np.empty(max_lag)
    joint = np.empty(NUM_BINS * NUM_BINS, np.int64)
    for i in range(max_lag):
        information[i] = _mutual_information(bins, i + 1, weighted_logarithms, joint)
        # The averages around lags i - 2, i - 1 and i, without the lags that two of them share.
        if i >= 4 and information[i - 1] < information[i - 4] and information[i] > information[i - 3]:
            return i - 1
    return int(np.argmin(information)) + 1


@_compiled
def _mutual_information(bins, lag, weighted_logarithms, joint):
    """Natural logarithms, from a table of n log n; `joint` is room to count in."""
    joint[:] = 0
    past, present = np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64)
    num_pairs = len(bins) - lag
    for i in range(num_pairs):
        joint[bins[i] * NUM_BINS + bins[i + lag]] += 1
        past[bins[i]] += 1
        present[bins[i + lag]] += 1
    total = weighted_logarithms[num_pairs]
    for i in range(NUM_BINS):
        total -= weighted_logarithms[past[i]] + weighted_logarithms[present[i]]
    for count in joint:
        total += weighted_logarithms[count]
    return total / num_pairs
