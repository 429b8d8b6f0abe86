"""Checks that a trajectory is worth storing: bounded, moving, and not periodic.

Each check returns a statistic and whether the trajectory passes. `check_trajectory` runs them in the order of
the `Rejection` members and stops at the first failure, so that a later check can rely on the earlier ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.fft import next_fast_len
from scipy.interpolate import CubicSpline
from scipy.optimize import fminbound

from data_generation.config import ValidityConfig

# Distance to the present, on the scale of `return_distances`, from which a signal counts as having moved away.
DEPARTURE = 0.5


class Rejection(Enum):
    """Why a candidate is not stored."""

    INVALID_VALUE = "a stored value is NaN or infinite: the observation left its domain"
    TOO_LARGE = "a value exceeds integration.max_abs: the trajectory escapes"
    OUTLIER = "a value lies more than validity.max_z standard deviations from its channel's mean"
    FIXED_POINT = "the last quarter stands still: every channel moves less than validity.min_tail_spread"
    DECAYING = "the motion dies out: the spread of the last quarter is below validity.min_tail_ratio"
    SHRINKING = "every eighth of the series spreads less than the one before, by validity.min_spread_growth"
    CONSTANT_CHANNEL = "a channel does not move: its spread is below validity.min_channel_spread"
    LIMIT_CYCLE = "the second half repeats an earlier stretch to within validity.min_return_distance"


@dataclass(frozen=True)
class Checked:
    """The statistic of every check that ran, by name, and the first failure, None where all passed."""

    statistics: dict[str, float]
    rejection: Rejection | None


def check_finite(values: np.ndarray) -> tuple[float, bool]:
    """Return the share of finite values, and whether all are."""
    share = float(np.isfinite(values).mean())
    return share, share == 1.0


def check_magnitude(values: np.ndarray, *, max_abs: float) -> tuple[float, bool]:
    """Return the largest magnitude, and whether it is within `max_abs`."""
    largest = float(np.abs(values).max())
    return largest, largest <= max_abs


def check_outliers(values: np.ndarray, *, max_z: float) -> tuple[float, bool]:
    """Return the largest distance from a channel's mean in standard deviations, and whether it is allowed."""
    largest = float(np.abs(_standardise(values)).max())
    return largest, largest <= max_z


def check_not_fixed_point(values: np.ndarray, channel_std: np.ndarray, *, min_tail_spread: float) -> tuple[float, bool]:
    """Return the spread of the last quarter in units of `channel_std`, and whether it is enough.

    The channel that moves most decides, as slow or bursting ones may rest for long.

    Args:
        channel_std: (channels,) spread of the known attractor."""
    spread = float(np.max(_tail(values).std(axis=1) / channel_std))
    return spread, spread > min_tail_spread


def check_not_decaying(values: np.ndarray, *, min_tail_ratio: float) -> tuple[float, bool]:
    """Return the spread of the last quarter relative to that of the whole, and whether it is enough.

    The channel that keeps most of its spread decides."""
    spread = values.std(axis=1)
    ratio = float(np.max(_tail(values).std(axis=1) / np.where(spread > 0, spread, 1.0)))
    return ratio, ratio > min_tail_ratio


def check_not_shrinking(values: np.ndarray, *, min_spread_growth: float) -> tuple[float, bool]:
    """Return the largest growth of the spread from one eighth to the next, and whether it is enough.

    The largest over channels and eighths: below 1 only where every channel's motion shrinks all the time, as in a
    slow spiral into a fixed point."""
    length = values.shape[1] // 8
    eighths = values[:, -8 * length :].reshape(len(values), 8, length).std(axis=2)
    earlier, later = eighths[:, :-1], eighths[:, 1:]
    growth = float(np.max(later / np.where(earlier > 0, earlier, np.inf)))
    return growth, growth > min_spread_growth


def check_channels_vary(values: np.ndarray, *, min_channel_spread: float) -> tuple[float, bool]:
    """Return the smallest spread of a channel relative to its largest magnitude, and whether it is enough.

    A channel that is 0 throughout has no spread."""
    magnitude = np.abs(values).max(axis=1)
    spread = float(np.min(values.std(axis=1) / np.where(magnitude > 0, magnitude, 1.0)))
    return spread, spread > min_channel_spread


