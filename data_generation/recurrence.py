"""How closely a trajectory comes back to its own past."""

import numpy as np
from scipy.fft import next_fast_len
from scipy.interpolate import CubicSpline

# Distance to the present, on the scale of `return_distances`, from which a signal counts as having moved away.
DEPARTURE = 0.5

# Samples beyond the ends of a stretch, after which its spline no longer depends on where the data end.
MARGIN = 32


def nearest_return(values: np.ndarray, *, resolution: float) -> float:
    """Return how closely the second half repeats an earlier stretch: 0 where it does so exactly.

    The statistic is the smallest root mean square of x(t) - x(t - p) over the second half, divided by sqrt(2): 0 for
    a periodic signal, about 1 for an unrelated one. The shift p runs from the first at which the signal has moved
    away to half the series. Where a shift between two samples could bring the distance below `resolution`, it is
    refined on a cubic spline, as the period need not be a multiple of the sampling interval. Periods longer than half
    of the series cannot be seen. A signal that never moves away counts by its distance at no shift: 0.

    Args:
        values: (channels, time), standardised."""
    distances = return_distances(values)
    departed = np.flatnonzero(distances > DEPARTURE)
    start = int(departed[0]) if departed.size else 0
    shift = start + int(np.argmin(distances[start:]))
    distance = float(distances[shift])
    # By the triangle inequality no shift within one step is nearer than by what one step moves.
    if shift > start > 0 and distance - distances[1] <= resolution:
        distance = min(distance, _distance_between_samples(values, shift))
    return distance


def return_distances(values: np.ndarray) -> np.ndarray:
    """Return the distance of the second half to the stretch `p` steps earlier, for p = 0 ... up to half the length.

    Computed as a cross-correlation by FFT, in O(time log time).

    Args:
        values: (channels, time), standardised.
    Returns: (time - time // 2 + 1,), as `nearest_return` defines it."""
    num_channels, num_points = values.shape
    half = num_points // 2
    starts = np.arange(num_points - half, -1, -1)
    # The second half fits into the series at each of these starts: nothing wraps around.
    size = next_fast_len(num_points, real=True)
    spectrum = np.fft.rfft(values, size) * np.conj(np.fft.rfft(values[:, -half:], size))
    products = np.fft.irfft(spectrum.sum(axis=0), size)[starts]
    power = np.concatenate([[0.0], np.cumsum((values**2).sum(axis=0))])
    energies = power[starts + half] - power[starts]
    squares = (energies[0] + energies - 2 * products) / (2 * num_channels * half)
    return np.sqrt(np.maximum(squares, 0.0))


def _distance_between_samples(values: np.ndarray, shift: int) -> float:
    """Return the smallest distance for a real shift at most one step from `shift`.

    All samples then fall into their spline pieces at one offset: the squared distance is a polynomial in it."""
    num_points = values.shape[1]
    half = num_points // 2
    start = num_points - half - shift
    first, stop = max(start - 1 - MARGIN, 0), min(start + half + 1 + MARGIN, num_points)
    pieces = CubicSpline(np.arange(first, stop), values[:, first:stop], axis=1).c[::-1]
    squares = []
    for begin in range(max(start - 1, 0), start + 1):
        terms = pieces[:, begin - first : begin - first + half].copy()
        terms[0] -= values[:, -half:].T
        products = np.einsum("itc,jtc->ij", terms, terms)
        powers = np.add.outer(np.arange(4), np.arange(4))
        polynomial = np.polynomial.Polynomial(np.bincount(powers.ravel(), products.ravel()))
        offsets = np.append(np.clip(polynomial.deriv().roots().real, 0, 1), [0.0, 1.0])
        squares.append(polynomial(offsets).min())
    return float(np.sqrt(max(min(squares), 0.0) / (2 * len(values) * half)))
