"""Checks that a trajectory is worth storing: bounded, moving, not periodic, chaotic and settled.

Each check returns a statistic and whether the trajectory passes. `check_trajectory` runs them in the order of
the `Rejection` members, cheap ones first, and stops at the first failure, so that a later check can rely on those
earlier ones that always run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.signal import find_peaks

from data_generation.acceptance import OPTIONAL_CHECKS, ValidityConfig
from data_generation.recurrence import nearest_return
from data_generation.stationarity import adf_p_value, kpss_p_value
from data_generation.zero_one_test import diffusing_share, draw_frequencies


class Rejection(Enum):
    """Why a candidate is not stored; in lower case, the name of the check."""

    INVALID_VALUE = "a stored value is NaN or infinite: the observation left its domain"
    TOO_LARGE = "a value exceeds integration.max_abs: the trajectory escapes"
    OUTLIER = "a value lies more than validity.max_z standard deviations from its channel's mean"
    FIXED_POINT = "the last quarter stands still: every channel moves less than validity.min_tail_spread"
    DECAYING = "the motion dies out: the spread of the last quarter is below validity.min_tail_ratio"
    SHRINKING = "every eighth of the series spreads less than the one before, by validity.min_spread_growth"
    CONSTANT_CHANNEL = "a channel does not move: its spread is below validity.min_channel_spread"
    LINEAR = "the channels move along one line, which explains more than validity.max_line_share of their variance"
    LIMIT_CYCLE = "the second half repeats an earlier stretch to within validity.min_return_distance"
    FEW_PEAKS = "no channel's spectrum has validity.min_num_peaks peaks of validity.min_peak_power or more"
    NOT_STATIONARY = "a channel has no constant level: ADF and KPSS agree on it at validity.max_unit_root_p"
    REGULAR = "the 0-1 test finds no chaos: in no channel do validity.min_diffusing_share of the walks diffuse"
    SMALL_EXPONENT = "the largest Lyapunov exponent is below that of clear chaos, lyapunov.min_rate a period"
    FEW_REGIMES = "switching.max_draws parameter vectors hold too few that pass all checks for the regimes of a stream"
    BIFURCATED = "of the trajectory and its unperturbed parent one is clearly chaotic and the other is not"


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


def check_not_linear(values: np.ndarray, *, max_line_share: float) -> tuple[float, bool]:
    """Return the share of variance along the first principal axis, channels standardised, and whether it is allowed.

    A single channel has no other direction to move in, and passes."""
    standardised = _standardise(values)
    # Without BLAS, whose last bits may depend on the number of threads.
    covariance = np.einsum("ct,dt->cd", standardised, standardised)
    total = float(np.trace(covariance))
    share = float(np.linalg.eigvalsh(covariance)[-1]) / total if total > 0 else 1.0
    return share, len(values) == 1 or share <= max_line_share


def check_not_limit_cycle(values: np.ndarray, *, min_return_distance: float) -> tuple[float, bool]:
    """Return the `nearest_return` of the channels in standard deviations, and whether it is far enough.

    Chaos that stays near an unstable periodic orbit for half of the series fails too: only a longer series tells it
    from a cycle, while a smaller threshold lets far more slowly settling cycles pass than it saves of such chaos."""
    distance = nearest_return(_standardise(values), resolution=min_return_distance)
    return distance, distance > min_return_distance


def check_spectrum(values: np.ndarray, *, min_num_peaks: int, min_peak_power: float) -> tuple[float, bool]:
    """Return the number of peaks of the power spectrum, and whether they are enough.

    A peak has a height and a prominence of at least `min_peak_power` times the largest power of its channel. The
    channels, less their means, are tried in turn until one has enough; otherwise the one with most peaks counts."""
    most = 0
    for channel in values:
        power = np.abs(np.fft.rfft(channel - channel.mean())) ** 2
        least = min_peak_power * power.max()
        most = max(most, len(find_peaks(power, height=least, prominence=least)[0]))
        if most >= min_num_peaks:
            break
    return float(most), most >= min_num_peaks


def check_stationary(values: np.ndarray, *, max_unit_root_p: float) -> tuple[float, bool]:
    """Return the p-value of a unit root where stationarity is rejected, and whether it is small enough.

    A channel fails only if KPSS rejects a constant level (p < `max_unit_root_p`) and ADF does not reject a unit root
    (p >= `max_unit_root_p`). Channels are tried in turn until one fails; the largest ADF p-value counts, 0 where KPSS
    rejects no channel. A channel that does not move has no level to return to: 1. It has six digits:
    the regression of a smooth series is ill-conditioned, and processes were seen to differ in the last of sixteen."""
    largest = 0.0
    for channel in values:
        if np.ptp(channel) == 0:
            return 1.0, False
        if kpss_p_value(channel) < max_unit_root_p:
            largest = max(largest, adf_p_value(channel))
        if largest >= max_unit_root_p:
            break
    return float(f"{largest:.6g}"), largest < max_unit_root_p


def check_chaotic(
    values: np.ndarray, *, min_growth_correlation: float, min_diffusing_share: float, rng: np.random.Generator
) -> tuple[float, bool]:
    """Return the share of walks of the 0-1 test that diffuse, and whether it is enough.

    The channels are tried in turn until one has enough; otherwise the largest share counts. `rng` draws the walks'
    frequencies, the same for all channels."""
    frequencies, share = draw_frequencies(rng), 0.0
    limits = {"min_correlation": min_growth_correlation, "min_share": min_diffusing_share}
    for channel in values:
        share = max(share, diffusing_share(channel, frequencies, **limits))
        if share >= min_diffusing_share:
            break
    return share, share >= min_diffusing_share


def check_trajectory(
    values: np.ndarray,
    channel_std: np.ndarray,
    *,
    max_abs: float,
    thresholds: ValidityConfig,
    rng: np.random.Generator,
) -> Checked:
    """Run the checks on one completed trajectory until one fails.

    Args:
        values: (channels, time) as they would be stored.
        channel_std: (channels,) spread of the known attractor.
        rng: of this trajectory's own; only the 0-1 test draws from it."""
    statistics: dict[str, float] = {}
    for rejection, name, check in _checks(np.ascontiguousarray(values), channel_std, max_abs, thresholds, rng):
        check_name = rejection.name.lower()
        if check_name in OPTIONAL_CHECKS and check_name not in thresholds.checks:
            continue
        statistics[name], passed = check()
        if not passed:
            return Checked(statistics, rejection)
    return Checked(statistics, None)


