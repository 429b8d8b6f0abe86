"""Errors between a forecast and the truth, one number a window.

All metrics share one signature:

    metric(future_values, forecast, *, past_values, future_observed_mask=None, past_observed_mask=None)

future_values, forecast: (windows, time, channels), data units; past_values: (windows, context, channels), the
context that the forecasts continue. Masks are boolean, True = seen; NaN is unseen whatever the mask says. The mean
runs over every seen target of a window, steps and channels alike: `metric(y[:, :h], f[:, :h], ...)` is therefore
the error accumulated up to horizon h.

Returns (windows,) float64, NaN where a window has no target to score. A forecast that is not finite has an infinite
error (sMAPE 100), so that medians see a failure as worse than any forecast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[..., NDArray[np.float64]]


def seen_values(values: ArrayLike, observed_mask: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Return `(values, mask)`: float64 values with every unseen one set to 0, and the mask of seen ones."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            "values must have shape (windows, time, channels), none of them 0, found "
            f"{values.shape}; add the missing axis."
        )
    mask = ~np.isnan(values)
    if observed_mask is not None:
        observed_mask = np.asarray(observed_mask, dtype=bool)
        if observed_mask.shape != values.shape:
            raise ValueError(
                f"a mask must have the shape of its values, {values.shape}, found {observed_mask.shape}; "
                "give one truth value per value."
            )
        mask &= observed_mask
    return np.where(mask, values, 0.0), mask


def check_shapes(future_values: np.ndarray, forecast: np.ndarray, past_values: np.ndarray) -> None:
    """Raise ValueError unless the three arrays belong to the same windows and channels."""
    if forecast.shape != future_values.shape:
        raise ValueError(
            f"a forecast must have the shape of the truth, {future_values.shape}, found {forecast.shape}; "
            "forecast exactly as many steps as are scored."
        )
    if past_values.shape[::2] != future_values.shape[::2]:
        raise ValueError(
            "past_values must have the truth's number of windows and channels, "
            f"{future_values.shape[::2]}, found {past_values.shape[::2]}; pass the context of these forecasts."
        )


def masked_mean(values: np.ndarray, mask: np.ndarray) -> NDArray[np.float64]:
    """Mean over time and channels of each window where `mask`; NaN where it is False throughout."""
    count = mask.sum(axis=(1, 2))
    total = np.where(mask, values, 0.0).sum(axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _absolute_errors(
    future_values: ArrayLike,
    forecast: ArrayLike,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return |y - f|, infinite where f is not finite, and the mask of seen targets."""
    truth, mask = seen_values(future_values, future_observed_mask)
    forecast = np.asarray(forecast, dtype=np.float64)
    check_shapes(truth, forecast, np.asarray(past_values))
    finite = np.isfinite(forecast)
    return np.where(finite, np.abs(truth - np.where(finite, forecast, 0.0)), np.inf), mask


def context_std(past_values: ArrayLike, past_observed_mask: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the standard deviation of each channel's seen context, (windows, 1, channels).

    NaN for a channel that is constant or unseen, which has no scale of its own.
    """
    values, mask = seen_values(past_values, past_observed_mask)
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = values.sum(axis=1, keepdims=True) / count
    std = np.sqrt((np.where(mask, values - mean, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
    highest = np.where(mask, values, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(mask, values, np.inf).min(axis=1, keepdims=True)
    return np.where(highest > lowest, std, np.nan)


def context_step(past_values: ArrayLike, past_observed_mask: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the mean absolute one-step difference of each channel's context, (windows, 1, channels).

    Over pairs of neighbours that are both seen; NaN for a channel without any, or that never moves.
    """
    values, mask = seen_values(past_values, past_observed_mask)
    pairs = mask[:, 1:] & mask[:, :-1]
    total = np.where(pairs, np.abs(np.diff(values, axis=1)), 0.0).sum(axis=1, keepdims=True)
    step = total / np.maximum(pairs.sum(axis=1, keepdims=True), 1)
    return np.where(step > 0, step, np.nan)


def mae(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean absolute error, in data units: not comparable between systems."""
    return masked_mean(*_absolute_errors(future_values, forecast, past_values, future_observed_mask))


def mse(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean squared error, in squared data units: not comparable between systems."""
    errors, mask = _absolute_errors(future_values, forecast, past_values, future_observed_mask)
    return masked_mean(errors**2, mask)


def normalised_mae(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean absolute error, each channel in units of its context's standard deviation.

    A channel whose context is constant or unseen has no such unit and is left out of the mean.
    """
    errors, mask = _absolute_errors(future_values, forecast, past_values, future_observed_mask)
    unit = context_std(past_values, past_observed_mask)
    return masked_mean(errors / unit, mask & ~np.isnan(unit))


def normalised_mse(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean squared error, each channel in units of its context's variance.

    About 1 for the context's mean as forecast, if the future is spread as the context is. Channels as in
    `normalised_mae`.
    """
    errors, mask = _absolute_errors(future_values, forecast, past_values, future_observed_mask)
    unit = context_std(past_values, past_observed_mask)
    return masked_mean((errors / unit) ** 2, mask & ~np.isnan(unit))


def mase(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the mean absolute error, each channel in units of its context's mean absolute one-step difference.

    Depends on the sampling interval: the finer, the larger. A channel that never moves in the context, or has no
    two neighbours seen, has no such unit and is left out.
    """
    errors, mask = _absolute_errors(future_values, forecast, past_values, future_observed_mask)
    unit = context_step(past_values, past_observed_mask)
    return masked_mean(errors / unit, mask & ~np.isnan(unit))


def smape(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the symmetric mean absolute percentage error on the scale 0 to 100: 100 mean(|y - f| / (|y| + |f|)).

    Where y and f are both 0 the term is 0. Depends on where the data's zero is. Source: `dysts.metrics.smape`,
    without its small constant in the denominator; twice this is the scale 0 to 200 of other authors.
    """
    errors, mask = _absolute_errors(future_values, forecast, past_values, future_observed_mask)
    size = np.abs(np.where(mask, future_values, 0.0)) + np.abs(np.asarray(forecast, dtype=np.float64))
    share = np.divide(errors, size, out=np.zeros_like(errors), where=np.isfinite(errors) & (size > 0))
    return 100 * masked_mean(np.where(np.isinf(errors), 1.0, share), mask)