def check_not_limit_cycle(values: np.ndarray, *, min_return_distance: float) -> tuple[float, bool]:
    """Return how closely the second half repeats an earlier stretch, and whether it does not.

    The statistic is the smallest root mean square of x(t) - x(t - p) over the second half, channels in standard
    deviations, divided by sqrt(2): 0 for a periodic signal, about 1 for an unrelated one. The shift p runs from
    the first at which the signal has moved away to half the series, and is refined between samples on a cubic
    spline, so that the period need not be a multiple of the sampling interval. Periods longer than half of the
    series cannot be seen. A signal that never moves away counts by its distance at no shift: 0."""
    standardised = _standardise(values)
    distances = return_distances(standardised)
    departed = np.flatnonzero(distances > DEPARTURE)
    start = int(departed[0]) if departed.size else 0
    shift = start + int(np.argmin(distances[start:]))
    distance = float(distances[shift])
    if shift > start > 0:
        distance = min(distance, _distance_between_samples(standardised, shift))
    return distance, distance > min_return_distance


def return_distances(values: np.ndarray) -> np.ndarray:
    """Return the distance of the second half to the stretch `p` steps earlier, for p = 0 ... up to half the length.

    Computed as a cross-correlation by FFT, in O(time log time).

    Args:
        values: (channels, time), standardised.
    Returns: (time - time // 2 + 1,), as `check_not_limit_cycle` defines it."""
    num_channels, num_points = values.shape
    half = num_points // 2
    starts = np.arange(num_points - half, -1, -1)
    size = next_fast_len(num_points + half, real=True)
    spectrum = np.fft.rfft(values, size) * np.conj(np.fft.rfft(values[:, -half:], size))
    products = np.fft.irfft(spectrum, size).sum(axis=0)[starts]
    power = np.concatenate([[0.0], np.cumsum((values**2).sum(axis=0))])
    energies = power[starts + half] - power[starts]
    squares = (energies[0] + energies - 2 * products) / (2 * num_channels * half)
    return np.sqrt(np.maximum(squares, 0.0))


def check_trajectory(
    values: np.ndarray, channel_std: np.ndarray, *, max_abs: float, thresholds: ValidityConfig
) -> Checked:
    """Run the checks on one completed trajectory until one fails.

    Args:
        values: (channels, time) as they would be stored.
        channel_std: (channels,) spread of the known attractor."""
    statistics: dict[str, float] = {}
    for rejection, name, (statistic, passed) in _checks(values, channel_std, max_abs, thresholds):
        statistics[name] = statistic
        if not passed:
            return Checked(statistics, rejection)
    return Checked(statistics, None)


def _checks(
    values: np.ndarray, channel_std: np.ndarray, max_abs: float, thresholds: ValidityConfig
) -> Iterator[tuple[Rejection, str, tuple[float, bool]]]:
    yield Rejection.INVALID_VALUE, "finite_share", check_finite(values)
    yield Rejection.TOO_LARGE, "max_abs", check_magnitude(values, max_abs=max_abs)
    yield Rejection.OUTLIER, "max_z", check_outliers(values, max_z=thresholds.max_z)
    tail = check_not_fixed_point(values, channel_std, min_tail_spread=thresholds.min_tail_spread)
    yield Rejection.FIXED_POINT, "tail_spread", tail
    ratio = check_not_decaying(values, min_tail_ratio=thresholds.min_tail_ratio)
    yield Rejection.DECAYING, "tail_ratio", ratio
    growth = check_not_shrinking(values, min_spread_growth=thresholds.min_spread_growth)
    yield Rejection.SHRINKING, "spread_growth", growth
    spread = check_channels_vary(values, min_channel_spread=thresholds.min_channel_spread)
    yield Rejection.CONSTANT_CHANNEL, "channel_spread", spread
    distance = check_not_limit_cycle(values, min_return_distance=thresholds.min_return_distance)
    yield Rejection.LIMIT_CYCLE, "return_distance", distance


def _standardise(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=1, keepdims=True)
    return (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def _tail(values: np.ndarray) -> np.ndarray:
    return values[:, -(values.shape[1] // 4) :]


def _distance_between_samples(values: np.ndarray, shift: int) -> float:
    """Return the smallest distance for a real shift less than one step from `shift`."""
    num_points = values.shape[1]
    times = np.arange(num_points - num_points // 2, num_points)
    second_half = values[:, times]
    spline = CubicSpline(np.arange(num_points), values, axis=1)

    def distance(real_shift: float) -> float:
        return float(np.sqrt(np.mean((second_half - spline(times - real_shift)) ** 2) / 2))

    return distance(float(np.asarray(fminbound(distance, shift - 1, min(shift + 1, times[0]), xtol=1e-4))))
