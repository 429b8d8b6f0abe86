"""Scores of quantile forecasts, one number a window.

All metrics share the signature of the point errors, with levels:

    metric(future_values, quantiles, *, quantile_levels, past_values,
           future_observed_mask=None, past_observed_mask=None)

quantiles: (windows, time, channels, levels), data units, in the order of `quantile_levels`, which increase between 0
and 1. Everything else is as in `hf_tsdyn.metrics.pointwise`. A quantile that is not finite has an infinite loss and
width, and neither covers nor bounds any target.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .pointwise import check_shapes, context_std, masked_mean, seen_values


def check_increasing_levels(quantile_levels: ArrayLike) -> NDArray[np.float64]:
    """Return the levels as an array; ValueError unless they increase strictly between 0 and 1."""
    levels = np.asarray(quantile_levels, dtype=np.float64)
    if levels.ndim != 1 or not len(levels) or not np.all(np.diff(levels, prepend=0.0, append=1.0) > 0):
        raise ValueError(
            f"quantile_levels must increase strictly between 0 and 1, found {quantile_levels}; sort them, each once."
        )
    return levels


def central_intervals(quantile_levels: ArrayLike) -> dict[float, tuple[int, int]]:
    """Return the places `(low, high)` of each pair of levels q and 1 - q by its nominal coverage, widest first."""
    levels = check_increasing_levels(quantile_levels).tolist()
    return {
        round(levels[high] - levels[low], 9): (low, high)
        for low, high in combinations(range(len(levels)), 2)
        if abs(levels[low] + levels[high] - 1) < 1e-9
    }


def _check_quantiles(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the truth, the mask of seen targets, the quantiles in double precision, and their levels."""
    truth, mask = seen_values(future_values, future_observed_mask)
    levels = check_increasing_levels(quantile_levels)
    quantiles = np.asarray(quantiles, dtype=np.float64)
    if quantiles.shape != (*truth.shape, len(levels)):
        raise ValueError(
            f"quantiles must have the shape of the truth and one axis for the levels, {(*truth.shape, len(levels))}, "
            f"found {quantiles.shape}; forecast exactly the steps and levels that are scored."
        )
    check_shapes(truth, quantiles[..., 0], np.asarray(past_values))
    return truth, mask, quantiles, levels


def _quantile_loss(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Twice the pinball loss, mean over levels: (windows, time, channels), infinite where a quantile is not finite."""
    finite = np.isfinite(quantiles)
    error = truth[..., None] - np.where(finite, quantiles, 0.0)
    return 2 * np.where(finite, np.maximum(levels * error, (levels - 1) * error), np.inf).mean(axis=-1)


def weighted_quantile_loss(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    *,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return twice the pinball loss, mean over levels, over the sum of absolute targets of the window.

    Depends on where the data's zero is, and is NaN where every target is 0: not for series that are centred. Source:
    gluonts' `mean_weighted_sum_quantile_loss`, GIFT-Eval's criterion, which sums over all windows before it divides.
    """
    truth, mask, quantiles, levels = _check_quantiles(
        future_values, quantiles, quantile_levels, past_values, future_observed_mask
    )
    loss, size = masked_mean(_quantile_loss(truth, quantiles, levels), mask), masked_mean(np.abs(truth), mask)
    return np.divide(loss, size, out=np.full(len(loss), np.nan), where=size > 0)


def normalised_crps(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    *,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return twice the pinball loss, mean over levels, each channel in units of its context's standard deviation.

    With many evenly spaced levels this is the continuous ranked probability score; with the deciles alone, which
    leave out the tails, it is about 9 % above that of a correct normal forecast. The absolute error where the median
    is the only level. Channels as in `normalised_mae`.
    """
    truth, mask, quantiles, levels = _check_quantiles(
        future_values, quantiles, quantile_levels, past_values, future_observed_mask
    )
    unit = context_std(past_values, past_observed_mask)
    return masked_mean(_quantile_loss(truth, quantiles, levels) / unit, mask & ~np.isnan(unit))


def sample_crps(
    future_values: ArrayLike,
    samples: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the continuous ranked probability score of samples (windows, time, channels, samples), in context std.

    E|X - y| - E|X - X'| / 2 over the samples with replacement, which is the quantile loss of the sorted samples at
    levels (k - 1/2) / n. Channels as in `normalised_mae`.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64), axis=-1)
    num_samples = ordered.shape[-1]
    return normalised_crps(
        future_values,
        ordered,
        quantile_levels=(np.arange(num_samples) + 0.5) / num_samples,
        past_values=past_values,
        future_observed_mask=future_observed_mask,
        past_observed_mask=past_observed_mask,
    )


def share_below(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    *,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the share of seen targets at or below each quantile, (windows, levels): its level, if calibrated."""
    truth, mask, quantiles, _ = _check_quantiles(
        future_values, quantiles, quantile_levels, past_values, future_observed_mask
    )
    below = np.isfinite(quantiles) & (truth[..., None] <= quantiles)
    return np.stack([masked_mean(below[..., place], mask) for place in range(below.shape[-1])], axis=1)


def _bounds(quantiles: np.ndarray, quantile_levels: ArrayLike, nominal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and the high quantile of an interval, NaN where either is not finite."""
    intervals = central_intervals(quantile_levels)
    if round(nominal, 9) not in intervals:
        raise ValueError(
            f"nominal must be the coverage of two of the levels, {list(intervals)}, found {nominal!r}; forecast the "
            f"levels {(1 - nominal) / 2:g} and {(1 + nominal) / 2:g}."
        )
    low, high = (quantiles[..., place] for place in intervals[round(nominal, 9)])
    finite = np.isfinite(low) & np.isfinite(high)
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


def interval_coverage(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    *,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    nominal: float = 0.8,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the share of seen targets in the central interval of coverage `nominal`, its bounds included.

    Raises: ValueError also if the levels hold no such pair.
    """
    truth, mask, quantiles, _ = _check_quantiles(
        future_values, quantiles, quantile_levels, past_values, future_observed_mask
    )
    low, high = _bounds(quantiles, quantile_levels, nominal)
    return masked_mean((low <= truth) & (truth <= high), mask)


def interval_width(
    future_values: ArrayLike,
    quantiles: ArrayLike,
    *,
    quantile_levels: ArrayLike,
    past_values: ArrayLike,
    nominal: float = 0.8,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean width at seen targets of the central interval of coverage `nominal`, in context std.

    Channels as in `normalised_mae`. Raises: ValueError also if the levels hold no such pair.
    """
    _, mask, quantiles, _ = _check_quantiles(
        future_values, quantiles, quantile_levels, past_values, future_observed_mask
    )
    low, high = _bounds(quantiles, quantile_levels, nominal)
    unit = context_std(past_values, past_observed_mask)
    width = np.where(np.isnan(high), np.inf, high - low)
    return masked_mean(width / unit, mask & ~np.isnan(unit))
