"""How long a forecast stays close to the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .pointwise import check_shapes, seen_values

MIN_LYAPUNOV_RATE = 0.02
"""Exponent x period at or below which a system is not taken as clearly chaotic."""


def lyapunov_unit(lyapunov_time: float | None, period: float) -> float:
    """Return the Lyapunov time to measure in, NaN where none is known or the system is not clearly chaotic."""
    if lyapunov_time is None or period / lyapunov_time <= MIN_LYAPUNOV_RATE:
        return float("nan")
    return lyapunov_time


class ValidPrediction(NamedTuple):
    """Valid prediction of each window.

    steps: (windows,) the first step, counted from 1, whose error exceeds the threshold; the forecast's length if
    none does, and then `saturated` (windows,) is True: the true value is at least this.
    """

    steps: NDArray[np.int64]
    saturated: NDArray[np.bool_]

    def time(self, *, dt: ArrayLike, unit: ArrayLike) -> NDArray[np.float64]:
        """Return the valid prediction time in units of `unit`: Lyapunov times or periods.

        dt, unit: scalar or (windows,), the system's own time; a NaN unit (no exponent known) gives NaN.
        """
        return self.steps * np.asarray(dt, dtype=np.float64) / np.asarray(unit, dtype=np.float64)


def valid_prediction(
    future_values: ArrayLike,
    forecast: ArrayLike,
    *,
    past_values: ArrayLike,
    threshold: float = 0.4,
    future_observed_mask: ArrayLike | None = None,
    past_observed_mask: ArrayLike | None = None,
) -> ValidPrediction:
    """Return when each forecast's error first exceeds `threshold` times the truth's spread.

    The error of a step is the Euclidean norm over its seen channels, divided by the norm over the same channels of
    the truth's standard deviations. The truth here is context and future together: the future alone may be shorter
    than a period, and its spread would then depend on the horizon. Steps with nothing seen are passed over.

    Args: as in `hf_tsdyn.metrics.pointwise`.
    Raises: ValueError on wrong shapes or a threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, found {threshold!r}; 0.4 and 0.2 are customary.")
    future, future_mask = seen_values(future_values, future_observed_mask)
    past, past_mask = seen_values(past_values, past_observed_mask)
    forecast = np.asarray(forecast, dtype=np.float64)
    check_shapes(future, forecast, past)

    mask = np.concatenate([past_mask, future_mask], axis=1)
    truth = np.concatenate([past, future], axis=1)
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = truth.sum(axis=1, keepdims=True) / count
    variance = (np.where(mask, truth - mean, 0.0) ** 2).sum(axis=1, keepdims=True) / count

    finite = np.isfinite(forecast)
    squares = np.where(finite, (np.where(finite, forecast, 0.0) - future) ** 2, np.inf)
    error = np.where(future_mask, squares, 0.0).sum(axis=2)
    spread = np.where(future_mask, variance, 0.0).sum(axis=2)
    exceeded = error > threshold**2 * spread  # (windows, time)
    saturated = ~exceeded.any(axis=1)
    return ValidPrediction(np.where(saturated, exceeded.shape[1], exceeded.argmax(axis=1) + 1), saturated)
