"""Scores of a model at one place: its errors over all windows of a split, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .series_evaluation import WindowErrors, bootstrap_mean, default_block_length

INTERVAL_METRICS = ("mse", "mae")
"""What has intervals."""


@dataclass(frozen=True)
class SeriesRow:
    """The mean error of one trained model over all windows of a split, `metric` as `WindowErrors` names it.

    seed: None of what has none, closed forms and baselines.
    """

    model: str
    dataset: str
    split: str
    horizon: int
    seed: int | None
    metric: str
    value: float


@dataclass(frozen=True)
class SeriesInterval:
    """The mean over windows of a model's error, less that of `baseline` if there is one, with its interval.

    The errors of a window are the means over seeds: the interval tells how sure the difference is of the models that
    were trained, on other months alike; not what other seeds would give.
    """

    model: str
    baseline: str | None
    dataset: str
    split: str
    horizon: int
    metric: str
    mean: float
    low: float
    high: float
    num_seeds: int

    @property
    def verdict(self) -> str:
        """What the interval of a difference says: "better", "worse" or "undecided"."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "undecided"

    @property
    def text(self) -> str:
        """The mean and the ends of the interval, each with its sign."""
        return "{} [{}, {}]".format(*signed(self.mean, self.low, self.high))


def rows_of_errors(
    errors: WindowErrors, *, model: str, dataset: str, split: str, horizon: int, seed: int | None
) -> list[SeriesRow]:
    """Return a row for every metric of which there is something seen, rounded to 8 digits."""
    means = {metric: errors.mean(metric) for metric in errors.metrics}
    return [
        SeriesRow(model, dataset, split, horizon, seed, metric, float(f"{value:.8g}"))
        for metric, value in means.items()
        if not np.isnan(value)
    ]


def intervals_of_errors(
    errors: Sequence[WindowErrors],
    baseline_errors: Sequence[WindowErrors] | None = None,
    *,
    model: str,
    baseline: str | None = None,
    dataset: str,
    split: str,
    horizon: int,
    **bootstrap: Any,
) -> list[SeriesInterval]:
    """Return the intervals of a model's errors, or of their paired differences to a baseline's, means over seeds.

    There is none of a metric that fewer than two windows have.

    Args:
        errors, baseline_errors: of each seed, on the same windows.
        bootstrap: `num_resamples`, `confidence` and `seed` of `bootstrap_mean`.
    Raises: ValueError if the numbers of windows differ.
    """
    intervals = []
    for metric in INTERVAL_METRICS:
        values = _seed_mean_of_windows(errors, metric)
        if baseline_errors is not None:
            reference = _seed_mean_of_windows(baseline_errors, metric)
            if len(reference) != len(values):
                raise ValueError(
                    f"{model!r} and {baseline!r} must be scored on the same windows to be compared, found "
                    f"{len(values)} and {len(reference)} at {horizon} on {dataset!r}; give them one split and horizon."
                )
            values = values - reference
        values = values[~np.isnan(values)]
        if len(values) < 2:
            continue
        length = default_block_length(horizon, len(values))
        found = bootstrap_mean(values, block_length=length, **bootstrap)
        mean, low, high = (float(f"{number:.8g}") for number in found)
        place = (model, baseline, dataset, split, horizon, metric)
        intervals.append(SeriesInterval(*place, mean, low, high, num_seeds=len(errors)))
    return intervals


def _seed_mean_of_windows(errors: Iterable[WindowErrors], metric: str) -> np.ndarray:
    return np.mean([each.of_windows(metric) for each in errors], axis=0)


def signed(*differences: float) -> list[str]:
    """Return differences with their signs and as many decimals that none but 0 shows as 0.

    All have as many: the largest three significant digits at least, the smallest one.
    """
    places = [-math.floor(math.log10(abs(each))) for each in differences if each]
    decimals = max(min(places) + 2, max(places), 0) if places else 0
    return [f"{each:+.{decimals}f}" for each in differences]