def _checks(
    values: np.ndarray, channel_std: np.ndarray, max_abs: float, limits: ValidityConfig, rng: np.random.Generator
) -> Iterator[tuple[Rejection, str, Callable[[], tuple[float, bool]]]]:
    yield Rejection.INVALID_VALUE, "finite_share", lambda: check_finite(values)
    yield Rejection.TOO_LARGE, "max_abs", lambda: check_magnitude(values, max_abs=max_abs)
    yield Rejection.OUTLIER, "max_z", lambda: check_outliers(values, max_z=limits.max_z)
    yield (
        Rejection.FIXED_POINT,
        "tail_spread",
        lambda: check_not_fixed_point(values, channel_std, min_tail_spread=limits.min_tail_spread),
    )
    yield (
        Rejection.DECAYING,
        "tail_ratio",
        lambda: check_not_decaying(values, min_tail_ratio=limits.min_tail_ratio),
    )
    yield (
        Rejection.SHRINKING,
        "spread_growth",
        lambda: check_not_shrinking(values, min_spread_growth=limits.min_spread_growth),
    )
    yield (
        Rejection.CONSTANT_CHANNEL,
        "channel_spread",
        lambda: check_channels_vary(values, min_channel_spread=limits.min_channel_spread),
    )
    yield Rejection.LINEAR, "line_share", lambda: check_not_linear(values, max_line_share=limits.max_line_share)
    yield (
        Rejection.LIMIT_CYCLE,
        "return_distance",
        lambda: check_not_limit_cycle(values, min_return_distance=limits.min_return_distance),
    )
    yield (
        Rejection.FEW_PEAKS,
        "num_peaks",
        lambda: check_spectrum(values, min_num_peaks=limits.min_num_peaks, min_peak_power=limits.min_peak_power),
    )
    yield (
        Rejection.NOT_STATIONARY,
        "unit_root_p",
        lambda: check_stationary(values, max_unit_root_p=limits.max_unit_root_p),
    )
    yield (
        Rejection.REGULAR,
        "diffusing_share",
        lambda: check_chaotic(
            values,
            min_growth_correlation=limits.min_growth_correlation,
            min_diffusing_share=limits.min_diffusing_share,
            rng=rng,
        ),
    )


def _standardise(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=1, keepdims=True)
    return (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def _tail(values: np.ndarray) -> np.ndarray:
    return values[:, -(values.shape[1] // 4) :]
