"""Where in the calendar each step of a series lies, as numbers that a model reads beside the values."""

from typing import Any

import numpy as np
from torch import Tensor

_DAYS_OF_MONTHS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_YEARS, _LEAP_YEARS, _LONG_YEARS = 400, 97, 71
"""Of the calendar's cycle: all years, those with a 29 February, and those whose weeks are numbered up to 53."""


def _moments(counts: np.ndarray, *, first: int) -> tuple[float, float]:
    """Return mean and standard deviation of numbers from `first` on that occur so many times each."""
    values = first + np.arange(len(counts))
    mean = np.average(values, weights=counts)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))


def _calendar_moments() -> dict[str, tuple[float, float]]:
    """Return mean and deviation of each feature over the 146 097 days of the Gregorian calendar's 400 years.

    They are whole weeks, so that days of the week are equally frequent."""
    days_of_months = _YEARS * _DAYS_OF_MONTHS + _LEAP_YEARS * (np.arange(12) == 1)
    last_days = 12 * _YEARS - np.array([_YEARS - _LEAP_YEARS, _YEARS, _YEARS * 5])  # of months that have 29, 30, 31
    return {
        "minute": _moments(np.ones(60), first=0),
        "hour": _moments(np.ones(24), first=0),
        "day_of_week": _moments(np.ones(7), first=0),
        "day_of_month": _moments(np.array([12 * _YEARS] * 28 + last_days.tolist()), first=1),
        "day_of_year": _moments(np.array([_YEARS] * 365 + [_LEAP_YEARS]), first=1),
        "month": _moments(days_of_months, first=1),
        "week_of_year": _moments(np.array([_YEARS] * 52 + [_LONG_YEARS]), first=1),
    }


_MOMENTS = _calendar_moments()
TIME_FEATURES = tuple(_MOMENTS)
"""The names of the features, in order."""


def time_features(times: np.ndarray) -> np.ndarray:
    """Return the place of each time in the calendar, every feature standardised over the whole calendar.

    `TIME_FEATURES` names them: minute 0-59, hour 0-23, day of the week 0-6 (Monday 0), day of the month 1-31, day of
    the year 1-366, month 1-12, ISO week of the year 1-53. Each has its mean subtracted and is divided by its standard
    deviation, both over the 400 years after which the Gregorian calendar repeats: numbers known beforehand, in which
    nothing of the series, let alone of its future, takes part.

    Args:
        times: (time,) datetime64 of any unit.
    Returns: (time, 7) float32.
    Raises: TypeError on anything but dates; ValueError on a time that is missing."""
    times = np.asarray(times)
    if times.ndim != 1 or times.dtype.kind != "M":
        raise TypeError(
            f"times must be dates, (time,) datetime64, found shape {times.shape} of {times.dtype}; convert them, as "
            "numpy.array(times, 'datetime64[s]') does."
        )
    if np.isnat(times).any():
        raise ValueError(f"every step must have a time, found none at step {np.isnat(times).argmax()}; fill it in.")
    days, months, years = (times.astype(f"datetime64[{unit}]") for unit in "DMY")
    day_of_week = (days.astype(np.int64) + 3) % 7  # 1970-01-01, day 0, was a Thursday
    thursdays = days + (3 - day_of_week)  # which lie in the year that their week belongs to
    raw = {
        "minute": times.astype("datetime64[m]").astype(np.int64) % 60,
        "hour": times.astype("datetime64[h]").astype(np.int64) % 24,
        "day_of_week": day_of_week,
        "day_of_month": (days - months).astype(np.int64) + 1,
        "day_of_year": (days - years).astype(np.int64) + 1,
        "month": (months - years).astype(np.int64) + 1,
        "week_of_year": (thursdays - thursdays.astype("datetime64[Y]")).astype(np.int64) // 7 + 1,
    }
    columns = [(raw[name] - mean) / deviation for name, (mean, deviation) in _MOMENTS.items()]
    return np.stack(columns, axis=1).astype(np.float32)


def check_time_features(features: np.ndarray | None, *, num_time_features: int) -> None:
    """Refuse data without the time features that a model takes, or with some that it cannot take.

    Args:
        features: (features, time) of a row, None where it has none.
    Raises: ValueError."""
    found = 0 if features is None else len(features)
    if found != num_time_features:
        raise ValueError(
            f"data must have the time features that a model takes, found {found} in the data, and {num_time_features} "
            f"that the model takes; switch time_features of the series {'off' if found else 'on'}, or take a model "
            f"with num_time_features {found}."
        )


def num_time_features_of(forecaster: Any) -> int:
    """Return how many time features a forecaster takes, by its own or its configuration's `num_time_features`."""
    config = getattr(forecaster, "config", None)
    return getattr(forecaster, "num_time_features", None) or getattr(config, "num_time_features", 0)


def time_feature_arguments(forecaster: Any, past_time_features: Tensor | None) -> dict[str, Tensor]:
    """Return the arguments of `forecast` beside the values: none for a forecaster that takes no time features.

    Args:
        past_time_features: (batch, time, features), of the values' steps; None where the series has none."""
    if past_time_features is None or not num_time_features_of(forecaster):
        return {}
    return {"past_time_features": past_time_features}
