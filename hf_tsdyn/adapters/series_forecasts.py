"""Point and quantile forecasts of series of any length by any forecaster: what every benchmark asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from ..forecasting import Forecaster
from ..pipeline import ForecastPipeline

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The levels at which GIFT-Eval and fev score quantiles."""


class SeriesForecast(NamedTuple):
    """What is said of one series.

    points: (prediction_length, channels), data units.
    quantiles: (prediction_length, channels, levels); None where the forecaster has no distribution.
    """

    points: np.ndarray
    quantiles: np.ndarray | None

    def at_levels(self, num_levels: int) -> np.ndarray:
        """Return the quantiles, or the points at every one of `num_levels` levels where there are none."""
        if self.quantiles is not None:
            return self.quantiles
        return np.repeat(self.points[..., None], num_levels, axis=-1)


class SeriesForecaster:
    """Forecast lists of series, those of equal shape together, from the latest steps of each.

    Args:
        forecaster: a model of this package, a baseline, or anything else with their `forecast`.
        context_length: the latest steps that are looked at; by default the most that a model uses, else all.
        num_samples: paths of each series, where quantiles come from paths.
        batch_size: series forecast at once.
    Raises: ValueError on a context or a batch of no steps or series.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        context_length: int | None = None,
        num_samples: int = 100,
        batch_size: int = 64,
    ):
        for name, value in (("context_length", context_length), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value!r}; leave it out for the default.")
        longest = getattr(forecaster, "max_context_length", None)
        self.context_length = longest if context_length is None else context_length
        self.num_samples = num_samples
        self.pipeline = ForecastPipeline(forecaster, batch_size=batch_size)

    def predict(
        self,
        series: Sequence[np.ndarray],
        names: Sequence[object],
        *,
        prediction_length: int,
        quantile_levels: Sequence[float],
        num_samples: int | None = None,
    ) -> list[SeriesForecast]:
        """Forecast each series, in the order in which they are given.

        Args:
            series: each (time, channels), data units, NaN = unseen. Never modified.
            names: of the series, for messages.
            quantile_levels: none asks for points alone.
            num_samples: paths of each series in this call.
        Raises: ValueError, naming the series, where nothing is seen in the steps that are looked at.
        """
        contexts = self._contexts(series, names)
        points = self.pipeline.predict(contexts, prediction_length=prediction_length)
        quantiles = [None] * len(points)
        if len(quantile_levels):
            # What forecasters without a distribution raise, and nothing else: `points` has run by now.
            with suppress(NotImplementedError):
                quantiles = self.pipeline.predict_quantiles(
                    contexts,
                    prediction_length=prediction_length,
                    quantile_levels=quantile_levels,
                    num_samples=self.num_samples if num_samples is None else num_samples,
                )
        return [SeriesForecast(*each) for each in zip(points, quantiles, strict=True)]

    def sample(
        self,
        series: Sequence[np.ndarray],
        names: Sequence[object],
        *,
        prediction_length: int,
        num_samples: int | None = None,
    ) -> list[np.ndarray]:
        """Sample paths of each series, (prediction_length, channels, samples), in the order in which they are given.

        Args:
            series, names, num_samples: as in `predict`.
        Raises: NotImplementedError where the forecaster samples no paths; else as `predict`.
        """
        return self.pipeline.predict_samples(
            self._contexts(series, names),
            prediction_length=prediction_length,
            num_samples=self.num_samples if num_samples is None else num_samples,
        )

    def _contexts(self, series: Sequence[np.ndarray], names: Sequence[object]) -> list[np.ndarray]:
        """The steps of each series that are looked at."""
        contexts = [values[-self.context_length :] if self.context_length else values for values in series]
        unseen = [name for name, values in zip(names, contexts, strict=True) if np.isnan(values).all()]
        if unseen:
            raise ValueError(
                f"every series must have a value among the {self.context_length or 'given'} steps of its context, "
                f"found none in {unseen[:5]}; drop them, or give a longer context."
            )
        return contexts
