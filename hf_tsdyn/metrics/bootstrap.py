"""Medians over systems with percentile-bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """A median and the ends of its confidence interval."""

    median: float
    low: float
    high: float


def _median(values: np.ndarray) -> NDArray[np.float64]:
    """Median over the last axis. Infinite values are allowed; minus and plus infinity meet at 0."""
    values = np.sort(values, axis=-1)
    middle = (values.shape[-1] - 1) // 2
    low, high = values[..., middle], values[..., -1 - middle]
    opposite = low == -high
    return np.where(opposite, 0.0, np.where(opposite, 0.0, low) / 2 + np.where(opposite, 0.0, high) / 2)


def bootstrap_median(
    values: ArrayLike, *, rng: np.random.Generator, num_resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Return the median of one value per system and its percentile-bootstrap interval, resampling systems.

    Args:
        values: (systems,); infinite ones are failures and count as larger than every other.
        rng: where the resamples are drawn from; equal states give equal intervals.
        confidence: share of such intervals that hold the population's median, approached as systems grow in number.
    Raises: ValueError if there is no value, or one is NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError(
            f"values must be one number per system, found shape {values.shape} with {np.isnan(values).sum()} NaN; "
            "leave out systems without a value, and say how many there are."
        )
    resamples = values[rng.integers(len(values), size=(num_resamples, len(values)))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(_median(resamples), [tail, 1 - tail], method="inverted_cdf")
    return Interval(float(_median(values)), float(low), float(high))


def bootstrap_paired_difference(
    values: ArrayLike,
    reference: ArrayLike,
    *,
    rng: np.random.Generator,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the median over systems of `values - reference`, paired by system, with its bootstrap interval.

    Negative where `values` is smaller. Two failures on one system (both infinite) count as a difference of 0.
    Arguments and errors as in `bootstrap_median`; both arrays (systems,), in the same order of systems.
    """
    values, reference = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if values.shape != reference.shape:
        raise ValueError(
            f"paired values must have one shape, found {values.shape} and {reference.shape}; give both for the "
            "same systems in the same order."
        )
    both = np.isinf(values) & (values == reference)
    difference = np.where(both, 0.0, values) - np.where(both, 0.0, reference)
    return bootstrap_median(difference, rng=rng, num_resamples=num_resamples, confidence=confidence)
